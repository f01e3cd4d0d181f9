"""How much of a private video leaks through federated-learning updates.

  import jax, vidleak_jax as vl

  victim = vl.Victim.from_flax(module, clip_shape=(8, 32, 32, 3),
                               num_classes=101)
  params = victim.init(jax.random.key(0))
  leak = vl.observe(victim, params, clips, labels)  # or a real vl.Leak(...)
  found = vl.attack(victim, leak, 'auto', key=jax.random.key(1))
  scores = vl.evaluate(found, clips)

Data flows one way: `data` -> `clients` -> `leaks` -> `attacks` -> `superres` ->
`evaluation`. Client, attacker and judge do not know each other.
"""

from vidleak_jax import attacks, leaks, victims
from vidleak_jax._version import __version__
from vidleak_jax.api import (
    AttackResult,
    Scores,
    applicable,
    attack,
    evaluate,
)
from vidleak_jax.clients import FedAvg, FedSGD, defenses, observe
from vidleak_jax.errors import UserError
from vidleak_jax.experiments.audit import run
from vidleak_jax.experiments.leaking import Audit
from vidleak_jax.leaks import load as load_leak
from vidleak_jax.runtime.session import Session, session
from vidleak_jax.specs import DefenseSpec, VictimSpec
from vidleak_jax.types import Leak, PublicInfo, Victim

__all__ = [
    'AttackResult', 'Audit', 'DefenseSpec', 'FedAvg', 'FedSGD', 'Leak',
    'PublicInfo', 'Scores', 'Session', 'UserError', 'Victim', 'VictimSpec',
    '__version__', 'applicable', 'attack', 'attacks', 'defenses', 'evaluate',
    'leaks', 'load_leak', 'observe', 'run', 'session', 'victims',
]

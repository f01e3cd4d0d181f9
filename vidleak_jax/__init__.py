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

import importlib
from typing import TYPE_CHECKING, Any

from vidleak_jax._version import __version__

if TYPE_CHECKING:
  from vidleak_jax import attacks, leaks, victims
  from vidleak_jax.api import (
      AttackResult,
      Scores,
      applicable,
      attack,
      evaluate,
  )
  from vidleak_jax.attacks.self_check import Finding, self_check
  from vidleak_jax.clients import FedAvg, FedSGD, defenses
  from vidleak_jax.clients.observe import observe
  from vidleak_jax.errors import UserError
  from vidleak_jax.experiments.audit import run
  from vidleak_jax.experiments.leaking import Audit
  from vidleak_jax.leaks import load as load_leak
  from vidleak_jax.runtime.session import Session, session
  from vidleak_jax.specs import DefenseSpec, VictimSpec
  from vidleak_jax.types import Leak, PublicInfo, Victim

__all__ = [
    'AttackResult', 'Audit', 'DefenseSpec', 'FedAvg', 'FedSGD', 'Finding',
    'Leak', 'PublicInfo', 'Scores', 'Session', 'UserError', 'Victim',
    'VictimSpec', '__version__', 'applicable', 'attack', 'attacks', 'defenses',
    'evaluate', 'leaks', 'load_leak', 'observe', 'run', 'self_check',
    'session', 'victims',
]

# Where each name stands. It is imported when it is first used, so that a part,
# such as the engine, needs no library that only another part needs.
_PLACES = {
    'api': ('AttackResult', 'Scores', 'applicable', 'attack', 'evaluate'),
    'attacks.self_check': ('Finding', 'self_check'),
    'clients': ('FedAvg', 'FedSGD', 'defenses', 'observe'),
    'errors': ('UserError',),
    'experiments.audit': ('run',),
    'experiments.leaking': ('Audit',),
    'leaks.storage': ('load',),
    'runtime.session': ('Session', 'session'),
    'specs': ('DefenseSpec', 'VictimSpec'),
    'types': ('Leak', 'PublicInfo', 'Victim'),
}
_PARTS = ('attacks', 'leaks', 'victims')


def __getattr__(name: str) -> Any:
  if name in _PARTS:
    return importlib.import_module(f'{__name__}.{name}')
  wanted = 'load' if name == 'load_leak' else name
  for place, names in _PLACES.items():
    if wanted in names and name in __all__:
      found = getattr(importlib.import_module(f'{__name__}.{place}'), wanted)
      globals()[name] = found
      return found
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted(__all__)

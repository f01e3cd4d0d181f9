"""From a leak to a recovery; never sees a data set or the truth.

`registry.ATTACKS` lists every attack. `vl.attacks.NAME(...)` makes one with
its options, and `vl.attack` runs it.
"""

from vidleak_jax.attacks.base import Attack, Effort, Outcome, Problem
from vidleak_jax.attacks.matching.iterative import Iterative
from vidleak_jax.attacks.registry import ATTACKS
from vidleak_jax.attacks.residual import gradient_residual
from vidleak_jax.attacks.solve import solve
from vidleak_jax.attacks.spec import AttackSpec, shape_of

__all__ = ['ATTACKS', 'Attack', 'AttackSpec', 'Effort', 'Iterative',
           'Outcome', 'Problem', 'gradient_residual',
           'shape_of', 'solve']

# vl.attacks.ig(...) and its like: one a line of the registry. Where a folder
# has the name of an attack, the attack goes first.
globals().update(ATTACKS)

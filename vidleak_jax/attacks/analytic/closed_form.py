"""The analytic attack that fits a network's kind, whichever that is."""

import dataclasses
import time
from typing import ClassVar

from vidleak_jax.attacks.analytic import rgap
from vidleak_jax.attacks.analytic.rgap import RGap
from vidleak_jax.attacks.analytic.solver import Analytic
from vidleak_jax.attacks.analytic.subspace import Subspace
from vidleak_jax.attacks.analytic.transformer import TransformerEmbedding
from vidleak_jax.attacks.base import Effort, Outcome, Problem, needs_one_clip
from vidleak_jax.attacks.matching.feature_matching import FeatureMatching
from vidleak_jax.options import option
from vidleak_jax.types import Leak, Victim


@dataclasses.dataclass(frozen=True)
class ClosedForm(Analytic):
  """`transformer`, `rgap` or `subspace`; feature matching where it stops.

  Unlike `rgap` it also answers where equations are fewer than unknowns, and
  says in `closed_form_note` what is open.
  """
  name: ClassVar[str] = 'closed_form'
  cost: ClassVar[int] = 25
  sharpen_steps: int = option(0, 'of the subspace attack', low=0, high=10**6)

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """See `Attack.requires`."""
    return needs_one_clip(leak) + self._choice(victim, leak)[1]

  def run(self, problem: Problem, effort: Effort) -> Outcome:
    """See `Attack.run`."""
    self.check(problem.victim, problem.leak)
    attack, _ = self._choice(problem.victim, problem.leak)
    if not isinstance(attack, RGap):
      return attack.run(problem, effort)
    began = time.perf_counter()
    solution, walk = rgap.solve_chain(problem)
    if not walk.stopped:
      return attack.finish(problem, solution, began)
    # An activation without inverse: the deepest activation is the target.
    leak = problem.leak.replace(labels=solution.labels)
    outcome = FeatureMatching().run(problem._replace(leak=leak), effort)
    return outcome._replace(findings=outcome.findings | {
        'closed_form': solution.rows, 'closed_form_note': solution.note})

  def _choice(self, victim: Victim, leak: Leak) -> tuple[Analytic, list[str]]:
    """The attack for such a network, and why none fits."""
    shared = {name: getattr(self, name) for name in (
        'polish_steps', 'polish_inner_steps', 'whole_levels')}
    if victim.tokens is not None:
      return TransformerEmbedding(**shared), []
    if victim.layers:
      return RGap(**shared), rgap.needs_chain(victim)
    subspace = Subspace(**shared, sharpen_steps=self.sharpen_steps)
    return subspace, subspace.requires(victim, leak)

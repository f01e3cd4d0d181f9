"""What an attack is: a problem in, an outcome out.

An attack is a frozen value: its options, checked when it is made. It sees a
`Problem`, which holds no truth.
"""

import dataclasses
from typing import ClassVar, NamedTuple

from vidleak_jax.options import Options, option
from vidleak_jax.runtime.session import Session
from vidleak_jax.types import Leak, PRNGKey, Recovery, Row, UserError, Victim

CUT = 'stopped_early'  # in findings: why an answer is only the best so far


class Problem(NamedTuple):
  """All that an attacker has."""
  victim: Victim
  leak: Leak
  key: PRNGKey  # all the attack's randomness; consumed
  session: Session


class Cost(NamedTuple):
  """A trial's share of the time; earlier runs of the workdir included."""
  seconds_compile: float = 0.0
  seconds_attack: float = 0.0
  num_steps: int = 0
  restart_steps: int = 0  # of all updates and restarts


class Outcome(NamedTuple):
  """What came of an attack."""
  recovery: Recovery
  cost: Cost
  # more for result.json: ranks, residuals, notes, what was tried
  findings: Row


@dataclasses.dataclass(frozen=True)
class Effort(Options):
  """How much an attack may spend; analytic attacks have no restarts."""
  num_restarts: int = option(
      1, 'independent starts of each update', low=1, high=10**9)
  num_steps: int | None = option(
      None, "of each restart; None: the attack's own", low=1, high=10**9)
  chunk_steps: int = option(50, 'between logs and checkpoints', low=1)
  keep_checkpoints: int = option(2, 'the newest; 0: all', low=0)
  halve_at: tuple[int, ...] = option(
      (), 'after each of these steps the worse half of the restarts is dropped '
      'and the others inherit its steps', low=1)


@dataclasses.dataclass(frozen=True)
class Attack(Options):
  """Base of all attacks.

  Subclasses are registered in `attacks.registry`, a line each.
  """
  name: ClassVar[str]
  cost: ClassVar[int]  # `auto` tries the cheaper first

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """Returns the reasons why it does not apply; none where it does."""
    raise NotImplementedError

  def run(self, problem: Problem, effort: Effort) -> Outcome:
    """Returns what the attack recovers.

    Raises:
      UserError: where it does not apply, or finds nothing it can answer.
    """
    raise NotImplementedError

  def check(self, victim: Victim, leak: Leak) -> None:
    """Raises UserError with the reasons why it does not apply."""
    reasons = self.requires(victim, leak)
    if reasons:
      raise UserError(f'The attack {self.name} does not apply: '
                      f'{"; ".join(reasons)}. Choose another attack.name, or '
                      'auto for those that do.')


def needs_one_clip(leak: Leak) -> list[str]:
  """Returns why a leak is not one of single clips' gradients."""
  reasons = needs_fedsgd(leak)
  if leak.public.batch_size != 1:
    reasons.append(f'it needs one clip an update, this leak has '
                   f'{leak.public.batch_size}')
  return reasons


def needs_fedsgd(leak: Leak) -> list[str]:
  """Returns why a leak is not one of gradients."""
  algorithm = leak.public.federated.algorithm
  return ([] if algorithm == 'fedsgd' else
          [f'it needs FedSGD, this leak has {algorithm}'])


def needs_head(victim: Victim) -> list[str]:
  """Returns why the label cannot be read off the last layer."""
  if victim.head is None:
    return ['it needs a last dense layer, whose gradient shows the label; none '
            'was found, name it by Victim.from_flax(..., head=PATH)']
  return []

"""An update explained is not a clip recovered."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests.attacks.test_auto import Stub
from tests.helpers import problem, small_clips
from vidleak_jax.attacks import Effort, ambiguity
from vidleak_jax.attacks.auto import PARTLY, RECOVERED, Auto
from vidleak_jax.attacks.residual import gradient_residual
from vidleak_jax.clients import FedSGD, observe
from vidleak_jax.types import Recovery, Victim

SHAPE = (2, 4, 4, 3)
LABELS = np.array([1, 4], np.int32)


class Net(nn.Module):
  """Sees `width` numbers of each position, and of those their mean."""
  width: int

  @nn.compact
  def __call__(self, clips):
    x = nn.tanh(nn.Conv(self.width, (1, 1, 1), name='stem')(clips))
    return nn.Dense(6)(x.reshape(len(x), -1))


def _problem(width):
  victim = Victim.from_flax(Net(width), SHAPE, 6)
  clips = small_clips(2)  # as `Stub` answers
  leak = observe(victim, victim.init(jax.random.key(0)), clips, LABELS,
                 client=FedSGD(labels_known=True))
  return problem(victim, leak), clips


@pytest.mark.parametrize(('width', 'hidden'), [(1, True), (8, False)])
def test_what_an_update_does_not_show(width, hidden):
  case, clips = _problem(width)
  residual = gradient_residual(case.victim, case.leak, clips[:, None],
                               LABELS[:, None])
  answer = Recovery(clips[:, None], LABELS[:, None], np.zeros(2), None,
                    residual)
  shares = ambiguity.undetermined(case, answer, 3, 100)
  # Of three colours one mixture is seen, and the kernel's three sums: 61 of 96.
  assert (np.all((0.45 < shares) & (shares < 0.8)) if hidden
          else np.all(shares < 1e-3))
  assert ambiguity.may_be_ambiguous(case) == hidden


def test_such_an_answer_is_not_called_recovered():
  case, _ = _problem(1)
  found = Auto().choose(case, Effort(), [Stub()])
  assert max(found.findings['gradient_residual_per_update']) < 1e-5
  assert found.findings['verdict_per_update'] == [PARTLY, PARTLY]
  assert min(found.findings['undetermined_per_update']) > 0.45
  generous = Auto(ambiguous=1.0).choose(case, Effort(), [Stub()])
  assert generous.findings['verdict'] == RECOVERED

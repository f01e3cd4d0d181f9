"""How many programs an attack compiles: what a user waits for."""

import re

import jax
import numpy as np
import pytest

import vidleak_jax as vl
from tests.helpers import dense_victim
from vidleak_jax.runtime import programs


@pytest.fixture
def compiled(caplog):
  """Returns the names of what was compiled since the last call."""
  with jax.log_compiles():
    def names():
      found = [match[1] for record in caplog.records if (match := re.match(
          r'Finished XLA compilation of (\S+)', record.getMessage()))]
      caplog.clear()
      return found
    yield names


def test_an_attack_compiles_four_programs_and_its_like_none(compiled):
  programs.default().clear()
  # A width of its own: other tests have compiled nothing of this shape.
  victim, rng = dense_victim(width=37), np.random.default_rng(0)
  params = victim.init(jax.random.key(0))

  def run(seed):
    clips = rng.uniform(size=(1, *victim.clip_shape)).astype(np.float32)
    leak = vl.observe(victim, params, clips, [seed])
    compiled()
    vl.attack(victim, leak, vl.attacks.ig(num_steps=2 + seed),
              key=jax.random.key(seed), num_restarts=2)
    return compiled()

  first = run(0)
  # Taking one update of many is a program for each shape of a parameter.
  large = [name for name in first if 'squeeze' not in name]
  # Whether the layer graph is the network, the start, the step, the residual.
  assert 3 <= len(large) <= 4 and large[-1] == 'jit(measure)', large
  assert len(first) <= len(large) + len(jax.tree.leaves(params))
  assert run(0) == []  # another clip and seed

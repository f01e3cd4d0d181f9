"""One program for all that is equal but for numbers."""

import jax
import numpy as np
import pytest
from jax.tree_util import Partial

from vidleak_jax import victims
from vidleak_jax.attacks.analytic import per_message, rgap
from vidleak_jax.attacks.analytic.polish import polish
from vidleak_jax.attacks.matching import feature_targets
from vidleak_jax.clients import observe
from vidleak_jax.runtime.programs import ProgramCache

SHAPE = (1, 8, 8, 3)
GREY = np.full((1, 1, *SHAPE), 0.5)


@pytest.fixture
def traced(monkeypatch):
  """The keys that a program was traced for, in order."""
  found, compiling = [], per_message._compile

  def spied(*args):
    found.append(args[0])
    return compiling(*args)
  monkeypatch.setattr(per_message, '_compile', spied)
  return found


def lenet_leak(seed):
  victim = victims.build('lenet', SHAPE, 7, preset='tiny')
  clip = np.random.default_rng(seed).uniform(size=(1, *SHAPE))
  return victim, observe(victim, victim.init(jax.random.key(seed)),
                         clip.astype(np.float32), [seed])


def test_equal_keys_and_shapes_are_traced_once(traced):
  programs = ProgramCache()
  for scale, width in ((2.0, 4), (3.0, 4), (2.0, 5)):
    found = per_message.over_messages(
        lambda scale, row: scale * row.sum(), np.float64(scale),
        np.ones((3, width)), key='sum', programs=programs)
    np.testing.assert_array_equal(found, np.full(3, scale * width))
  assert len(traced) == len(programs) == 2  # one for each shape


def test_a_step_without_a_key_stands_for_itself(traced):
  programs = ProgramCache()
  for step in (lambda c, row: row.sum(), lambda c, row: row.max()):
    found = per_message.over_messages(
        step, np.zeros(()), np.ones((2, 4)), programs=programs)
  np.testing.assert_array_equal(found, [1, 1])
  assert len(traced) == 2


def test_a_polish_of_an_equal_victim_traces_nothing_again(traced):
  for seed in (1, 2):
    victim, leak = lenet_leak(seed)
    found = polish(victim.loss, leak, GREY, np.array([[seed]]), num_steps=0,
                   key=victim.key)
    assert found.before.shape == (1,) and found.before > 0
  assert len(traced) == 1


@pytest.mark.parametrize('solve', [
    lambda victim, leak: rgap.walk_down(victim, leak),
    lambda victim, leak: feature_targets.targets(
        victim.layers, [leak], key=victim.key),
])
def test_layers_of_equal_victims_share_their_programs(solve, monkeypatch):
  keys = []

  def spied(*args, key):
    keys.append(key)
    raise StopIteration
  monkeypatch.setattr(per_message, 'over_messages', spied)
  for seed in (1, 2):
    with pytest.raises(StopIteration):
      solve(*lenet_leak(seed))
  one, other = keys
  assert one == other and hash(one) == hash(other)


def test_weights_of_a_loss_are_arguments_and_no_constants(traced, monkeypatch):
  """Of the frozen extractor, 100 MB in a ResNet-50."""
  victim, leak = lenet_leak(1)
  texts, compiling = [], per_message._compile

  def spied(step, batch, constants, share):
    texts.append(jax.make_jaxpr(step)(
        constants, jax.tree.map(lambda leaf: leaf[0], share)))
    return compiling(step, batch, constants, share)
  monkeypatch.setattr(per_message, '_compile', spied)
  large = np.ones((50, 100), np.float32)
  loss = Partial(lambda large, *args: large.mean() * victim.loss(*args), large)
  polish(loss, leak, GREY, np.array([[1]]), num_steps=0)
  program, = texts
  assert all(np.size(const) < large.size for const in program.consts)
  assert large.shape in [var.aval.shape for var in program.jaxpr.invars]

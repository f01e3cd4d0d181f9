"""Layer peeling where no kernel of the upper blocks crosses frames."""

import itertools

import flax.linen as nn
import jax
import numpy as np
import pytest

import vidleak_jax as vl
from vidleak_jax.attacks.analytic.peeling import frames
from vidleak_jax.attacks.analytic.peeling.attack import Peeling
from vidleak_jax.attacks.analytic.peeling.needs import rounds_used
from vidleak_jax.attacks.analytic.peeling.reading import blocks_of
from vidleak_jax.attacks.base import Problem
from vidleak_jax.errors import OutOfTime
from vidleak_jax.runtime.session import session
from vidleak_jax.types import UserError, Victim

SHAPE = (4, 8, 8, 3)


class Unit(nn.Module):
  width: int
  kernel: tuple[int, ...]
  stride: int = 1

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(self.width, self.kernel, (1, self.stride, self.stride),
                [(k // 2, k // 2) for k in self.kernel], use_bias=False)(x)
    return nn.BatchNorm(use_running_average=True)(x)


class Mixed(nn.Module):
  """A residual network; `times` are its kernels' frames, stem first."""
  times: tuple[int, ...]

  @nn.compact
  def __call__(self, x):
    stem, *times = self.times
    x = nn.relu(Unit(48, (stem, 3, 3), 2)(x))
    for i, time in enumerate(times):
      kernel, width, stride = (time, 3, 3), 48 + 16 * (i > 0), 1 + (i > 0)
      y = nn.relu(Unit(width, kernel, stride)(x))
      y = Unit(width, kernel)(y)
      x = nn.relu(y + (Unit(width, (1, 1, 1), stride)(x) if i else x))
    return nn.Dense(5)(x.mean((1, 2, 3)))


def moving_clip(seed=1):
  """A pattern that moves, and grows brighter."""
  coarse = jax.random.uniform(jax.random.key(seed), (3, 5, 3))
  wide = np.asarray(jax.image.resize(coarse, (8, 14, 3), 'cubic').clip(0, 1))
  return np.stack([wide[:, 2 * t:2 * t + 8] * (0.8 + 0.06 * t)
                   for t in range(4)])[None].astype(np.float32)


def recovered(module, clips):
  victim = Victim.from_flax(module, SHAPE, 5)
  leak = vl.observe(victim, victim.init(jax.random.key(0)), clips,
                    [3, 1][:len(clips)], client=vl.FedSGD(per='batch'))
  attack = Peeling()
  assert attack.requires(victim, leak) == []
  return attack.solve(Problem(victim, leak, jax.random.key(1), session()))


def psnr(a, b):
  return -10 * np.log10(np.mean((a - b) ** 2))


@pytest.mark.parametrize('times', [
    (3, 3, 1),  # the equations of the first block tell the order
    (3, 1, 1),  # the pixels do
])
def test_frames_in_any_order_are_put_in_theirs(times):
  network = blocks_of(Victim.from_flax(Mixed(times), SHAPE, 5).graph)
  assert network.num_loose == 3 - sum(time > 1 for time in times)
  for clip in (moving_clip(), moving_clip()[:, ::-1]):
    found = recovered(Mixed(times), clip)
    assert psnr(found.clips[0, 0], clip[0]) > 50 and found.note == ''


def test_the_frames_of_a_batch_are_put_in_their_orders():
  clips = np.concatenate([moving_clip(1), moving_clip(2)[:, ::-1]])
  found = recovered(Mixed((3, 1, 1)), clips)
  np.testing.assert_array_equal(found.labels, [[1, 3]])
  assert psnr(found.clips[0, 0], clips[1]) > 40
  assert psnr(found.clips[0, 1], clips[0]) > 40


def test_frames_that_are_alike_are_not_told_apart():
  still = np.repeat(moving_clip()[:, :1], 4, axis=1)
  with pytest.raises(UserError, match='look alike'):
    recovered(Mixed((3, 1, 1)), still)


def test_one_round_alone_is_used():
  victim = Victim.from_flax(Mixed((3, 1, 1)), SHAPE, 5)
  leak = vl.observe(victim, victim.init(jax.random.key(0)), moving_clip(), [3],
                    num_rounds=2, server_learning_rate=0.1)
  # Its frames come in another order than those of the first.
  assert len(rounds_used(leak, blocks_of(victim.graph))) == 1


def test_the_shortest_path_is_the_order():
  rng = np.random.default_rng(0)
  walk = np.cumsum(rng.normal(size=(7, 200)), axis=0)
  shuffled = rng.permutation(7)
  value = np.repeat(walk[shuffled], 4, axis=0)  # four positions a frame
  found = list(itertools.islice(frames.orders(value, (1, 7, 2, 2)), 12))
  assert len({tuple(order) for order in found}) == 12
  ordered = [value[order][::4] for order in found[:2]]
  if not np.array_equal(ordered[0], walk):
    ordered.reverse()
  np.testing.assert_array_equal(ordered, [walk, walk[::-1]])


class Frames(nn.Module):
  """A residual network of single frames and the mean of their features."""

  @nn.compact
  def __call__(self, x):
    batch, time = x.shape[:2]
    x = x.reshape(-1, *x.shape[2:])
    x = nn.relu(nn.Conv(32, (3, 3), (2, 2), padding=1)(x))
    for i, (width, stride) in enumerate(((32, 1), (48, 2))):
      y = nn.relu(nn.Conv(width, (3, 3), (stride,) * 2, padding=1)(x))
      y = nn.Conv(width, (3, 3), padding=1)(y)
      x = nn.relu(y + (nn.Conv(width, (1, 1), (2, 2))(x) if i else x))
    features = x.mean((1, 2)).reshape(batch, time, -1).mean(1)
    return nn.Dense(5)(features)


def test_frames_that_no_kernel_crosses_come_back_in_a_guessed_order():
  found = recovered(Frames(), moving_clip())
  clip, truth = found.clips[0, 0], moving_clip()[0]
  assert max(psnr(clip, truth), psnr(clip[::-1], truth)) > 50
  assert 'no kernel crosses frames' in found.note


def test_no_further_order_is_tried_when_time_is_over(monkeypatch):
  tried = []

  def search(self, problem, walks, planned, name):
    tried.append(walks)
    raise OutOfTime('the time was over')
  monkeypatch.setattr(Peeling, '_search', search)
  with pytest.raises(OutOfTime):
    recovered(Mixed((3, 3, 1)), moving_clip())
  assert len(tried) == 1

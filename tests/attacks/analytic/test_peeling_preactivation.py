"""Layer peeling of pre-activation networks: norm, ReLU, convolution, twice."""

import zlib

import flax.linen as nn
import jax
import numpy as np
import pytest

import vidleak_jax as vl
from vidleak_jax.attacks.analytic.peeling.attack import Peeling
from vidleak_jax.attacks.analytic.peeling.reading import blocks_of
from vidleak_jax.attacks.base import Problem
from vidleak_jax.runtime.session import session
from vidleak_jax.types import Victim

SHAPE = (4, 8, 8, 3)
WIDTHS = (48, 48, 64, 64)


class Block(nn.Module):
  """`x + conv(relu(norm(conv(relu(norm(x))))))`."""
  width: int
  stride: int
  shortcut: str  # 'activated' or 'raw': what the projection reads

  @nn.compact
  def __call__(self, x):
    strides = (self.stride,) * 3
    a = _activated(x, 'norm0')
    if x.shape[-1] != self.width:
      x = nn.Conv(self.width, (1, 1, 1), strides, use_bias=False,
                  name='shortcut')(a if self.shortcut == 'activated' else x)
    z = nn.Conv(self.width, (3, 3, 3), strides, padding=1, use_bias=False,
                name='conv0')(a)
    return x + nn.Conv(self.width, (3, 3, 3), padding=1, name='conv1')(
        _activated(z, 'norm1'))


class PreActivation(nn.Module):
  """A 3-D residual network after 1603.05027."""
  widths: tuple[int, ...] = WIDTHS
  shortcut: str = 'activated'
  closed: bool = True  # by a norm and a ReLU before the mean

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(self.widths[0], (3, 3, 3), (1, 2, 2), padding=1)(2 * x - 1)
    for i, width in enumerate(self.widths):
      x = Block(width, 1 + (width != x.shape[-1]), self.shortcut,
                name=f'block{i}')(x)
    if self.closed:
      x = _activated(x, 'closing')
    return nn.Dense(5)(x.mean((1, 2, 3)))


def _activated(x, name):
  return nn.relu(nn.BatchNorm(use_running_average=True, name=name)(x))


def smooth_clip(key=1):
  coarse = jax.random.uniform(jax.random.key(key), (2, 3, 3, 3))
  return np.asarray(jax.image.resize(coarse, SHAPE, 'cubic').clip(0, 1))[None]


def uneven(params, key=7):
  """Norms whose statistics, scales and biases are neither 0 nor 1."""
  def change(path, leaf):
    if 'norm' not in str(path) and 'closing' not in str(path):
      return leaf
    drawn = jax.random.uniform(jax.random.fold_in(
        jax.random.key(key), zlib.crc32(str(path).encode())), leaf.shape)
    return leaf + 0.3 * (drawn - 0.5)

  return jax.tree_util.tree_map_with_path(change, params)


def solved(victim, clips, labels, **client):
  params = uneven(victim.init(jax.random.key(0)))
  leak = vl.observe(victim, params, clips, labels, **client)
  attack = Peeling()
  assert attack.requires(victim, leak) == []
  return attack.solve(Problem(victim, leak, jax.random.key(1), session()))


def psnr(a, b):
  return -10 * np.log10(np.mean((a - b) ** 2))


@pytest.mark.parametrize('shortcut', ['activated', 'raw'])
def test_the_clip_comes_back(shortcut):
  victim = Victim.from_flax(PreActivation(shortcut=shortcut), SHAPE, 5)
  found = solved(victim, smooth_clip(), [3])
  assert psnr(found.clips[0, 0], smooth_clip()[0]) > 60
  np.testing.assert_array_equal(found.labels, [[3]])
  assert found.note == '' and len(found.rows) == 8
  assert all(row['residual'] < 1e-5 for row in found.rows)

"""Layer peeling of pre-activation networks: norm, ReLU, convolution, twice."""

import itertools
import zlib

import jax
import numpy as np
import pytest

import vidleak_jax as vl
from tests.attacks.analytic.preactivation import PreActivation
from vidleak_jax.attacks.analytic.peeling import walk
from vidleak_jax.attacks.analytic.peeling.attack import Peeling
from vidleak_jax.attacks.analytic.peeling.reading import blocks_of
from vidleak_jax.attacks.base import Problem
from vidleak_jax.runtime.session import session
from vidleak_jax.types import Victim
from vidleak_jax.victims.introspection.graph import run
from vidleak_jax.victims.introspection.tracing import leaves_of

SHAPE = (4, 8, 8, 3)
WIDTHS = (48, 48, 64, 64)


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
  victim = Victim.from_flax(PreActivation(WIDTHS, shortcut=shortcut), SHAPE, 5)
  found = solved(victim, smooth_clip(), [3])
  assert psnr(found.clips[0, 0], smooth_clip()[0]) > 60
  np.testing.assert_array_equal(found.labels, [[3]])
  assert found.note == '' and len(found.rows) == 8
  assert all(row['residual'] < 1e-5 for row in found.rows)


def test_the_clips_of_a_batch_come_back():
  clips = np.concatenate([smooth_clip(1), smooth_clip(2)])
  victim = Victim.from_flax(PreActivation(WIDTHS), SHAPE, 5)
  found = solved(victim, clips, [3, 1],
                 client=vl.FedSGD(per='batch'))
  np.testing.assert_array_equal(found.labels, [[1, 3]])
  assert psnr(found.clips[0, 0], clips[1]) > 40
  assert psnr(found.clips[0, 1], clips[0]) > 40


@pytest.mark.slow
def test_more_of_the_sums_is_known_from_block_to_block():
  victim = Victim.from_flax(PreActivation((48, 64, 64, 64)), SHAPE, 5)
  params = uneven(victim.init(jax.random.key(0)))
  leak = vl.observe(victim, params, smooth_clip(), [3])
  leaves, update = (
      {path: np.asarray(leaf, np.float64) for path, leaf in
       leaves_of(tree).items()} for tree in (
           params, jax.tree.map(lambda leaf: leaf[0], leak.update)))
  network = blocks_of(victim.graph)
  known, _ = walk.peel_top(network, leaves, update)
  truth = run(victim.graph, leaves_of(params), smooth_clip())
  shares = []
  for index in (3, 2):
    if index < 3:
      known, _ = walk.peel(network, index, known, leaves, update)
    value = np.asarray(truth[network.blocks[index].source]).reshape(
        known.value.shape)
    np.testing.assert_allclose(known.value[known.seen], value[known.seen],
                               atol=1e-4)
    shares.append(known.seen.mean())
  assert 0.3 < shares[0] < shares[1] - 0.1


def test_without_a_relu_before_the_mean_it_is_refused():
  victim = Victim.from_flax(PreActivation(WIDTHS, closed=False), SHAPE, 5)
  leak = vl.observe(victim, victim.init(jax.random.key(0)), smooth_clip(), [3])
  reasons = Peeling().requires(victim, leak)
  assert len(reasons) == 1 and 'norm of running statistics' in reasons[0]


def test_a_torch_network_falls():
  torch = pytest.importorskip('torch')

  class TorchBlock(torch.nn.Module):

    def __init__(self, width_in, width):
      super().__init__()
      stride = 1 + (width != width_in)
      self.norm0 = torch.nn.BatchNorm3d(width_in)
      self.conv0 = torch.nn.Conv3d(width_in, width, 3, stride, 1, bias=False)
      self.norm1 = torch.nn.BatchNorm3d(width)
      self.conv1 = torch.nn.Conv3d(width, width, 3, 1, 1, bias=False)
      self.shortcut = torch.nn.Sequential() if stride == 1 else (
          torch.nn.Sequential(
              torch.nn.Conv3d(width_in, width, 1, stride, bias=False),
              torch.nn.BatchNorm3d(width)))

    def forward(self, x):
      y = self.conv0(self.norm0(x).relu())
      return self.conv1(self.norm1(y).relu()) + self.shortcut(x)

  torch.manual_seed(0)
  module = torch.nn.Sequential(
      torch.nn.Conv3d(3, 48, 3, (1, 2, 2), 1),
      *itertools.starmap(TorchBlock, itertools.pairwise((48, *WIDTHS))),
      torch.nn.BatchNorm3d(64), torch.nn.ReLU(),
      torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(),
      torch.nn.Linear(64, 5))
  found = solved(Victim.from_torch(module, SHAPE, 5), smooth_clip(), [3])
  assert psnr(found.clips[0, 0], smooth_clip()[0]) > 60

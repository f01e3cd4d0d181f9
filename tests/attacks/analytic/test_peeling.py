"""Layer peeling: a wide enough residual network gives its clip away."""

import dataclasses
import itertools
import re

import jax
import numpy as np
import pytest

import vidleak_jax as vl
from vidleak_jax.attacks.analytic.peeling import (
  equations,
  needs,
  signs,
  top,
  walk,
)
from vidleak_jax.attacks.analytic.peeling.attack import Peeling
from vidleak_jax.attacks.analytic.peeling.geometry import (
  Geometry,
  rank_bound,
)
from vidleak_jax.attacks.analytic.peeling.reading import blocks_of
from vidleak_jax.attacks.base import Effort, Problem
from vidleak_jax.attacks.matching import gauss_newton
from vidleak_jax.models.resnet import ResNet, Size, Style
from vidleak_jax.runtime.session import session
from vidleak_jax.types import UserError, Victim

SHAPE = (4, 8, 8, 3)
SIZE = Size((3, 3, 3), (1, 2, 2), 48, (48, 64), (1, 1))
STRIDED = Geometry((2, 5, 4), (3, 3, 1), (1, 2, 1), ((1, 1), (1, 1), (0, 0)),
                   (1, 1, 1))


def residual_network(norm='fixed', activation='relu', size=SIZE):
  return Victim.from_flax(
      ResNet(size, Style(activation, norm, 'lax'), 5), SHAPE, 5)


def smooth_clip(key=1, shape=SHAPE):
  coarse = jax.random.uniform(jax.random.key(key), (2, 3, 3, 3))
  return np.asarray(jax.image.resize(coarse, shape, 'cubic').clip(0, 1))[None]


@pytest.fixture(scope='module')
def problem():
  victim = residual_network()
  leak = vl.observe(victim, victim.init(jax.random.key(0)), smooth_clip(), [3])
  return Problem(victim, leak, jax.random.key(1), session())


def psnr(a, b):
  return -10 * np.log10(np.mean((a - b) ** 2))


def test_the_clip_comes_back_and_the_walk_resumes(problem, tmp_path):
  heard = []
  problem = problem._replace(session=session(
      folder=tmp_path, report=lambda *what, **values: heard.append(what)))
  attack = Peeling()
  assert attack.requires(problem.victim, problem.leak) == []
  found = attack.solve(problem)
  assert found.clips.shape == (1, 1, *SHAPE) and found.note == ''
  assert psnr(found.clips[0, 0], smooth_clip()[0]) > 60
  np.testing.assert_array_equal(found.labels, [[3]])
  assert all(row['residual'] < 1e-5 for row in found.rows)
  assert ('layer peeling', 1, 3) in heard
  stored = tmp_path / 'update0' / 'block0.npz'
  before = stored.stat().st_mtime_ns
  again = attack.run(problem, Effort()).recovery
  assert psnr(again.clips[0, 0], smooth_clip()[0]) > 50
  assert stored.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_factorised_network_falls_though_its_last_block_is_not_solvable(
    monkeypatch):
  shape = (8, 8, 8, 3)
  size = Size((3, 3, 3), (1, 2, 2), 32, (32, 40, 40), (1, 1, 1),
              stem_middle=30)
  victim = Victim.from_flax(ResNet(
      size, Style('relu', 'fixed', 'lax', factorised=True), 5), shape, 5)
  network = blocks_of(victim.graph)
  assert network.num_peeled == 2 and network.blocks[0].num_solvable == 0
  clip = smooth_clip(shape=shape)
  leak = vl.observe(victim, victim.init(jax.random.key(0)), clip, [3])
  problem = Problem(victim, leak, jax.random.key(1), session())
  attack = Peeling(pixel_steps=8, inner_steps=40)
  # The outputs of the block above suffice here ...
  found = attack.solve(problem)
  assert psnr(found.clips[0, 0], clip[0]) > 30
  assert all(row['unknowns'] <= row['rank'] for row in found.rows)
  # ... and without them, what the last block shows.
  monkeypatch.setattr('vidleak_jax.attacks.analytic.peeling.descent.MARGIN',
                      1e9)
  found = attack.solve(problem)
  assert psnr(found.clips[0, 0], clip[0]) > 30
  last = found.rows[-1]
  assert last['rank'] <= last['equations'] < last['unknowns']
  assert last['residual'] < 1e-5


def test_a_stride_leaves_positions_to_few_taps():
  strided = Geometry((8, 1, 1), (3, 1, 1), (2, 1, 1), ((1, 1), (0, 0), (0, 0)),
                     (1, 1, 1))
  # Even frames are seen by one tap; odd ones by two, the last one by one.
  assert rank_bound([(strided, 2)]) == 2 + 3 + 1
  dz = np.random.default_rng(0).normal(size=(4, 2))
  assert np.linalg.matrix_rank(strided.normal_matrix(dz)) <= 6


@pytest.mark.parametrize('norm', ['fixed', 'group', 'batch'])
def test_noise_is_refused(norm):
  victim, rng = residual_network(norm), np.random.default_rng(5)
  leak = vl.observe(victim, victim.init(jax.random.key(0)), smooth_clip(), [3])
  noisy = jax.tree.map(lambda g: np.float32(
      g + 0.1 * np.std(g) * rng.normal(size=g.shape)), leak.update)
  with pytest.raises(UserError, match=r'last block|agree'):
    Peeling().solve(Problem(victim, leak.replace(update=noisy),
                            jax.random.key(1), session()))


@pytest.mark.parametrize('change, why', [
    ({'norm': 'layer'}, 'form layer'),
    ({'activation': 'gelu'}, 'not followed by a ReLU|in a ReLU'),
    ({'size': SIZE._replace(stem_width=4, widths=(4, 32))},
     'of the 256 outputs of relu#1.*kernels below the solved blocks show'),
])
def test_reasons_are_given(problem, change, why):
  reasons = Peeling().requires(residual_network(**change), problem.leak)
  assert len(reasons) >= 1
  np.testing.assert_(any(re.search(why, r) for r in reasons),
                     reasons)


def test_a_chain_of_strides_and_a_large_batch_are_refused(problem):
  chain = vl.victims.build('c3d', SHAPE, 5, preset='tiny')
  assert any('has a stride' in reason
             for reason in Peeling().requires(chain, problem.leak))
  public = dataclasses.replace(problem.leak.public, batch_size=5)
  leak = problem.leak.replace(public=public)
  reasons = Peeling().requires(problem.victim, leak)
  assert any('5 clips of an update' in reason for reason in reasons)


@pytest.mark.parametrize('norm', ['group', 'batch'])
def test_a_network_of_the_datas_norms_falls(norm):
  victim = residual_network(norm)
  leak = vl.observe(victim, victim.init(jax.random.key(0)), smooth_clip(), [3])
  attack = Peeling()
  assert attack.requires(victim, leak) == []
  found = attack.solve(Problem(victim, leak, jax.random.key(1), session()))
  assert psnr(found.clips[0, 0], smooth_clip()[0]) > 60
  assert all(row['residual'] < 1e-6 for row in found.rows)


def test_the_clips_of_a_batch_come_back():
  victim = residual_network()
  clips = np.concatenate([smooth_clip(1), smooth_clip(2)])
  leak = vl.observe(victim, victim.init(jax.random.key(0)), clips, [3, 1],
                    client=vl.FedSGD(per='batch'))
  attack = Peeling()
  assert attack.requires(victim, leak) == []
  found = attack.solve(Problem(victim, leak, jax.random.key(1), session()))
  np.testing.assert_array_equal(found.labels, [[1, 3]])
  assert psnr(found.clips[0, 0], clips[1]) > 40
  assert psnr(found.clips[0, 1], clips[0]) > 40


def test_two_rounds_suffice_where_one_does_not():
  victim = residual_network(
      size=SIZE._replace(stem_width=16, widths=(16, 32)))
  params, clip = victim.init(jax.random.key(0)), smooth_clip()
  attack, network = Peeling(), blocks_of(victim.graph)
  assert needs.too_few(network) and not needs.too_few(network, 2)
  leak = vl.observe(victim, params, clip, [3], num_rounds=2,
                    server_learning_rate=0.1)
  assert attack.requires(victim, leak) == []
  found = attack.solve(Problem(victim, leak, jax.random.key(1), session()))
  assert psnr(found.clips[0, 0], clip[0]) > psnr(clip.mean(), clip[0]) + 5


def test_geometry_is_the_convolution():
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(40, 2)), rng.normal(size=(9, 2, 3))
  z = STRIDED.forward(x, kernel)
  expected = jax.lax.conv_general_dilated(
      x.reshape(1, 2, 5, 4, 2), kernel.reshape(3, 3, 1, 2, 3),
      STRIDED.strides, STRIDED.padding,
      dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'))
  np.testing.assert_allclose(z.ravel(), np.ravel(expected), rtol=1e-4,
                             atol=1e-5)
  dz = rng.normal(size=z.shape)
  inner = (z * dz).sum()
  assert np.isclose((x * STRIDED.pull_back(dz, kernel)).sum(), inner)
  gradient = STRIDED.kernel_gradient(x, dz)
  assert np.isclose((kernel * gradient).sum(), inner)
  matrix = STRIDED.matrix(dz)
  np.testing.assert_allclose(
      matrix @ x, gradient.swapaxes(1, 2).reshape(-1, 2))
  np.testing.assert_allclose(STRIDED.normal_matrix(dz), matrix.T @ matrix)
  np.testing.assert_allclose(STRIDED.normal_matrix(dz) @ x,
                             STRIDED.pull_back(dz, gradient))


def test_known_outputs_close_what_a_kernel_leaves_open():
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(40, 2)), rng.normal(size=(9, 2, 4))
  dz = rng.normal(size=(24, 4))
  source = equations.Source(STRIDED, dz, STRIDED.kernel_gradient(x, dz))
  alone = equations.solve([source])
  assert alone.rank < 40
  outputs = equations.Outputs(
      lambda v: STRIDED.forward(v, kernel),
      lambda y: STRIDED.pull_back(y, kernel), STRIDED.forward(x, kernel),
      np.full((24, 4), 1e7))
  closed = equations.solve([source], [outputs])
  assert np.abs(closed.x - x).max() < 1e-5 < np.abs(alone.x - x).max()


def test_few_outputs_rule_only_what_kernels_hardly_show():
  rng = np.random.default_rng(0)
  geometry = Geometry((60,), (1,), (1,), ((0, 0),), (1,))
  left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (60, 120))
  dz = left * np.geomspace(1e-5, 1, 60) @ right[:60]
  x, kernel = rng.normal(size=(60, 4)), rng.normal(size=(1, 4, 8))
  source = equations.Source(geometry, dz, np.float64(np.float32(
      geometry.kernel_gradient(x, dz))))
  known = rng.uniform(size=(60, 8)) < 0.25
  outputs = equations.Outputs(
      lambda v: geometry.forward(v, kernel),
      lambda y: geometry.pull_back(y, kernel),
      geometry.forward(x, kernel) + 1e-6 * rng.normal(size=known.shape),
      1e6 * known)
  found = equations.solve([source], [outputs], max_steps=80)
  assert found.rank < 60
  assert np.abs(found.x - x).max() < 3e-4


def test_few_rows_show_what_they_show_of_many_unknowns():
  rng = np.random.default_rng(0)
  x, dz = rng.normal(size=(40, 2)), rng.normal(size=(24, 4))
  source = equations.Source(STRIDED, dz, STRIDED.kernel_gradient(x, dz))
  assert source.gradient[:, 0].size < 40
  shown = equations.shown([source])
  rank = shown.basis.shape[1]
  assert 20 < rank <= 36
  np.testing.assert_allclose(
      shown.basis.T @ shown.basis, np.eye(rank), atol=1e-9)
  np.testing.assert_allclose(shown.basis.T @ x, shown.value, atol=1e-9)


def test_sums_settle_units_near_zero():
  rng = np.random.default_rng(0)
  a = np.maximum(rng.normal(size=(30, 4)), 0)
  slope, on = rng.normal(size=a.shape), a > 0
  sums = (slope * on).sum(0)
  blurred = a.copy()
  off = np.flatnonzero(~on[:, 1])[0]
  blurred[off, 1] = 1e-5 * a.max()  # off, and looks on
  found = signs.active(blurred, np.zeros_like(a), slope, sums)
  assert found.num_toggled == 1 and found.num_doubtful == 0
  np.testing.assert_array_equal(found.on, on)
  sums[2] += 100
  assert signs.active(a, np.zeros_like(a), slope, sums).num_doubtful == 1


def test_a_kernels_gradient_shows_wrong_units():
  rng = np.random.default_rng(0)
  x, full = rng.normal(size=(40, 6)), rng.normal(size=(24, 5))
  on = rng.uniform(size=full.shape) > 0.5
  right = equations.Source(
      STRIDED, full * on, STRIDED.kernel_gradient(x, full * on))
  taken = on.copy()
  taken[3, 1] ^= True
  shown = equations.cotangents(right, x)
  np.testing.assert_array_equal(signs.repaired(taken, full, shown), on)
  np.testing.assert_array_equal(signs.repaired(on, full, shown), on)


@pytest.mark.parametrize('clips, shape, window', [
    (1, (1, 2, 2), (3, 3, 3)),
    (1, (2, 7, 7), (3, 3, 3)),   # as of 16x112x112
    (3, (2, 3, 3), (3, 3, 3)),   # clips stay mixed by the taps
    (1, (3, 2, 2), (1, 3, 3)),   # frames do
    (1, (1, 2, 2), (1, 1, 1)),   # all do
])
def test_masks_of_the_last_block(clips, shape, window):
  rng = np.random.default_rng(0)
  geometry = Geometry((clips, *shape), (1, *window), (1,) * 4, (
      (0, 0), *((size // 2, size // 2) for size in window)), (1,) * 4)
  on = rng.uniform(size=(geometry.num_out, 130)) > 0.5
  slopes = rng.normal(size=(clips, 130))
  on[:, 3] = False  # a dead channel has no gradient
  gradient = geometry.kernel_gradient(
      rng.uniform(size=(geometry.num_in, 120)),
      on * np.repeat(slopes, geometry.num_out // clips, axis=0))
  found = top.masks_of(np.float32(gradient), geometry, slopes,
                       on.sum(0) if clips == 1 else None)
  assert any((masks == on).all() for masks in itertools.islice(found, 24))


def test_masks_that_do_not_separate():
  rng = np.random.default_rng(0)
  geometry = Geometry((1, 1, 2, 2), (1, 3, 3, 3), (1,) * 4,
                      ((0, 0), *((1, 1),) * 3), (1,) * 4)
  slopes = rng.normal(size=(1, 40))
  alike = np.tile(rng.uniform(size=30), (4, 1))
  dz = (rng.uniform(size=(4, 40)) > 0.5) * slopes
  with pytest.raises(UserError, match='look alike'):
    next(top.masks_of(geometry.kernel_gradient(alike, dz * (
        np.arange(4) < 1)[:, None]), geometry, slopes))
  with pytest.raises(UserError, match='more channels than positions'):
    next(top.masks_of(np.ones((27, 3, 40)), geometry, slopes))


def test_gauss_newton_solves_a_curved_problem():
  truth = smooth_clip()[0]
  shapes = []

  def residual(pixels, data):
    return {'curved': pixels + 0.3 * pixels ** 2 - data}

  with jax.enable_x64():
    found = gauss_newton.minimize(
        residual, np.float64(truth + 0.3 * truth ** 2), np.full(SHAPE, 0.5),
        tell=lambda progress: shapes.append(progress.grid))
  assert np.abs(found.pixels - truth).max() < 1e-6
  assert shapes[0] == (2, 1, 1, 3) and shapes[-1] == SHAPE


def test_searches_of_one_key_share_their_programs():
  traced, start = [], np.full((1, 2, 2, 3), 0.5, np.float32)
  for target in (0.2, 0.7):
    def residual(pixels, data):
      traced.append(data)
      return pixels - data

    found = gauss_newton.minimize(residual, np.float32(target), start,
                                  key='searches of one key')
    np.testing.assert_allclose(found.pixels, target, atol=1e-5)
    count = len(traced)
    traced.clear()
  assert count == 0  # the second one compiles nothing


def test_walk_knows_the_label_of_a_sure_network(problem):
  network = blocks_of(problem.victim.graph)
  kernel, bias = network.head.kernel, network.head.bias
  feature = np.arange(1.0, 65)
  leaves = {kernel: np.eye(64, 5), bias: np.zeros(5)}
  error = np.array([1e-9, 0, 0, 0, 2e-9])
  update = {kernel: np.outer(feature, error), bias: error}
  head = walk.read_head(network, leaves, update)
  np.testing.assert_allclose(head.slopes, error[None] @ np.eye(64, 5).T)
  np.testing.assert_array_equal(head.labels, [4])

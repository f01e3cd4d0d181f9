"""What norms of the batch's statistics hide, and what they do not."""

import dataclasses

import numpy as np
import pytest

from tests.attacks.analytic.test_peeling import residual_network
from vidleak_jax.attacks.analytic.peeling import (
    constants,
    equations,
    facts,
    inputs,
    joint,
    needs,
    top,
)
from vidleak_jax.attacks.analytic.peeling.geometry import Geometry
from vidleak_jax.attacks.analytic.peeling.readers import Known, Reader
from vidleak_jax.attacks.analytic.peeling.reading import blocks_of
from vidleak_jax.attacks.analytic.peeling.units import Unit
from vidleak_jax.models.resnet import Size
from vidleak_jax.runtime import backend
from vidleak_jax.victims.introspection.operations import Norm

ONES = (1, 1, 1, 1)


def geometry(shape, window=(3, 3, 3), stride=1):
  return Geometry((1, *shape), (1, *window), (1, *(stride,) * 3), (
      (0, 0), *((size // 2, size // 2) for size in window)), ONES)


@pytest.mark.parametrize('shape', [(1, 2, 2), (2, 3, 3)])
def test_the_last_block_when_its_cotangent_sums_to_zero(shape):
  rng, place = np.random.default_rng(0), geometry(shape)
  x = np.maximum(rng.normal(size=(place.num_in, 30)), 0)
  dz = rng.normal(size=(place.num_out, 40))
  dz -= dz.mean(0)
  found, shown = top.factors(
      place.kernel_gradient(x, dz), place, centred=True)
  share = (found * x).sum() / (found ** 2).sum()
  assert share > 0
  np.testing.assert_allclose(share * found, x, atol=1e-8)
  np.testing.assert_allclose(shown / share, dz, atol=1e-8)


def test_which_constants_are_hidden():
  main, skip = geometry((2, 4, 4), stride=2), geometry((2, 4, 4), (1,) * 3, 2)
  groups = constants.hidden([main, skip])
  frames, rows, columns = np.unravel_index(np.concatenate(groups), (2, 4, 4))
  assert [len(group) for group in groups] == [4, 4]  # one for each frame
  assert not (rows % 2).any() and not (columns % 2).any()
  np.testing.assert_array_equal(frames, [0] * 4 + [1] * 4)
  assert constants.hidden([geometry((2, 4, 4))]) == []
  rng = np.random.default_rng(0)
  x, dz = rng.normal(size=(32, 5)), rng.normal(size=(4, 6))
  dz -= dz.mean(0)
  other = x.copy()
  for group in groups:
    other[group] += rng.normal(size=5)
  for each in main, skip:
    np.testing.assert_allclose(each.kernel_gradient(other, dz),
                               each.kernel_gradient(x, dz), atol=1e-12)


def test_the_lowest_tell_a_constant_where_a_relu_is_off():
  group = np.arange(4)
  x = np.array([[0., 0, 1, 2, 5], [0, 3, 1, 2, 6], [1, 2, 3, 4, 7]]).T
  shifted = x + np.arange(1.0, 4)
  shifted[4] = x[4]
  found, certain = constants.at_zero(
      shifted, np.zeros(x.shape), [group])
  np.testing.assert_allclose(found[:, 0], x[:, 0])
  np.testing.assert_allclose(found[:, 1], x[:, 1])
  np.testing.assert_array_equal(certain, [True, False, False])
  # The third column's are all on: what they are above the lowest is known.
  np.testing.assert_array_equal(
      constants.open_values(x > 0, [group])[:4].all(0), [False, False, True])


def test_open_values_say_nothing():
  victim = residual_network('batch')
  relu = blocks_of(victim.graph).bottom
  value = np.array([[1.0, 2.0], [3.0, 0.0]])
  on = value > 0
  certain = on & (value != 3)
  fact = facts.of_relu(victim.graph, relu, value, on, certain)
  rest = fact.residual(value + 100, **fact.constants)
  assert rest[1, 0] == 0 and (np.asarray(rest) != 0).sum() == 3


def unit(place, width_in, width, form='batch', groups=0):
  axes = (1, 2, 3, 4) if groups else (0, 1, 2, 3)
  norm = Norm(form, 4, axes, groups, 1e-5, ('scale',), ('bias',))
  conv = dataclasses.make_dataclass('Conv', ['kernel_path', 'bias_path'])
  return Unit('unit', conv(('kernel',), None), norm, place, width_in, width,
              'x', 'z')


def read_by(place, form, groups=0, seed=0):
  """(a reader, the input, sums, leaves, update) of one unit before a ReLU."""
  rng = np.random.default_rng(seed)
  each = unit(place, 24, 12, form, groups)
  leaves = {('kernel',): rng.normal(size=(27, 24, 12)),
            ('scale',): rng.uniform(0.5, 2, 12),
            ('bias',): 0.3 * rng.normal(size=12)}
  x = np.maximum(rng.normal(size=(place.num_in, 24)), 0)
  z = place.forward(x, leaves['kernel',])
  moments = each.moments(z)
  scale, shift = each.affine(leaves, moments)
  y = z * scale + shift
  dy = rng.normal(size=y.shape) * (y > 0)
  dz = each.cotangent(leaves, dy, moments)
  update = {('kernel',): place.kernel_gradient(x, dz), ('bias',): dy.sum(0),
            ('scale',): (dy * moments.whitened).sum(0)}
  slope = place.pull_back(dz, leaves['kernel',])
  known = Known(np.maximum(y, 0), np.full(y.shape, 1e-9), dy, y > 0)
  return Reader(each, known, True), x, (slope * (x > 0)).sum(0), leaves, update


@pytest.mark.parametrize('form, groups', [('batch', 0), ('group', 3)])
def test_an_input_and_its_moments_at_once(form, groups, monkeypatch):
  place = geometry((2, 4, 4))
  reader, x, sums, leaves, update = read_by(place, form, groups)

  def disagree(*_):
    raise inputs._Disagreement('no rounds')
  monkeypatch.setattr(inputs, '_in_rounds', disagree)
  with backend.float64():
    _, solved, slope = inputs.solve([reader], sums, leaves, update)
  np.testing.assert_allclose(solved.x, x, atol=1e-5)
  np.testing.assert_allclose((slope * (x > 0)).sum(0), sums, atol=1e-5)
  assert solved.residual < 1e-7


def test_few_outputs_do_not_close_what_kernels_leave_open():
  place = geometry((2, 4, 4))
  reader, x, _, leaves, update = read_by(place, 'batch')
  few = np.zeros((32, 12))
  few[:2] = np.random.default_rng(0).normal(size=(2, 12))
  source = equations.Source(place, few, update['kernel',])
  seen = joint.Seen(reader.unit, source, few, few, np.zeros(few.shape, bool))
  with backend.float64(), pytest.raises(equations.Undetermined, match='few'):
    joint.solve([seen], x, np.zeros((32, 0)), leaves, update)


def test_norms_of_few_numbers_and_batches_are_refused():
  size = Size((3, 3, 3), (1, 2, 2), 48, (48, 64), (1, 1))
  small = residual_network('batch', size=size._replace(
      stem_strides=(4, 4, 4)))
  reasons = needs.shortages(blocks_of(small.graph))
  assert any('norms of 1 numbers' in reason for reason in reasons)
  reasons = needs.shortages(blocks_of(residual_network('batch').graph, 2))
  assert any('norms mix 2 positions' in reason for reason in reasons)
  assert needs.shortages(blocks_of(residual_network('batch').graph)) == []


def test_what_a_client_sends_are_the_means_of_a_norm():
  place = geometry((2, 4, 4))
  for form, groups in ('batch', 0), ('group', 3):
    reader, x, _, leaves, update = read_by(place, form, groups)
    each, dy = reader.unit, reader.known.slope
    moments = each.moments(place.forward(x, leaves['kernel',]))
    dz = each.cotangent(leaves, dy, moments)
    np.testing.assert_allclose(
        each.shown_slope(leaves, update, dz, moments),
        leaves['scale',] * dy, atol=1e-9)
    assert each.is_centred == (form == 'batch')
    assert np.allclose(dz.sum(0), 0, atol=1e-9) == (form == 'batch')

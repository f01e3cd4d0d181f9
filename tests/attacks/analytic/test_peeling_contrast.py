"""Norms hide a clip's contrast; the levels of video tell it."""

import jax
import numpy as np
import pytest

from tests.attacks.analytic.test_peeling import residual_network, smooth_clip
from vidleak_jax.attacks.analytic.peeling import contrast
from vidleak_jax.attacks.analytic.peeling.reading import blocks_of
from vidleak_jax.runtime import backend
from vidleak_jax.victims.introspection.tracing import leaves_of

CLIP = np.rint(255 * smooth_clip(shape=(4, 16, 16, 3))) / 255


def test_the_network_of_norms_does_not_see_it():
  found = []
  for norm in 'fixed', 'group':
    victim = residual_network(norm)
    leaves = leaves_of(victim.init(jax.random.key(0)))
    with backend.float64():
      found.append(contrast.unseen(blocks_of(victim.graph), leaves))
  assert found[0] is None
  np.testing.assert_array_equal(found[1], np.zeros(3))


@pytest.mark.parametrize('blank, share', [
    (np.zeros(3), 0.37), (np.array([0.43, 0.39, 0.38]), 0.6)])
def test_levels_tell_it(blank, share):
  noise = np.random.default_rng(0).normal(size=CLIP.shape) * 0.1 / 255
  found = contrast.by_levels(blank + share * (CLIP + noise - blank), blank)
  assert np.abs(found - CLIP).max() < 0.6 / 255


def test_without_levels_it_is_open():
  other = np.random.default_rng(0).uniform(size=CLIP.shape)
  assert contrast.by_levels(0.3 * other, np.zeros(3)) is None


def test_what_is_held():
  blank = np.full(3, 0.4)
  start = np.float32(contrast.start((1, 4, 8, 8, 3), blank))
  assert contrast.row(start, blank) == pytest.approx(0, abs=1e-2)
  assert contrast.row(0.9 * start + 0.1 * blank, blank) < -100

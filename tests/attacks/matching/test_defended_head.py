"""The head's factors, from what each defence leaves."""

import numpy as np
import pytest

from vidleak_jax.attacks.matching.defended_head import read_head
from vidleak_jax.attacks.observation import Applied, observe_update
from vidleak_jax.types import UserError

LABEL, RNG = 3, np.random.default_rng(0)
FEATURE = RNG.normal(size=400)
FEATURE = np.where(FEATURE > 0, FEATURE, 0.01 * FEATURE)
PARAMS = {'kernel': RNG.normal(size=(400, 12)) / 20, 'bias': np.zeros(12)}


def factors():
  chance = np.exp(PARAMS['kernel'].T @ FEATURE)
  error = chance / chance.sum()
  error[LABEL] -= 1
  return error


def observed(defend, applied, factor=1.0):
  error = factors() * factor
  sent = {'bias': defend(error), 'kernel': defend(np.outer(FEATURE, error))}
  seen = observe_update(sent, applied)
  return seen['kernel'], seen['bias']


def check(head, tolerance):
  assert head.label == LABEL
  error = factors()
  assert np.abs(head.error - error).max() < tolerance * np.abs(error).max()
  low, high, std = head.feature
  assert np.mean((FEATURE > low - 4 * std) & (FEATURE < high + 4 * std)) > 0.99


def test_exact_entries():
  kernel, bias = observed(lambda x: x, [])
  head = read_head(PARAMS, kernel, bias)
  check(head, 1e-6)
  np.testing.assert_allclose(head.feature.low, FEATURE, atol=1e-5)
  assert head.misfit < 0.1 and head.scale == 1


def test_an_unknown_scale_is_found():
  kernel, bias = observed(lambda x: x, [], 0.02)
  head = read_head(PARAMS, kernel, bias, scale=None)
  check(head, 1e-6)
  np.testing.assert_allclose(head.scale, 0.02, rtol=1e-5)
  wrong = read_head(PARAMS, kernel, bias)
  assert wrong.misfit > 100


def test_noise_is_weighed():
  rng = np.random.default_rng(1)
  kernel, bias = observed(lambda x: x + 2e-3 * rng.normal(size=x.shape),
                          [Applied('gaussian_noise', {'std': 2e-3})])
  head = read_head(PARAMS, kernel, bias)
  check(head, 3e-3)
  assert 0.8 < head.misfit < 1.2


def test_pruned_entries_are_intervals():
  def prune(x):
    return np.where(np.abs(x) >= np.quantile(np.abs(x), 0.8), x, 0)
  check(read_head(PARAMS, *observed(
      prune, [Applied('prune', {'fraction': 0.8})])), 1e-3)


@pytest.mark.parametrize('scale, tolerance', [(1.0, 1e-4), (50.0, 0.1)])
def test_clipped_entries(scale, tolerance):
  """With 50 no entry of the bias is left: the softmax gives the scale."""
  applied = [Applied('nvflare_percentile', {'percentile': 0, 'gamma': 0.3})]
  kernel, bias = observed(
      lambda x: np.clip(x, -0.3, 0.3), applied, scale)
  assert bias.is_value.any() == (scale == 1)
  check(read_head(PARAMS, kernel, bias, scale=scale), tolerance)
  if scale > 1:
    check(read_head(PARAMS, kernel, bias, scale=scale, guess=FEATURE), 1e-6)


def test_nothing_left_is_told():
  kernel, bias = observed(np.zeros_like, [
      Applied('exclude_vars', {'patterns': ['bias', 'kernel']})])
  with pytest.raises(UserError, match='No entry of the head'):
    read_head(PARAMS, kernel, bias)

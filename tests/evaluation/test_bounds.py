"""Limits against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vidleak_jax.evaluation import bounds
from vidleak_jax.types import UserError

KEY = jax.random.key(0)
MATRIX = np.random.default_rng(0).normal(size=(10, 12)).astype(np.float32)
CLIP = np.full((1, 2, 2, 3), 0.5, np.float32)


def loss(params, clips, labels):
  del labels
  return jnp.vdot(params['w'], MATRIX @ clips.ravel())  # its gradient: M x


def limit(**options):
  return bounds.cramer_rao_psnr(
      loss, {'w': jnp.zeros(10)}, CLIP, 0, key=KEY, num_probes=400, **options)


def test_a_linear_gradient_has_the_textbooks_limit():
  information = MATRIX.T @ MATRIX / 0.1 ** 2 + 4 * np.eye(12)
  want = -10 * np.log10(np.trace(np.linalg.inv(information)) / 12)
  np.testing.assert_allclose(limit(std=0.1), want, atol=0.3)
  # Less work never lowers the limit.
  assert limit(std=0.1, num_steps=2) > limit(std=0.1) - 1e-3


def test_what_was_not_sent_leaves_what_is_known_beforehand():
  np.testing.assert_allclose(
      limit(std={'w': jnp.inf}), -10 * np.log10(0.25), atol=1e-3)


def test_an_exact_gradient_is_told():
  with pytest.raises(UserError, match='above 0'):
    limit(std=0.0)


@pytest.mark.parametrize('sigma, releases', [(0.5, 1), (1.0, 1), (4.0, 9)])
def test_epsilon_solves_its_equation(sigma, releases):
  epsilon = bounds.gaussian_epsilon(sigma, 1e-5, releases)
  sigma /= releases ** 0.5
  a, b = 1 / (2 * sigma), epsilon * sigma
  delta = stats.norm.cdf(a - b) - np.exp(epsilon) * stats.norm.cdf(-a - b)
  np.testing.assert_allclose(delta, 1e-5, rtol=1e-4)


def test_a_configuration_that_is_no_privacy_is_called_that():
  assert bounds.gaussian_epsilon(4.8e-5, 1e-5) > 1e8
  assert bounds.gaussian_epsilon(0.0, 1e-5) == np.inf
  with pytest.raises(UserError, match='delta'):
    bounds.gaussian_epsilon(1.0, 0.0)


def test_sampling_lowers_epsilon():
  pytest.importorskip('dp_accounting')
  whole = bounds.sampled_epsilon(1.0, 1e-5, 1, 1.0)
  np.testing.assert_allclose(whole, bounds.gaussian_epsilon(1.0, 1e-5),
                             rtol=1e-2)
  assert bounds.sampled_epsilon(1.0, 1e-5, 1, 0.1) < whole


def test_a_reconstruction_is_bounded_as_a_test_is():
  """The best guess of one of N, by a test between two Gaussians."""
  draws = np.random.default_rng(0).normal(size=400_000)
  cut = stats.norm.isf(0.01)  # accepted with chance 0.01 under noise alone
  for sigma in (0.5, 2.0):
    np.testing.assert_allclose(
        np.mean(draws + 1 / sigma > cut),
        bounds.reconstruction_bound(sigma, 0.01), atol=2e-3)
  assert bounds.reconstruction_bound(0.0, 0.01) == 1
  np.testing.assert_allclose(bounds.reconstruction_bound(1e9, 0.01), 0.01)
  np.testing.assert_allclose(bounds.reconstruction_bound(2.0, 0.1, 4),
                             bounds.reconstruction_bound(1.0, 0.1))
  with pytest.raises(UserError, match='kappa'):
    bounds.reconstruction_bound(1.0, 1.0)


def test_the_gap_of_rates_is_that_of_the_best_threshold():
  """TPR - FPR, over all thresholds, of a test between two Gaussians."""
  rates = np.linspace(1e-4, 1 - 1e-4, 9999)
  for sigma, releases in ((0.5, 1), (1.0, 1), (2.0, 9)):
    gaps = [bounds.reconstruction_bound(sigma, rate, releases) - rate
            for rate in rates]
    np.testing.assert_allclose(
        bounds.membership_advantage(sigma, releases), max(gaps), atol=1e-6)
  assert bounds.membership_advantage(0.0) == 1
  with pytest.raises(UserError, match='noise_multiplier'):
    bounds.membership_advantage(-1.0)


def test_the_gap_is_that_of_riskcal():
  analysis = pytest.importorskip('riskcal.analysis')
  for sigma in (0.3, 1.0, 4.0):
    np.testing.assert_allclose(
        bounds.membership_advantage(sigma),
        analysis.get_advantage_from_gdp(1 / sigma))
    np.testing.assert_allclose(
        bounds.reconstruction_bound(sigma, 1e-3),
        1 - analysis.get_beta_from_gdp(1 / sigma, 1e-3))


def test_without_a_prior_each_pixel_has_the_scaled_noise():
  rng = np.random.default_rng(0)
  clip = rng.uniform(size=3000)
  norm, sigma = np.linalg.norm(clip), 1e-3
  seen = clip / norm + sigma * rng.normal(size=3000)
  measured = -10 * np.log10(np.mean((seen * norm - clip) ** 2))
  np.testing.assert_allclose(
      bounds.no_prior_psnr(sigma, norm), measured, atol=0.3)
  assert bounds.no_prior_psnr(10.0, norm) == pytest.approx(6.02, abs=0.01)

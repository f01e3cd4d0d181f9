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

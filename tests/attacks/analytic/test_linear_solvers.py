"""Least squares by conjugate gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.attacks.analytic import linear_solvers


def run(start):
  rng = np.random.default_rng(0)
  matrix, truth = rng.normal(size=(60, 40)), rng.normal(size=40)
  with jax.enable_x64(True):
    found = linear_solvers.least_squares(
        lambda x: (jnp.asarray(matrix) @ x,), (jnp.asarray(matrix @ truth),),
        jnp.asarray(start(truth)), jnp.ones(40), max_steps=500, tolerance=1e-8)
    return jax.device_get(found), truth


def test_it_converges_and_tells_the_residual():
  found, truth = run(np.zeros_like)
  np.testing.assert_allclose(found.x, truth, atol=1e-6)
  assert found.residual < 1e-6
  assert linear_solvers.condition(found) > 2


def test_a_start_that_is_right_has_arrived():
  found, truth = run(lambda truth: truth + 1e-12)
  assert found.steps == 0
  np.testing.assert_allclose(found.x, truth, atol=1e-9)

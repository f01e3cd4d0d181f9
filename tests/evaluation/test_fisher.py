"""Shares of the information against a network whose Jacobian is known."""

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.evaluation import fisher
from vidleak_jax.types import Victim

WIDE = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)
THIN = 3 * np.random.default_rng(1).normal(size=(5, 12)).astype(np.float32)


def test_shares_are_those_of_the_jacobians():
  """Gradients WIDE x and THIN x: Frobenius norms decide."""
  params = {'a': {'kernel': jnp.zeros(40)}, 'b': {'kernel': jnp.zeros(5)},
            'still': {'kernel': jnp.zeros(7)}}

  def loss(params, clips, labels):
    del labels
    x = clips[0].ravel()
    return (jnp.vdot(params['a']['kernel'], WIDE @ x)
            + jnp.vdot(params['b']['kernel'], THIN @ x))
  victim = Victim.from_loss(loss, params, (1, 2, 2, 3), 2)
  rows = fisher.layer_shares(
      victim, params, np.full((1, 1, 2, 2, 3), 0.5), np.array([0]),
      jax.random.key(0), num_probes=300)
  shares = {row['layer']: row['share'] for row in rows}
  want = {'a': np.sum(WIDE ** 2), 'b': np.sum(THIN ** 2)}
  for name, size in want.items():
    np.testing.assert_allclose(
        shares[name], size / sum(want.values()), atol=0.02)
  assert shares['still'] == 0
  assert [row['entries'] for row in rows if row['layer'] == 'still'] == [7]
  assert [row['share'] for row in rows] == sorted(
      shares.values(), reverse=True)

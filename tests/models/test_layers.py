"""The convolution by matrix products is XLA's, in value and both gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vidleak_jax.models.layers import matmul_conv

# space, window, strides, dilation, padding, channels in and out
CASES = [
    ((9,), (3,), (2,), (1,), 'SAME', 2, 3),
    ((8, 7), (5, 5), (2, 1), (1, 1), [(2, 2), (2, 2)], 3, 4),
    ((8, 8), (1, 1), (1, 1), (1, 1), 'VALID', 3, 4),
    ((4, 6, 6), (3, 3, 3), (1, 2, 2), (1, 1, 1), [(1, 1)] * 3, 3, 5),
    ((4, 6, 6), (3, 3, 3), (2, 2, 2), (1, 1, 1), 'SAME', 8, 4),  # shifted
    ((6, 8, 8), (3, 3, 3), (1, 1, 1), (1, 1, 1), 'SAME', 8, 8),  # shifted
    ((7, 9, 9), (3, 3, 3), (1, 1, 1), (2, 1, 2), 'VALID', 2, 3),
    ((6, 6, 6), (3, 1, 1), (2, 1, 1), (1, 1, 1), [(1, 1), (0, 0), (0, 0)], 8,
     4),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_equals_xla(case):
  space, window, strides, dilation, padding, inputs, outputs = case
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (2, *space, inputs))
  kernel = jax.random.normal(keys[1], (*window, inputs, outputs))
  layout = 'DHW'[-len(space):]
  numbers = lax.conv_dimension_numbers(
      x.shape, kernel.shape, (f'N{layout}C', f'{layout}IO', f'N{layout}C'))

  def run(conv):
    def apply(x, kernel):
      return conv(x, kernel, strides, padding, rhs_dilation=dilation,
                  dimension_numbers=numbers)
    y, pull = jax.vjp(apply, x, kernel)
    return y, *pull(jax.random.normal(keys[2], y.shape))

  ours = jax.jit(lambda: run(matmul_conv))()
  with jax.default_matmul_precision('highest'):
    theirs = jax.jit(lambda: run(lax.conv_general_dilated))()
  for a, b in zip(ours, theirs):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, atol=1e-5 * jnp.abs(b).max())


def test_grouped_and_channels_first_are_refused():
  x, kernel = jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 1, 2))
  with pytest.raises(NotImplementedError, match='Grouped'):
    matmul_conv(x, kernel, (1, 1), 'SAME', feature_group_count=2)

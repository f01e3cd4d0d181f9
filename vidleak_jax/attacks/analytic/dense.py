"""The input of a dense layer from its gradient, exactly, and the label.

For one sample y = a W + b gives dW = a (x) db: every column of dW is the input
times a number that db tells. What stands after the layer (depth, dropout,
LayerNorm, any activation) only changes db. R-GAP (2010.07733), section 3.
"""

from typing import NamedTuple

import numpy as np

from vidleak_jax.types import Params, UserError

# A second direction in dW, relative to the first, that noise does not explain.
_SECOND_DIRECTION = 1e-2
_DROWNED = 0.5  # of a gradient; what is beside one clip's share
_TINY = np.finfo(float).tiny


class DenseInput(NamedTuple):
  """What a dense layer's gradient says of its input."""
  features: np.ndarray  # [M, n] float64
  residual: np.ndarray  # [M] |dW - features (x) db| / |dW|


def dense_input(
    update: Params, path: tuple[str, ...], batch_size: int | None = None
) -> DenseInput:
  """The input of a dense layer, for messages of one sample each.

  Args:
    update: the leak's update, leaves [M, ...].
    path: of the layer; kernel [M, n, K] and bias [M, K] are read.
    batch_size: clips per message, where the attacker knows it.

  Raises:
    UserError: no bias, no gradient, or more than one sample per message.
  """
  kernel, bias = _leaves(update, path)
  dead = ~np.any(bias, axis=-1)
  if np.any(dead):
    raise UserError(
        f'The bias gradient of {"/".join(path)} is zero in '
        f'{np.sum(dead)} of {len(dead)} messages: nothing reached '
        'the layer (dead units, or a defence that zeroed it), so its input '
        'does not show. Use attack.name=ig instead.')
  # Zeros are missing entries of a sparse gradient, or inputs that are zero:
  # left out, they cannot hurt the first, and give 0 for the second.
  seen = kernel != 0
  power = np.einsum('mnk,mk->mn', seen, bias ** 2)
  features = np.einsum('mnk,mk->mn', kernel, bias) / np.maximum(power, _TINY)
  rest = kernel - seen * features[:, :, None] * bias[:, None]
  residual = _norm(rest) / np.maximum(_norm(kernel), _TINY)
  _check_single(path, kernel, rest, residual, batch_size)
  return DenseInput(features, residual)


def input_span(
    update: Params, path: tuple[str, ...], tolerance: float = 1e-5
) -> list[np.ndarray]:
  """The span of a batch's inputs, all that a batch above 1 leaves exact.

  dW = sum_i a_i (x) db_i has the rank of the batch (up to n and K). The inputs
  are combinations of the rows returned: a matching attack need only search
  those few coefficients per clip, or can test a candidate clip by the distance
  of its feature to the span.

  Args:
    update: leaves [M, ...].
    path: of the dense layer.
    tolerance: singular values below this times the largest are noise.

  Returns:
    Per message an orthonormal basis [rank, n]; rank is a lower bound of B.
  """
  kernel, _ = _leaves(update, path, need_bias=False)
  bases = []
  for matrix in kernel:
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    bases.append(left[:, values > tolerance * values[0]].T)
  return bases


def infer_label(update: Params, path: tuple[str, ...]) -> np.ndarray:
  """[M] int32: the only class whose bias gradient is negative.

  Cross-entropy of one sample: db = probabilities - one_hot(label). With noise
  several may be negative: the most negative one is taken. iDLG (2001.02610).

  Raises:
    UserError: the layer has no bias.
  """
  _, bias = _leaves(update, path)
  return np.argmin(bias, axis=-1).astype(np.int32)


def _leaves(update, path, need_bias=True):
  node = update
  for name in path:
    node = node[name]
  if need_bias and 'bias' not in node:
    raise UserError(
        f'The dense layer {"/".join(path)} has no bias, so its gradient gives '
        'the input only up to a factor (`input_span` returns that direction). '
        'Share a bias, or use attack.name=ig.')
  return (np.asarray(node['kernel'], np.float64),
          np.asarray(node['bias'], np.float64) if need_bias else None)


def _check_single(path, kernel, rest, residual, batch_size):
  """Refuses what mixes clips; of one clip, what noise has drowned."""
  worst = int(np.argmax(residual))
  if batch_size == 1:
    if residual[worst] > _DROWNED:
      raise UserError(
          f'{residual[worst]:.0%} of the gradient of {"/".join(path)} is not '
          'of one clip, though the batch size is 1: noise, or another defence, '
          'drowns the closed form. Use attack.name=ig, or less noise.')
    return
  second = np.linalg.norm(rest[worst], 2) / np.linalg.norm(kernel[worst], 2)
  # What white noise of the same size would show, and half as much again.
  noise = residual[worst] * sum(n ** -0.5 for n in kernel.shape[1:])
  if second > max(_SECOND_DIRECTION, 1.5 * noise) or batch_size:
    raise UserError(
        f'The closed form needs one clip per message. The gradient of '
        f'{"/".join(path)} mixes several: batch size '
        f'{batch_size or "unknown"}, second singular value {second:.1e} of the '
        'first. It still gives the span of their inputs, one direction per '
        'clip (`closed_form.input_span`), and the matching attack works: set '
        'federated.message=clip, or attack.name=ig.')


def _norm(a):
  return np.sqrt(np.sum(a ** 2, axis=(1, 2)))

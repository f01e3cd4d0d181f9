"""The inputs of a stack of dense layers, of every clip of a batch.

The head's gradient is separated first (`head_unmixing`): it gives each clip's
feature h_b and dL/dh_b. Of the dense layer below, h = f(x W + c), the slopes

  dz_b = dL/dh_b f'(z_b)

are then known, f' from h itself, and its gradient is linear in the input:

  dL/dW = sum_b x_b (x) dz_b,   dL/dc = sum_b dz_b.

With as many units as clips, and clips that differ, least squares give each x_b;
dL/dx_b = dz_b W^T leads to the layer below. The row of the bias must come out
as ones, which checks the answer. Dropout of the client multiplies what it keeps
by a number, which that row then shows; what it drops shows as 0.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vidleak_jax import trees
from vidleak_jax.attacks.analytic.activations import INVERTIBLE
from vidleak_jax.attacks.analytic.head_unmixing import UnmixedHead, unmix_head
from vidleak_jax.types import Params, Row
from vidleak_jax.victims.introspection.structure import Unit

_OFF = 1e-5    # of the largest output: a ReLU below is off, this is rounding
_FAINT = 1e-9  # singular value, of the largest, that still counts


class BatchInputs(NamedTuple):
  """What a stack of dense layers says of each clip of one batch."""
  inputs: np.ndarray  # [B, F] float64, of the lowest layer
  labels: np.ndarray  # [B] int32, increasing
  head: UnmixedHead
  report: list[Row]   # per layer, top down: layer, rank, unknowns, residual...


def needs_stack(units: Sequence[Unit], batch_size: int) -> list[str]:
  """Returns why a stack does not give the inputs of so many clips away.

  Args:
    units: dense layers with biases and activations, the head last.
    batch_size: B.
  """
  for unit in units[:-1]:
    name = unit.linear.name
    if unit.norm:
      return [f'{name} of a batch is followed by a norm, which mixes units']
    if unit.activation and not _has_slope(unit.activation.op.name):
      return [f'the slope of {unit.activation.op.name} after {name} does not '
              'follow from its value']
    if unit.linear.shape[-1] < batch_size:
      return [f'{name} has {unit.linear.shape[-1]} units, too few for '
              f'{batch_size} clips']
  return []


def batch_inputs(
    units: Sequence[Unit], params: Params, update: Params, batch_size: int,
) -> BatchInputs:
  """Solves a stack of dense layers for each clip's input.

  Args:
    units: of which `needs_stack` says nothing, the head last.
    params: the weights.
    update: the gradient of the mean loss over B clips; leaves as of `params`.
    batch_size: B.

  Raises:
    UserError: a batch that the head cannot separate, see `unmix_head`.
  """
  *below, head = units
  weights, grads = _leaves(params, head), _leaves(update, head)
  unmixed = unmix_head(*weights, *grads, batch_size)
  values = unmixed.features
  slopes = unmixed.errors @ weights[0].T / batch_size
  report: list[Row] = [{
      'layer': head.name, 'rank': batch_size, 'unknowns': batch_size,
      'equations': weights[0].shape[1], 'condition': 1.0,
      'residual': unmixed.residual}]
  for unit in below[::-1]:
    slopes = slopes * _slope(unit, values)
    values, slopes, row = _solve(slopes, *_leaves(update, unit))
    slopes = slopes @ _leaves(params, unit)[0].T
    report.append({'layer': unit.name, **row})
  return BatchInputs(values, unmixed.labels, unmixed, report)


def _leaves(tree, unit):
  """Kernel and bias of a unit's dense layer, float64."""
  layer = trees.at(tree, unit.linear.op.kernel_path[:-1])
  return tuple(np.asarray(layer[name], np.float64)
               for name in ('kernel', 'bias'))


def _has_slope(activation):
  return activation == 'relu' or activation in INVERTIBLE


def _slope(unit, values):
  """f'(z) from h = f(z), [B, F]."""
  if unit.activation is None:
    return np.ones_like(values)
  name = unit.activation.op.name
  if name == 'relu':
    return (values > _OFF * np.abs(values).max()).astype(float)
  return np.asarray(INVERTIBLE[name].slope(values), np.float64)


def _solve(slopes, kernel_update, bias_update):
  """Inputs [B, F], slopes as the client had them, and a row of the report."""
  known = np.vstack([kernel_update, bias_update])
  rows, _, rank, spread = np.linalg.lstsq(slopes.T, known.T, rcond=_FAINT)
  *inputs, kept = rows.T
  misfit = np.linalg.norm(slopes.T @ rows - known.T) / np.linalg.norm(known)
  gain = kept.mean()  # 1, or 1 / (1 - rate) of dropout
  row = {'rank': int(rank), 'unknowns': len(slopes),
         'equations': slopes.shape[1],
         'condition': float(spread[0] / max(spread[-1], np.finfo(float).tiny)),
         'residual': float(max(misfit, np.abs(kept / gain - 1).max()))}
  return np.stack(inputs, -1) / gain, slopes * gain, row

"""Layers that are products and sums with parameters or constants.

Dense layers and convolutions with their bias, norms with running statistics,
learned positions, input scales.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from jax import lax

from vidleak_jax.victims.introspection import numpy_rules
from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection.patterns import AFFINE
from vidleak_jax.victims.introspection.tracing import (
  CONSTANT,
  DATA,
  PARAMETER,
  Path,
  Trace,
)

_TOLERANCE = 1e-4

Plan = tuple[ops.Operation, tuple[int, ...]]


def affine_plan(trace: Trace, value: int) -> Plan | None:
  """What computes a value by a chain of sums and products; None if none does.

  A first sum after a dense layer or a convolution is its bias.
  """
  equation = trace.made_by(value)
  if (linear := _linear(trace, value)) is not None:
    return linear, tuple(trace.data(equation))
  chain = _chain(trace, value)
  if not chain:
    return None
  source = _data(trace, chain[0])
  if (linear := _linear(trace, source)) is not None and (
      trace.sole_consumer(source) is not None):
    bias = _operand(trace, chain[0])
    if chain[0].name == 'add' and _is_bias(trace, source, bias):
      first, *chain = chain
      if not chain:
        linear = dataclasses.replace(linear, bias=trace.program((), bias))
        return linear, tuple(trace.data(trace.made_by(source)))
      source = first.outputs[0]
  return _steps(trace, chain, source)


def _chain(trace, value):
  """The sums and products that end at a value, the first first."""
  chain = []
  while (equation := trace.made_by(value)) is not None and _is_step(
      trace, equation) and (not chain or trace.sole_consumer(value)):
    chain.insert(0, equation)
    value = _data(trace, equation)
  # Numbers at the front may be the end of an activation.
  while chain and value != trace.clip and trace.scalar(
      _operand(trace, chain[0])) is not None:
    chain.pop(0)
  # A chain of numbers alone is looked at as an elementwise region.
  if all(trace.scalar(_operand(trace, e)) is not None for e in chain):
    return []
  return chain


def _is_step(trace, equation):
  if equation.name not in AFFINE or len(trace.data(equation)) != 1:
    return False
  if equation.name == 'div' and trace.level[equation.inputs[1]] == DATA:
    return False
  data = _data(trace, equation)
  return trace.shapes[data] == trace.shapes[equation.outputs[0]]


def _data(trace, equation):
  return trace.data(equation)[0]


def _operand(trace, equation):
  first, second = equation.inputs
  return second if trace.level[first] == DATA else first


def _steps(trace, chain, source) -> Plan:
  """A norm, positions, or a plain affine map."""
  operands = [_operand(trace, e) for e in chain]
  affine = ops.Affine(tuple(
      (e.name, trace.level[e.inputs[0]] == DATA, trace.program((), operand))
      for e, operand in zip(chain, operands)))
  if all(trace.level[v] == CONSTANT for v in operands):
    return affine, (source,)
  if len(chain) > 1 or chain[0].name != 'add':
    norm = _fixed_norm(trace, affine, operands, trace.shapes[source])
    if norm is not None:
      return norm, (source,)
  # The last step alone; the others are another node's.
  last = chain[-1]
  source = _data(trace, last)
  if last.name == 'add' and trace.level[operands[-1]] == PARAMETER:
    return ops.Positions(affine.steps[-1][-1]), (source,)
  return ops.Affine(affine.steps[-1:]), (source,)


def _linear(trace, value) -> ops.Linear | None:
  """The product with a kernel that makes a value, if one does."""
  equation = trace.made_by(value)
  if equation is None or equation.name not in (
      'dot_general', 'conv_general_dilated') or len(trace.data(equation)) != 1:
    return None
  first, second = equation.inputs
  data_first = trace.level[first] == DATA
  kernel = second if data_first else first
  program = trace.program((), kernel)
  params = equation.params
  if equation.name == 'dot_general':
    contract, batch = params['dimension_numbers']
    if batch[0]:
      return None
    if not data_first:
      contract, batch = contract[::-1], batch[::-1]
    numbers = tuple(map(_ints, contract)), tuple(map(_ints, batch))
    kept = len(trace.shapes[kernel]) - len(contract[1])
    return ops.Dense(program, None, numbers, data_first, kept)
  if not data_first or params['batch_group_count'] != 1:
    return None
  numbers = lax.ConvDimensionNumbers(*map(_ints, params['dimension_numbers']))
  window = tuple(trace.shapes[kernel][a] for a in numbers.rhs_spec[2:])
  return ops.Conv(
      program, None, window, _ints(params['window_strides']),
      tuple(map(_ints, params['padding'])), _ints(params['lhs_dilation']),
      _ints(params['rhs_dilation']), params['feature_group_count'], numbers)


def _is_bias(trace, value, operand):
  """Whether a sum's operand differs between features alone."""
  equation = trace.made_by(value)
  ndim = len(trace.shapes[value])
  if equation.name == 'dot_general':
    first, second = equation.inputs
    data_first = trace.level[first] == DATA
    kernel = second if data_first else first
    contract = equation.params['dimension_numbers'][0]
    count = len(trace.shapes[kernel]) - len(contract[data_first])
    features = range(ndim - count, ndim) if data_first else range(count)
  else:
    features = [equation.params['dimension_numbers'].out_spec[1]]
  varied = varied_axes(trace, operand)
  return varied <= set(features) and (varied or all(
      trace.shapes[value][a] == 1 for a in features))


def varied_axes(trace: Trace, value: int) -> set[int]:
  """The axes along which a value is not the same by construction."""
  equation = trace.made_by(value)
  if equation is not None and equation.name == 'broadcast_in_dim':
    axes = equation.params['broadcast_dimensions']
    return {int(axes[a]) for a in varied_axes(trace, equation.inputs[0])}
  return {a for a, size in enumerate(trace.shapes[value]) if size > 1}


def _fixed_norm(trace, affine, operands, shape) -> ops.Norm | None:
  """The norm whose parts are leaves; None if a part is something else.

  Each leaf's part is what a change of it does to scale and shift.
  """
  paths = affine.paths
  sizes = {path: trace.shapes[value] for value, path in trace.leaves.items()}
  widths = {sizes[path] for path in paths}
  axes = set().union(*(varied_axes(trace, v) for v in operands))
  if len(widths) != 1 or len(paths) > 4 or len(axes) > 1:
    return None
  width, = widths
  if len(width) != 1:
    return None
  channel = axes.pop() if axes else len(shape) - 1
  random = np.random.default_rng(0)
  leaves = {path: random.uniform(0.5, 1.5, width).astype(np.float32)
            for path in paths}
  maps = _Maps(affine, leaves)
  parts, eps = {}, 0.0
  for path in paths:
    part, eps = _part(maps, path, eps)
    if part in parts:
      return None
    parts[part] = path
  stopped = {path for *_, operand in affine.steps for path in operand.paths
             if 'stop_gradient' in operand.primitives}
  constant = parts.get('mean') in stopped or parts.get('var') in stopped
  norm = ops.Norm('fixed', channel, eps=eps, constant=constant, **parts)
  own = {part: ops.by_channel(leaves[path], len(shape), channel)
         for part, path in parts.items()}
  scale = own.get('scale', 1.0) / np.sqrt(own.get('var', 1.0 - eps) + eps)
  expected = scale, own.get('bias', 0.0) - own.get('mean', 0.0) * scale
  same = all(np.allclose(*pair, _TOLERANCE, _TOLERANCE)
             for pair in zip(expected, maps()))
  return norm if same else None


class _Maps(NamedTuple):
  """The scale and shift of affine steps for numbers that are tried."""
  affine: ops.Affine
  leaves: dict[Path, np.ndarray]

  def __call__(self):
    return self.changed({})

  def changed(self, leaves):
    """(scale, shift) with other values of some leaves."""
    leaves = self.leaves | leaves
    steps = tuple(
        (name, first, lambda _, o=operand: numpy_rules.evaluate(o, leaves))
        for name, first, operand in self.affine.steps)
    with np.errstate(divide='ignore'):
      return ops.Affine(steps).scale_shift({})


def _part(maps, path, eps):
  """(which part of a norm a leaf is, eps where it is the variance)."""
  close = functools.partial(np.allclose, rtol=1e-4, atol=1e-5)
  old, (scale, shift) = maps.leaves[path], maps()
  new_scale, _ = maps.changed({path: 2 * old})
  if close(new_scale, scale):
    grown = maps.changed({path: old + 1})[1] - shift
    return ('bias' if close(grown, 1.0) else 'mean'), eps
  if close(new_scale, 2 * scale):
    return 'scale', eps
  none, one = (maps.changed({path: np.full_like(old, v)})[0]
               for v in (0.0, 1.0))
  ratio = float(np.mean(np.square(none / one)))
  return 'var', float(f'{1 / (ratio - 1):.4g}') if np.isfinite(ratio) else 0.0


def _ints(numbers):
  return tuple(int(n) for n in numbers)

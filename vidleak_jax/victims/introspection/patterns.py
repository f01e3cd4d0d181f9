"""Layers that are several equations: norms, attention, pooling by slices."""

import numpy as np

from vidleak_jax.victims.introspection import moments
from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection.tracing import DATA, Trace, is_move

AFFINE = frozenset(('add', 'sub', 'mul', 'div'))

# value -> (what computes it, from which values)
Claims = dict[int, tuple[ops.Operation, tuple[int, ...]]]


def find(trace: Trace) -> Claims:
  """All patterns of a network."""
  claims: Claims = {}
  known = {}
  for equation in trace.equations:
    value = equation.outputs[0]
    if trace.level[value] != DATA:
      continue
    if equation.name in ('rsqrt', 'sqrt', 'pow', 'integer_pow'):
      claims |= moments.norm(trace, value, known)
    elif equation.name == 'div':
      claims |= _attention(trace, value)
    elif equation.name == 'max':
      claims |= _sliced_max(trace, value, claims)
  return claims


# --- attention ---


def _attention(trace, value) -> Claims:
  """A softmax at its division, or the attention around it."""
  top, bottom = trace.made_by(value).inputs
  exp = trace.made_by(top)
  if exp is None or exp.name != 'exp':
    return {}
  while is_move(trace, bottom):
    bottom = trace.made_by(bottom).inputs[0]
  total = trace.made_by(bottom)
  if total is None or total.name != 'reduce_sum' or total.inputs[0] != top:
    return {}
  scores = exp.inputs[0]
  shifted = trace.made_by(scores)
  if shifted is not None and shifted.name == 'sub' and (
      len(trace.data(shifted)) == 2):
    scores = trace.dominator[scores]
  claims = {value: (ops.Softmax(trace.program((scores,), value)), (scores,))}
  mixed = _forward_product(trace, value)
  queried = _backward_product(trace, scores)
  if mixed is None or queried is None:
    return claims
  output, values = mixed
  inputs = (*trace.data(queried), values)
  try:
    program = trace.program(inputs, output)
  except KeyError:
    return claims
  return claims | {output: (ops.Attention(program), inputs)}


def _forward_product(trace, value):
  """(output, values) of the product that mixes the values."""
  while (equation := trace.sole_consumer(value)) is not None:
    data = trace.data(equation)
    output = equation.outputs[0]
    if equation.name == 'dot_general' and len(data) == 2:
      return output, data[1 - data.index(value)]
    if len(data) > 1:
      return None
    value = output
  return None


def _backward_product(trace, value):
  """The equation of queries times keys, above scale and mask."""
  while (equation := trace.made_by(value)) is not None:
    data = trace.data(equation)
    if equation.name == 'dot_general' and len(data) == 2:
      return equation
    if len(data) != 1 or not (
        equation.name in AFFINE | {'select_n', 'convert_element_type'}
        or is_move(trace, value)):
      return None
    value = data[0]
  return None


# --- pooling ---


def _sliced_max(trace, value, claims) -> Claims:
  """Max pooling along one axis, as the maximum of strided slices."""
  leaves, pending = [], list(trace.made_by(value).inputs)
  while pending:
    part = pending.pop()
    if trace.level[part] != DATA:
      return {}
    equation = trace.made_by(part)
    if equation is not None and equation.name == 'max':
      pending.extend(equation.inputs)
    elif equation is not None and equation.name == 'slice':
      leaves.append(equation)
    else:
      return {}
  sources = {e.inputs[0] for e in leaves}
  if len(sources) != 1:
    return {}
  source = sources.pop()
  starts = np.sort(np.array([e.params['start_indices'] for e in leaves]), 0)
  axes = np.flatnonzero(starts[0] != starts[-1])
  if len(axes) != 1:
    return {}
  axis = int(axes[0])
  taps = len(leaves)
  if not np.array_equal(starts[:, axis], starts[0, axis] + np.arange(taps)):
    return {}
  strides = leaves[0].params['strides'] or (1,) * len(starts[0])
  padding = [(0, 0)] * len(strides)
  low, length = 0, trace.shapes[source][axis]
  padded = trace.made_by(source)
  if padded is not None and padded.name == 'pad' and (
      trace.scalar(padded.inputs[1]) == -np.inf):
    config = padded.params['padding_config']
    if all(c == (0, 0, 0) for a, c in enumerate(config) if a != axis):
      low, source = config[axis][0], padded.inputs[0]
      length = trace.shapes[source][axis]
  low -= int(starts[0, axis])
  size = trace.shapes[value][axis]
  high = (size - 1) * strides[axis] + taps - length - low
  padding[axis] = int(low), int(high)
  window = tuple(taps if a == axis else 1 for a in range(len(strides)))
  if any(s != 1 for a, s in enumerate(strides) if a != axis):
    return {}
  pool = ops.Pool('max', window, tuple(strides), tuple(padding))
  return {value: _merged(trace, pool, source, claims)}


def _merged(trace, pool, source, claims):
  """With the pooling of other axes just before, if there is one."""
  before, inputs = claims.get(source, (None, (source,)))
  if not isinstance(before, ops.Pool) or before.reduction != 'max' or any(
      a > 1 and b > 1 for a, b in zip(before.window, pool.window)):
    return pool, (source,)
  return ops.Pool(
      'max', tuple(map(max, before.window, pool.window)),
      tuple(map(max, before.strides, pool.strides)),
      tuple(max(a, b, key=lambda p: (abs(p[0]) + abs(p[1])))
            for a, b in zip(before.padding, pool.padding))), inputs

"""Layers that are several equations: data-dependent norms, attention, pooling.

Norms and softmax are recognised by what they answer to random numbers, so it
does not matter how they were written.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from vidleak_jax.victims import numpy_rules
from vidleak_jax.victims import operations as ops
from vidleak_jax.victims.tracing import CONSTANT, DATA, Path, Trace

MOVES = frozenset((
    'reshape', 'transpose', 'squeeze', 'expand_dims', 'broadcast_in_dim',
    'slice', 'pad', 'rev', 'split', 'gather', 'dynamic_slice', 'copy',
    'stop_gradient', 'reduce_precision', 'optimization_barrier'))
AFFINE = frozenset(('add', 'sub', 'mul', 'div'))
_LEVELS_UP = 12    # dominators to look at for a norm's input
_SPREAD = 0.1      # of random inputs: their variance must show eps
_TOLERANCE = 2e-4  # float32, after a fast variance's cancellation

# value -> (what computes it, from which values)
Claims = dict[int, tuple[ops.Operation, tuple[int, ...]]]


def is_move(trace: Trace, value: int) -> bool:
  """Whether a value is other data, only moved."""
  equation = trace.made_by(value)
  if equation is None or equation.name not in MOVES:
    return False
  first, *rest = equation.inputs
  return trace.level[first] == DATA and all(
      trace.level[v] == CONSTANT for v in rest)


def find(trace: Trace, twice: Trace, there: dict[int, int]) -> Claims:
  """All patterns of a network.

  Args:
    trace: of the network.
    twice: of the same network for more clips at once, which tells the batch's
      statistics from a clip's.
    there: value of `trace` -> the same of `twice`.
  """
  claims: Claims = {}
  known = {}
  for equation in trace.equations:
    value = equation.outputs[0]
    if trace.level[value] != DATA:
      continue
    if equation.name in ('rsqrt', 'sqrt', 'pow', 'integer_pow'):
      claims |= _norm(trace, twice, there, value, known)
    elif equation.name == 'div':
      claims |= _attention(trace, value)
    elif equation.name == 'max':
      claims |= _sliced_max(trace, value, claims)
  return claims


# --- norms ---


def _norm(trace, twice, there, root, known) -> Claims:
  """The norm around `1 / sqrt(var + eps)`, at its last equation."""
  exits = list(_exits(trace, root))
  if not exits:
    return {}
  best = None
  source = root
  for _ in range(_LEVELS_UP):
    complete = best is not None and best[0][1]
    if source == trace.clip or (complete and not is_move(trace, source)):
      break
    source = trace.dominator[source]
    if np.prod(trace.shapes[source]) != np.prod(trace.shapes[exits[0]]):
      continue
    if source not in there or exits[0] not in there:
      continue
    found = _fit(twice, there[source], {there[v]: v for v in exits
                                        if v in there},
                 _eps(trace, root), known)
    if found is None:
      continue
    same = trace.shapes[source] == trace.shapes[found[1]]
    moments = found[0].form != 'rms'
    if best is None or (same, moments) >= best[0]:
      best = (same, moments), found, source
  if best is None:
    return {}
  _, (operation, value), source = best
  return {value: (operation, (source,))}


def _exits(trace, root) -> Iterator[int]:
  """Values that may be a norm's output, the first first."""
  value, size = root, 0
  while (equation := trace.sole_consumer(value)) is not None:
    data = trace.data(equation)
    value = equation.outputs[0]
    if not size:
      if len(data) > 1 and equation.name in ('mul', 'div'):
        size = np.prod(trace.shapes[value])
        yield value
      elif equation.name not in MOVES | {'mul', 'div', 'integer_pow'}:
        return
    elif len(data) > 1 or np.prod(trace.shapes[value]) != size:
      return
    elif equation.name in ('add', 'mul') or is_move(trace, value):
      yield value
    else:
      return


def _eps(trace, root):
  equation = trace.made_by(trace.made_by(root).inputs[0])
  if equation is not None and equation.name in ('add', 'max'):
    for value in equation.inputs:
      if (eps := trace.scalar(value)) is not None:
        return float(f'{eps:.6g}')
  return 0.0


def _fit(trace, source, exits, eps, known):
  """(Norm, exit): the last exit that is a norm of `source`; None if none is."""
  shape = trace.shapes[source]
  random = np.random.default_rng(0)
  x = (random.normal(size=shape) * _SPREAD + 0.2).astype(np.float32)
  best = None
  for value in exits:
    try:
      program = trace.program((source,), value)
    except KeyError:
      break
    key = (shape, eps, trace.shapes[value], program.equations and tuple(
        (e.name, str(e.params), tuple(trace.shapes[v] for v in e.inputs))
        for e in program.equations))
    if key not in known:
      known[key] = _match(trace, program, x, eps, best)
    roles = known[key]
    if roles is None:
      if best is not None:
        break
      continue
    if best and trace.shapes[best[1]] == shape != trace.shapes[value]:
      break  # flattened
    norm, scale, bias = roles
    paths = program.paths
    best = dataclasses.replace(
        norm, scale=None if scale is None else paths[scale],
        bias=None if bias is None else paths[bias]), value
  return best and (best[0], exits[best[1]])


def _match(trace, program, x, eps, best):
  """(Norm, index of the scale's leaf, of the bias's) that answers the same."""
  if len(program.leaves) > 2:
    return None
  random = np.random.default_rng(1)
  leaves = {
      path: random.normal(size=trace.shapes[value]).astype(x.dtype)
      for value, path in program.leaves}
  answer = numpy_rules.evaluate(program, leaves, x)
  for norm in [best[0]] if best else _norms(x.shape, eps):
    white = _whiten(x, norm)
    for scale, bias in _roles(program.paths):
      own = dataclasses.replace(norm, scale=scale, bias=bias)
      try:
        guess = _finish(white, own, leaves).reshape(answer.shape)
      except (TypeError, ValueError):  # leaves of another shape
        continue
      if np.allclose(guess, answer, _TOLERANCE, _TOLERANCE):
        index = program.paths.index
        return (norm, None if scale is None else index(scale),
                None if bias is None else index(bias))
  return None


def _whiten(x, norm):
  """`operations.whiten` in NumPy."""
  shape, axes, c = x.shape, norm.axes, norm.channel_axis
  if norm.groups:
    x = x.reshape(*shape[:c], norm.groups, shape[c] // norm.groups,
                  *shape[c + 1:])
    axes = tuple(a + 1 if a >= c else a for a in axes)
  if norm.form != 'rms':
    x = x - x.mean(axes, keepdims=True)
  var = np.mean(x * x, axes, keepdims=True)
  return (x / np.sqrt(var + norm.eps)).reshape(shape)


def _finish(white, norm, leaves):
  """Scale and bias after the norm's statistics."""
  scale, bias = (ops.by_channel(leaves[path], white.ndim, norm.channel_axis)
                 if path else default
                 for path, default in ((norm.scale, 1.0), (norm.bias, 0.0)))
  return white * scale + bias


def _roles(paths: tuple[Path, ...]):
  if not paths:
    return [(None, None)]
  if len(paths) == 1:
    return [(paths[0], None), (None, paths[0])]
  return [paths, paths[::-1]]


def _norms(shape, eps) -> Iterator[ops.Norm]:
  """Norms that an array [N, ...] may have gone through."""
  ndim, everything = len(shape), tuple(range(len(shape)))
  make = functools.partial(ops.Norm, eps=eps)
  for form in ('layer', 'rms'):
    for first in range(ndim - 1, 0, -1):
      yield make(form, ndim - 1, everything[first:])
  for channel in dict.fromkeys((ndim - 1, 1)) if ndim > 1 else ():
    others = tuple(a for a in everything if a != channel)
    yield make('batch', channel, others)
    for groups in range(1, shape[channel] + 1):
      if shape[channel] % groups == 0:
        yield make('group', channel, (*others[1:], channel), groups)


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

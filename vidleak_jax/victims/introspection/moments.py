"""Norms with the data's own mean and variance.

They are recognised by what they answer to random numbers, so it does not matter
how they were written.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from vidleak_jax.victims.introspection import numpy_rules
from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection.tracing import (
  MOVES,
  Path,
  Trace,
  is_move,
)

_LEVELS_UP = 12    # dominators to look at for a norm's input
_SPREAD = 0.1      # of random inputs: their variance must show eps
_SAMPLE = 4096     # numbers that are compared
_TOLERANCE = 2e-4  # float32, after a fast variance's cancellation


def norm(
    trace: Trace, root: int, known: dict
) -> dict[int, tuple[ops.Norm, tuple[int, ...]]]:
  """{its last value: (the norm, its input)} around `1 / sqrt(var + eps)`.

  Args:
    trace: of the network.
    root: the value of the root.
    known: matches of earlier norms, which are added to.
  """
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
    maker = trace.made_by(source)
    if maker is not None and maker.name == 'sub' and (
        len(trace.data(maker)) == 2):
      continue  # the mean is taken off already
    if np.prod(trace.shapes[source]) != np.prod(trace.shapes[exits[0]]):
      continue
    found = _fit(trace, source, exits, _eps(trace, root), known)
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
      known[key] = _match(trace, program, shape, eps, best)
    roles = known[key]
    if roles is None:
      break
    if best and trace.shapes[best[1]] == shape != trace.shapes[value]:
      break  # flattened
    norm, scale, bias = roles
    paths = program.paths
    best = dataclasses.replace(
        norm, scale=None if scale is None else paths[scale],
        bias=None if bias is None else paths[bias]), value
  return best


def _match(trace, program, shape, eps, best):
  """(Norm, index of the scale's leaf, of the bias's) that answers the same."""
  if len(program.leaves) > 2:
    return None
  random = np.random.default_rng(0)
  x = random.standard_normal(shape, np.float32) * _SPREAD + 0.2
  leaves = {
      path: random.standard_normal(trace.shapes[value], np.float32)
      for value, path in program.leaves}
  sample = random.integers(x.size, size=min(x.size, _SAMPLE))
  answer = numpy_rules.evaluate(program, leaves, x).ravel()[sample]
  # The form that fits up to an earlier equation is the likeliest.
  likely = [dataclasses.replace(best[0], scale=None, bias=None)] if best else []
  for norm in (*likely, *_norms(shape, eps)):
    white = _whiten(x, norm)
    for scale, bias in _roles(program.paths):
      own = dataclasses.replace(norm, scale=scale, bias=bias)
      try:
        guess = _finish(white, own, leaves).ravel()[sample]
      except ValueError:  # leaves of another shape
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

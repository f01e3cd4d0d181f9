"""From what computes each value to the nodes of a layer graph."""

import collections
import difflib
from collections.abc import Sequence
from typing import NamedTuple

from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection.graph import Node
from vidleak_jax.victims.introspection.tracing import Trace

# What computes a value, from which; the operation is None of the same value.
Plan = tuple[ops.Operation | None, tuple[int, ...]]


class _Step(NamedTuple):
  """How one value is computed."""
  value: int
  operation: ops.Operation
  inputs: tuple[int, ...]


def nodes(
    traces: Sequence[Trace], plans: Sequence[list[tuple[int, Plan]]],
    batch_size: int,
) -> tuple[Node, ...]:
  """The nodes, with what a larger batch tells about shapes and norms.

  Args:
    traces: of the network for `batch_size` clips, and for more.
    plans: of each trace, (value, its plan) in the order of computation.
    batch_size: of the first trace.
  """
  trace = traces[0]
  steps, more = map(_steps, plans)
  names = {trace.clip: 'clip'}
  found = [Node('clip', ops.Input(), (), trace.shapes[trace.clip][1:])]
  counts = collections.Counter(('clip',))
  twins = _twins(steps, more)
  for step in steps:
    operation, twin = step.operation, twins.get(step.value)
    shapes = [trace.shapes[step.value]]
    if twin is not None:
      shapes.append(traces[1].shapes[twin.value])
      if isinstance(operation, ops.Norm) and operation.form != 'fixed' and (
          len(shapes[0]) == len(shapes[1])):
        operation = twin.operation  # of one clip, batch and instance are one
    name = _name(operation)
    counts[name] += 1
    if counts[name] > 1 or not operation.paths:
      name = f'{name}#{counts[name]}'
    names[step.value] = name
    found.append(Node(name, operation, tuple(names[v] for v in step.inputs),
                      _without_batch(*shapes, batch_size=batch_size)))
  return tuple(found)


def _twins(steps, more) -> dict[int, _Step]:
  """value -> the same step of the trace with more clips."""
  keys = [[(step.operation.kind, step.operation.paths) for step in each]
          for each in (steps, more)]
  matcher = difflib.SequenceMatcher(None, *keys, autojunk=False)
  return {steps[i + k].value: more[j + k]
          for i, j, size in matcher.get_matching_blocks() for k in range(size)}


def _name(operation: ops.Operation) -> str:
  if not operation.paths:
    return getattr(operation, 'name', operation.kind)
  path = operation.paths[0]
  if isinstance(operation, ops.Positions):
    return '/'.join(path)
  *before, last = path
  return '/'.join(before) or last.rpartition('.')[0] or last


def _without_batch(once, twice=None, *, batch_size):
  """The shape of one clip; frames in the batch axis stay there."""
  if twice is None or len(once) != len(twice):
    return once[1:] if once[:1] == (batch_size,) else once
  for axis, (size, more) in enumerate(zip(once, twice)):
    if more != size:
      own = (size // batch_size,) if size > batch_size else ()
      return once[:axis] + own + once[axis + 1:]
  return once


def _steps(plans: list[tuple[int, Plan]]) -> list[_Step]:
  """Plans without those that compute nothing."""
  origin, found = {}, []
  for value, (operation, inputs) in plans:
    sources = tuple(origin.get(v, v) for v in inputs)
    if operation is None:
      origin[value], = sources
    else:
      found.append(_Step(value, operation, sources))
  if plans and plans[-1][0] in origin:  # the logits are an earlier value
    last = next(i for i, step in enumerate(found)
                if step.value == origin[plans[-1][0]])
    found.append(found.pop(last))
  return found

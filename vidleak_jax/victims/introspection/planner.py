"""Finds out what a network is, from its equations alone.

Usage:
  graph = introspect(victim.logits, params, clip_shape)
  graph.head, structure.chain(graph), structure.blocks(graph)
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.types import Array, Params, PRNGKey
from vidleak_jax.victims.introspection import (
  activations,
  assembly,
  numpy_rules,
  patterns,
  tracing,
)
from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection.assembly import Plan
from vidleak_jax.victims.introspection.graph import LayerGraph, evaluate
from vidleak_jax.victims.introspection.steps import affine_plan
from vidleak_jax.victims.introspection.tracing import DATA, Trace

ELEMENTWISE = patterns.AFFINE | frozenset((
    'neg', 'max', 'min', 'exp', 'exp2', 'expm1', 'log', 'log1p', 'logistic',
    'tanh', 'erf', 'erfc', 'erf_inv', 'sin', 'cos', 'tan', 'sinh', 'cosh',
    'atan', 'square', 'sqrt', 'rsqrt', 'cbrt', 'pow', 'integer_pow', 'abs',
    'sign', 'floor', 'ceil', 'round', 'select_n', 'clamp', 'eq', 'ne', 'ge',
    'gt', 'le', 'lt', 'and', 'or', 'not', 'is_finite',
    'convert_element_type'))


def introspect(
    logits: Callable[[Params, Array], Array], params: Params,
    clip_shape: tuple[int, ...], batch_size: int = 1,
) -> LayerGraph:
  """The layer graph of a network.

  The network is traced, never run on a clip; it may be linen, nnx, an imported
  torch module or plain JAX. Parts that are not understood become opaque nodes,
  through which `graph.evaluate` still computes. A recurrent node keeps the
  precision that it was traced in: pass float64 params for a float64 graph.

  Args:
    logits: (params, clips [B, T, H, W, C]) -> [B, K].
    params: arrays or ShapeDtypeStructs.
    clip_shape: (T, H, W, C).
    batch_size: B of the clips that `graph.evaluate` will be given.

  Raises:
    UserError: the network answers with more than one array.
  """
  shape = tuple(clip_shape)
  traces = [tracing.trace(logits, params, shape, size * batch_size)
            for size in (1, 2)]
  nodes = assembly.nodes(
      traces, [_Planner(trace).plans() for trace in traces], batch_size)
  leaf_shapes = {
      path: tuple(leaf.shape)
      for path, leaf in tracing.leaves_of(params).items()}
  graph = LayerGraph(nodes, nodes[-1].name, shape, batch_size, leaf_shapes, ())
  return dataclasses.replace(graph, unsupported=_unsupported(graph, params))


def discrepancy(
    graph: LayerGraph, logits: Callable[[Params, Array], Array], params: Params,
    key: PRNGKey,
) -> float:
  """How far the graph's logits are from the network's, on a random clip.

  Relative to the largest logit. An attack that relies on the graph checks this
  first: rounding is 1e-6 or so, a layer that was mistaken for another far more.
  """
  clips = jax.random.uniform(key, (graph.batch_size, *graph.clip_shape))
  found, expected = jax.jit(lambda params: (
      evaluate(graph, params, clips), logits(params, clips)))(params)
  return float(jnp.max(jnp.abs(found - expected)) / jnp.max(jnp.abs(expected)))


class _Planner:
  """Decides which operation computes each value that the logits need."""

  def __init__(self, trace: Trace):
    self.trace = trace
    self.claims = patterns.find(trace)
    self.roots = _roots(trace)

  def plans(self) -> list[tuple[int, Plan]]:
    """(value, its plan) in the order in which they are computed."""
    trace, found, pending = self.trace, {}, list(self.trace.outputs)
    while pending:
      value = pending.pop()
      if value not in found and value != trace.clip:
        found[value] = self._plan(value)
        pending.extend(found[value][1])
    return sorted(found.items(), key=lambda item: trace.producer[item[0]])

  def _plan(self, value: int) -> Plan:
    trace = self.trace
    if value in self.claims:
      return self.claims[value]
    equation = trace.made_by(value)
    if trace.level[value] != DATA:  # logits that no pixel moves
      return ops.Opaque(trace.program((), value), 'constant'), ()
    data = trace.data(equation)
    if trace.is_identity(equation):
      return None, tuple(data)
    if (plan := affine_plan(trace, value)) is not None:
      return plan
    if self.roots[value] != value:
      return self._elementwise(value)
    if tracing.is_move(trace, value):
      return self._moved(value)
    single = {
        'reduce_sum': self._reduced, 'reduce_max': self._reduced,
        'reduce_window_sum': self._pooled, 'reduce_window_max': self._pooled}
    if equation.name in single:
      return single[equation.name](equation, data)
    inputs = tuple(dict.fromkeys(data))
    program = trace.program(inputs, value)
    if equation.name == 'add' and len(data) == 2:
      return ops.Add(), tuple(data)
    if equation.name == 'concatenate':
      return ops.Concat(program), inputs
    if equation.name in ('scan', 'while'):
      return ops.Recurrent(program), inputs
    return ops.Opaque(program, equation.name), inputs

  def _elementwise(self, value: int) -> Plan:
    """The longest last stretch of a region that is one known function."""
    trace, root = self.trace, self.roots[value]
    starts = [value]
    while starts[-1] != root:
      starts.append(trace.dominator[starts[-1]])
    for start in starts[:0:-1]:
      answers = self._on_grid(start, value)
      if (line := activations.line(answers)) is not None:
        return self._scaled(start, value, line)
      if (known := activations.recognise(answers)) is not None:
        return known, (start,)
    program = trace.program((root,), value)
    return ops.Activation('other', functools.partial(program, {})), (root,)

  def _scaled(self, start: int, value: int, line: tuple[float, float]) -> Plan:
    trace, (slope, shift) = self.trace, line
    equation = trace.made_by(start)
    alone = equation is not None and len(trace.consumers[start]) == 1
    if alone and shift == 0 and (
        mean := self._mean(equation, start, slope)) is not None:
      return mean
    if alone and equation.name == 'reduce_window_sum' and shift == 0:
      (pool, inputs) = self._pooled(equation, [equation.inputs[0]])
      if math.isclose(slope * math.prod(pool.window), 1, rel_tol=1e-5):
        return ops.Pool('mean', pool.window, pool.strides, pool.padding), inputs
    if line == (1.0, 0.0):
      if trace.dtypes[start] == trace.dtypes[value]:
        return None, (start,)
      return ops.Move(trace.program((start,), value)), (start,)
    steps = [('mul', True, _number(slope, trace.dtypes[value])),
             ('add', True, _number(shift, trace.dtypes[value]))]
    return ops.Affine(tuple(steps)), (start,)

  def _mean(self, equation, start, slope) -> Plan | None:
    """A sum that is divided by its count."""
    trace, shape = self.trace, self.trace.shapes[start]
    if equation.name == 'broadcast_in_dim' and (
        trace.sole_consumer(equation.inputs[0]) is not None):
      equation = trace.made_by(equation.inputs[0])
    if equation is None or equation.name != 'reduce_sum':
      return None
    source, = equation.inputs
    axes = _ints(equation.params['axes'])
    before = trace.shapes[source]
    kept = tuple(1 if a in axes else n for a, n in enumerate(before))
    gone = tuple(n for a, n in enumerate(before) if a not in axes)
    count = math.prod(before[a] for a in axes)
    if shape not in (kept, gone) or not math.isclose(
        slope * count, 1, rel_tol=1e-5):
      return None
    return ops.Reduce('mean', axes, shape != gone), (source,)

  def _on_grid(self, start: int, value: int) -> np.ndarray:
    """What the stretch from `start` to `value` answers on the grid."""
    trace = self.trace
    env = {start: activations.GRID}
    pending = [value]
    while pending:
      equation = trace.made_by(pending[-1])
      missing = [v for v in equation.inputs
                 if v not in env and trace.level[v] == DATA]
      if missing:
        pending.extend(missing)
        continue
      value = pending.pop()
      arrays = [env[v] if trace.level[v] == DATA else np.full(
          activations.GRID.shape, trace.scalar(v), trace.dtypes[v])
                for v in equation.inputs]
      env[value], = numpy_rules.apply(equation, arrays)
    return np.asarray(env[value])

  def _moved(self, value: int) -> Plan:
    """Moves in a row as one."""
    trace, source = self.trace, value
    while True:
      source = trace.made_by(source).inputs[0]
      if (trace.sole_consumer(source) is None or source in self.claims
          or not tracing.is_move(trace, source)):
        return ops.Move(trace.program((source,), value)), (source,)

  def _reduced(self, equation, data) -> Plan:
    reduction = equation.name.removeprefix('reduce_')
    return ops.Reduce(reduction, _ints(equation.params['axes'])), tuple(data)

  def _pooled(self, equation, data) -> Plan:
    params = equation.params
    dilated = (*params['base_dilation'], *params['window_dilation'])
    if any(d != 1 for d in dilated):
      program = self.trace.program(data, equation.outputs[0])
      return ops.Opaque(program, equation.name), tuple(data)
    return ops.Pool(
        equation.name.removeprefix('reduce_window_'),
        _ints(params['window_dimensions']), _ints(params['window_strides']),
        tuple(map(_ints, params['padding']))), tuple(data)


def _roots(trace: Trace) -> list[int]:
  """value -> what it is a function of, number by number; itself if of none."""
  roots = list(range(len(trace.shapes)))
  for equation in trace.equations:
    if equation.name not in ELEMENTWISE:
      continue
    value, = equation.outputs
    data = trace.data(equation)
    sources = {roots[v] for v in data}
    same = all(trace.shapes[v] == trace.shapes[value] for v in data)
    if len(sources) == 1 and same and all(
        trace.level[v] == DATA or trace.scalar(v) is not None
        for v in equation.inputs):
      roots[value] = sources.pop()
  return roots


def _unsupported(graph, params) -> tuple[str, ...]:
  notes = [
      f'parameter {"/".join(path)} is complex'
      for path, leaf in tracing.leaves_of(params).items()
      if jnp.issubdtype(leaf.dtype, jnp.complexfloating)]
  notes += [
      f'{node.name}: its kernel is computed from several parameters'
      for node in graph.of_kind('dense', 'conv')
      if node.op.kernel.paths and node.op.kernel_path is None]
  readers = collections.Counter(
      node.op.kernel_path for node in graph.of_kind('dense', 'conv'))
  notes += [f'kernel {"/".join(path)} is shared by {count} layers'
            for path, count in readers.items() if path and count > 1]
  if graph.head is None:
    last = graph.by_name[graph.output]
    notes.append(f'the logits come from {last.name} ({last.kind}), not from a '
                 'dense layer')
  for node in graph.nodes:
    if isinstance(node.op, ops.Opaque):
      notes.append(f'{node.name}: {node.op.primitive} is not understood')
    elif isinstance(node.op, ops.Norm) and node.op.form == 'batch':
      notes.append(f'{node.name}: batch norm with the statistics of the batch')
    elif node.kind == 'activation' and node.op.name == 'other':
      notes.append(f'{node.name}: an activation that is not known')
    elif node.kind in ('attention', 'softmax', 'recurrent'):
      notes.append(f'{node.name}: {node.kind} is not looked into')
  return tuple(notes)


def _number(number, dtype) -> tracing.Program:
  return tracing.Program((), 0, (), (), {0: np.asarray(number, dtype)})


def _ints(numbers) -> tuple[int, ...]:
  return tuple(int(n) for n in numbers)

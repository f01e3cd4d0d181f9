"""A network's equations as one flat list, and pieces of it as programs.

`trace` runs a network abstractly (`jax.make_jaxpr`) and inlines every call, so
that linen, nnx and plain JAX look alike. Values are integers. A value is a
constant, depends on parameters alone, or depends on the clip.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from vidleak_jax.types import Array, Params, UserError

Path = tuple[str, ...]  # of a leaf in the parameters
Leaves = Mapping[Path, Array]

CONSTANT, PARAMETER, DATA = range(3)
MOVES = frozenset((
    'reshape', 'transpose', 'squeeze', 'expand_dims', 'broadcast_in_dim',
    'slice', 'pad', 'rev', 'split', 'gather', 'dynamic_slice', 'copy',
    'stop_gradient', 'reduce_precision', 'optimization_barrier', 'tile'))
_CALLS = ('jit', 'pjit', 'closed_call', 'core_call', 'remat', 'remat2',
          'checkpoint', 'custom_jvp_call', 'custom_vjp_call')


class Equation(NamedTuple):
  """One primitive's application."""
  primitive: Any  # jax.extend.core.Primitive
  params: dict[str, Any]
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]

  @property
  def name(self) -> str:
    return self.primitive.name


@dataclasses.dataclass(eq=False)
class Trace:
  """All equations of a network, in the order in which they ran."""
  equations: list[Equation]
  shapes: list[tuple[int, ...]]
  dtypes: list[Any]
  constants: dict[int, Any]
  leaves: dict[int, Path]
  clip: int = -1
  outputs: tuple[int, ...] = ()

  @functools.cached_property
  def producer(self) -> dict[int, int]:
    """value -> index of the equation that computes it."""
    return {v: i for i, e in enumerate(self.equations) for v in e.outputs}

  @functools.cached_property
  def consumers(self) -> dict[int, list[int]]:
    """value -> indices of the equations that read it."""
    readers = {v: [] for v in range(len(self.shapes))}
    for i, equation in enumerate(self.equations):
      for value in dict.fromkeys(equation.inputs):
        readers[value].append(i)
    return readers

  @functools.cached_property
  def level(self) -> list[int]:
    """CONSTANT, PARAMETER or DATA of each value."""
    level = [CONSTANT] * len(self.shapes)
    for value in self.leaves:
      level[value] = PARAMETER
    level[self.clip] = DATA
    for equation in self.equations:
      highest = max((level[v] for v in equation.inputs), default=CONSTANT)
      for value in equation.outputs:
        level[value] = highest
    return level

  @functools.cached_property
  def dominator(self) -> dict[int, int]:
    """value -> the nearest value that the clip must pass to reach it."""
    dominators, depth = {self.clip: self.clip}, {self.clip: 0}
    for equation in self.equations:
      inputs = self.data(equation)
      if not inputs:
        continue
      common = inputs[0]
      for other in inputs[1:]:
        while common != other:
          if depth[common] < depth[other]:
            common, other = other, common
          common = dominators[common]
      for value in equation.outputs:
        dominators[value], depth[value] = common, depth[common] + 1
    return dominators

  def data(self, equation: Equation) -> list[int]:
    """The inputs of an equation that depend on the clip."""
    return [v for v in equation.inputs if self.level[v] == DATA]

  def made_by(self, value: int) -> Equation | None:
    """The equation behind a value; None of the clip, leaves and constants."""
    index = self.producer.get(value)
    return None if index is None else self.equations[index]

  def sole_consumer(self, value: int) -> Equation | None:
    """The only equation that reads a value, if there is just one."""
    consumers = self.consumers[value]
    if len(consumers) != 1 or value in self.outputs:
      return None
    return self.equations[consumers[0]]

  def is_identity(self, equation: Equation) -> bool:
    """Whether an equation hands its first input on unchanged."""
    value = equation.inputs[0] if equation.inputs else None
    same = value is not None and (
        self.shapes[value] == self.shapes[equation.outputs[0]]
        and self.dtypes[value] == self.dtypes[equation.outputs[0]])
    if same and equation.name == 'pad':  # a shift keeps the shape too
      return not any(map(any, equation.params['padding_config']))
    return same and len(equation.outputs) == 1 and equation.name in (
        'copy', 'slice', 'reshape', 'convert_element_type',
        'broadcast_in_dim', 'squeeze', 'split')

  def scalar(self, value: int) -> float | None:
    """The one number that a constant is or repeats; None of a vector."""
    if self.level[value] != CONSTANT:
      return None
    equation = self.made_by(value)
    while equation is not None and equation.name in (
        'broadcast_in_dim', 'reshape', 'convert_element_type', 'squeeze',
        'expand_dims'):
      value = equation.inputs[0]
      equation = self.made_by(value)
    if np.prod(self.shapes[value]) != 1:
      return None
    return np.asarray(self.program((), value)({})).item()

  def program(self, inputs: Iterable[int], output: int) -> 'Program':
    """What computes `output` from `inputs`, parameters and constants.

    Raises:
      KeyError: it needs other values of the clip too.
    """
    inputs = tuple(inputs)
    pending, wanted, used = [output], set(), []
    while pending:
      value = pending.pop()
      if value in wanted or value in inputs:
        continue
      wanted.add(value)
      if value in self.producer:
        used.append(self.producer[value])
        pending.extend(self.equations[used[-1]].inputs)
      elif value == self.clip:
        raise KeyError(f'Value {output} needs the clip besides {inputs}.')
    return Program(
        inputs, output, tuple(self.equations[i] for i in sorted(set(used))),
        tuple((v, self.leaves[v]) for v in sorted(wanted)
              if v in self.leaves),
        {v: self.constants[v] for v in wanted if v in self.constants})


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """A piece of a network: `program(leaves, *inputs)`."""
  inputs: tuple[int, ...]
  output: int
  equations: tuple[Equation, ...]
  leaves: tuple[tuple[int, Path], ...]
  constants: dict[int, Any]

  @property
  def paths(self) -> tuple[Path, ...]:
    """Paths of the parameters that it reads."""
    return tuple(dict.fromkeys(path for _, path in self.leaves))

  @property
  def primitives(self) -> tuple[str, ...]:
    return tuple(equation.name for equation in self.equations)

  def __call__(self, leaves: Leaves, *arrays: Array) -> Array:
    env = dict(self.constants)
    env |= {value: leaves[path] for value, path in self.leaves}
    env |= dict(zip(self.inputs, arrays))
    for equation in self.equations:
      env |= zip(equation.outputs,
                 apply(equation, [env[v] for v in equation.inputs]))
    return env[self.output]


def apply(equation: Equation, arrays: list[Array]) -> list[Array]:
  """An equation's outputs; floats of several widths meet in the widest."""
  params = dict(equation.params)
  floats = {jnp.result_type(a) for a in arrays
            if jnp.issubdtype(jnp.result_type(a), jnp.floating)}
  if len(floats) > 1 and equation.name not in ('scan', 'while', 'cond'):
    widest = jnp.result_type(*floats)
    arrays = [jnp.asarray(a, widest)
              if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a
              for a in arrays]
  if jnp.float64 in floats:
    # A network traced in float32 may be evaluated in float64.
    if equation.name == 'convert_element_type' and (
        params['new_dtype'] == jnp.float32):
      return arrays
    if params.get('preferred_element_type') == jnp.float32:
      params['preferred_element_type'] = None
  results = equation.primitive.bind(*arrays, **params)
  return results if equation.primitive.multiple_results else [results]


def is_move(trace: Trace, value: int) -> bool:
  """Whether a value is other data, only moved."""
  equation = trace.made_by(value)
  if equation is None or equation.name not in MOVES:
    return False
  first, *rest = equation.inputs
  return trace.level[first] == DATA and all(
      trace.level[v] == CONSTANT for v in rest)


def leaves_of(params: Params) -> dict[Path, Array]:
  """Leaves by their path, of dicts, lists, dataclasses and nnx states alike."""
  flat, _ = jax.tree_util.tree_flatten_with_path(params)
  return {path_of(keys): leaf for keys, leaf in flat}


def path_of(keys: tuple[Any, ...]) -> Path:
  """A pytree's key path in words."""
  words = []
  for key in keys:
    for name in ('key', 'name', 'idx'):
      if hasattr(key, name):
        words.append(str(getattr(key, name)))
        break
  if len(words) > 1 and words[-1] == 'value':  # of an nnx variable
    words.pop()
  return tuple(words)


def trace(
    logits: Callable[[Params, Array], Array], params: Params,
    clip_shape: tuple[int, ...], batch_size: int,
) -> Trace:
  """The equations of a network for clips [batch_size, *clip_shape].

  Args:
    logits: (params, clips) -> [B, K], in JAX throughout.
    params: arrays or ShapeDtypeStructs.
    clip_shape: (T, H, W, C).
    batch_size: B.

  Raises:
    UserError: it answers with more than one array.
  """
  flat, _ = jax.tree_util.tree_flatten_with_path(params)
  wide = any(leaf.dtype == jnp.float64 for _, leaf in flat)
  clips = jax.ShapeDtypeStruct(
      (batch_size, *clip_shape), jnp.float64 if wide else jnp.float32)
  structs = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
  closed = jax.make_jaxpr(logits)(structs, clips)
  if len(closed.jaxpr.outvars) != 1:
    raise UserError(
        f'The network answers with {len(closed.jaxpr.outvars)} arrays; logits '
        'must return one, [B, K]. Wrap it so that it returns the scores alone.')
  result = Trace([], [], [], {}, {})
  values = [_new(result, var.aval) for var in closed.jaxpr.invars]
  *weights, result.clip = values
  result.leaves = {v: path_of(keys) for v, (keys, _) in zip(weights, flat)}
  result.outputs = tuple(_inline(result, closed.jaxpr, closed.consts, values))
  return result


def _new(result, aval):
  result.shapes.append(tuple(aval.shape))
  result.dtypes.append(aval.dtype)
  return len(result.shapes) - 1


def _constant(result, value, aval):
  index = _new(result, aval)
  result.constants[index] = value
  return index


def _inline(result, jaxpr, consts, values):
  """Appends a jaxpr's equations; returns the values of its outputs."""
  env = dict(zip(jaxpr.invars, values))
  for var, const in zip(jaxpr.constvars, consts):
    env[var] = _constant(result, const, var.aval)

  def read(var):
    if isinstance(var, core.Literal):
      return _constant(result, np.asarray(var.val, var.aval.dtype), var.aval)
    return env[var]

  for eqn in jaxpr.eqns:
    inputs = [read(var) for var in eqn.invars]
    if eqn.primitive.name in _CALLS:
      inner = eqn.params.get('jaxpr', eqn.params.get('call_jaxpr'))
      closed = isinstance(inner, core.ClosedJaxpr)
      outputs = _inline(result, inner.jaxpr if closed else inner,
                        inner.consts if closed else (), inputs)
    else:
      outputs = [_new(result, var.aval) for var in eqn.outvars]
      result.equations.append(
          Equation(eqn.primitive, eqn.params, tuple(inputs), tuple(outputs)))
    env |= zip(eqn.outvars, outputs)
  return [read(var) for var in jaxpr.outvars]

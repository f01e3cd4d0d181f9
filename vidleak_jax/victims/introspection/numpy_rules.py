"""Common primitives in NumPy: numbers tried once need no compilation."""

import numpy as np

from vidleak_jax.victims.introspection import tracing
from vidleak_jax.victims.introspection.tracing import Equation, Leaves, Program


def evaluate(program: Program, leaves: Leaves, *arrays: np.ndarray
             ) -> np.ndarray:
  """What `program(leaves, *arrays)` answers, without compiling anything."""
  env = dict(program.constants)
  env |= {value: leaves[path] for value, path in program.leaves}
  env |= dict(zip(program.inputs, arrays))
  for equation in program.equations:
    env |= zip(equation.outputs,
               apply(equation, [env[v] for v in equation.inputs]))
  return np.asarray(env[program.output])


def apply(equation: Equation, arrays: list[np.ndarray]) -> list[np.ndarray]:
  """An equation's outputs, in NumPy where there is a rule."""
  rule = _RULES.get(equation.name)
  if rule is None:
    return [np.asarray(a) for a in tracing.apply(equation, arrays)]
  arrays = [np.asarray(a) for a in arrays]
  with np.errstate(all='ignore'):
    answer = np.asarray(rule(equation.params, *arrays))
  if answer.dtype == np.float64 and all(a.dtype != np.float64 for a in arrays):
    answer = answer.astype(np.float32)
  return [answer]


def _broadcast(params, x):
  shape = [1] * len(params['shape'])
  for axis, size in zip(params['broadcast_dimensions'], x.shape):
    shape[axis] = size
  return np.broadcast_to(x.reshape(shape), params['shape'])


def _slice(params, x):
  strides = params['strides'] or (1,) * x.ndim
  return x[tuple(map(
      slice, params['start_indices'], params['limit_indices'], strides))]


def _reduce(function):
  return lambda params, x: function(x, axis=tuple(map(int, params['axes'])))


def _plain(function):
  return lambda params, *arrays: function(*arrays)


_RULES = {
    'add': _plain(np.add),
    'sub': _plain(np.subtract),
    'mul': _plain(np.multiply),
    'div': _plain(np.divide),
    'neg': _plain(np.negative),
    'max': _plain(np.maximum),
    'min': _plain(np.minimum),
    'exp': _plain(np.exp),
    'log': _plain(np.log),
    'log1p': _plain(np.log1p),
    'expm1': _plain(np.expm1),
    'tanh': _plain(np.tanh),
    'abs': _plain(np.abs),
    'sign': _plain(np.sign),
    'square': _plain(np.square),
    'sqrt': _plain(np.sqrt),
    'rsqrt': lambda params, x: 1 / np.sqrt(x),
    'logistic': lambda params, x: 1 / (1 + np.exp(-x)),
    'integer_pow': lambda params, x: x ** params['y'],
    'ge': _plain(np.greater_equal),
    'gt': _plain(np.greater),
    'le': _plain(np.less_equal),
    'lt': _plain(np.less),
    'eq': _plain(np.equal),
    'ne': _plain(np.not_equal),
    'select_n': lambda params, which, *cases: np.select(
        [which == i for i in range(len(cases))], cases),
    'stop_gradient': _plain(np.asarray),
    'copy': _plain(np.asarray),
    'convert_element_type': lambda params, x: x.astype(params['new_dtype']),
    'reshape': lambda params, x: x.reshape(params['new_sizes']),
    'squeeze': lambda params, x: np.squeeze(
        x, tuple(map(int, params['dimensions']))),
    'transpose': lambda params, x: x.transpose(params['permutation']),
    'broadcast_in_dim': _broadcast,
    'slice': _slice,
    'reduce_sum': _reduce(np.sum),
    'reduce_max': _reduce(np.max),
}

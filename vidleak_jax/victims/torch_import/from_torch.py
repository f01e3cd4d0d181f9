"""A PyTorch network as a JAX function, through `torch.export`.

The module is exported to ATen operations once for each batch size, and the
rules of `aten` compute these in JAX: differentiable twice, under jit and vmap.
torch is needed only to call this, and is not imported before.
"""

import copy
import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax import optional
from vidleak_jax.types import Array, Params, UserError, pick
from vidleak_jax.victims.torch_import.aten import RULES

# layout of the module's input -> axes of [N, T, H, W, C] in its order
LAYOUTS: dict[str, tuple[int, ...]] = {
    'NCTHW': (0, 4, 1, 2, 3),  # torchvision, pytorchvideo
    'NTCHW': (0, 1, 4, 2, 3),  # transformers
    'NTHWC': (0, 1, 2, 3, 4),
    'NCHW': (0, 4, 2, 3),      # a network of single frames; T must be 1
}
_STATISTICS = 'running_mean', 'running_var'


class _Graph(NamedTuple):
  """An exported module: its fx graph, and what its inputs stand for."""
  nodes: tuple[Any, ...]
  inputs: dict[str, str]            # placeholder -> dotted name; '' of clips
  constants: dict[str, np.ndarray]  # placeholder -> its value
  output: str


def torch_to_jax(
    module: Any, clip_shape: tuple[int, ...], layout: str = 'NCTHW', *,
    lowering: str = 'lax',
) -> tuple[Callable[[Params, Array], Array], Params]:
  """(logits, params) of a torch module in evaluation mode.

  Args:
    module: a `torch.nn.Module` that takes one tensor of clips and answers
      scores [B, K], or an object with `logits`, as transformers' models do.
    clip_shape: (T, H, W, C).
    layout: of the module's input, a name of `LAYOUTS`.
    lowering: of its convolutions: 'lax', or 'matmul' (faster on a CPU; but
      `introspection` sees convolutions in 'lax' alone).

  Returns:
    logits: (params, clips [B, T, H, W, C]) -> [B, K], for any B.
    params: {dotted name: float array}, as in `module.named_parameters()`, and
      under 'batch_stats' the running statistics of its batch norms. Parameters
      that do not require a gradient get none; other buffers are constants.

  Raises:
    UserError: an unknown layout, a module that cannot be exported, that answers
      something else, or that uses an operation without a rule.
  """
  axes = pick(LAYOUTS, layout, 'layout of the torch module')
  pick({'lax': 0, 'matmul': 0}, lowering, 'convolution lowering')
  if layout == 'NCHW' and clip_shape[0] != 1:
    raise UserError(
        f'layout=NCHW is for networks of single frames, got clips of '
        f'{clip_shape[0]} frames. Choose one of: {", ".join(LAYOUTS)}; or wrap '
        'the module so that it takes clips.')
  module = copy.deepcopy(module).eval()
  params = _params(module)
  fixed = {name for name, leaf in module.named_parameters()
           if not leaf.requires_grad}
  export = functools.lru_cache(None)(
      functools.partial(_export, module, tuple(clip_shape), axes))

  def logits(params, clips):
    x = clips[:, 0].transpose(0, 3, 1, 2) if layout == 'NCHW' else (
        clips.transpose(axes))
    leaves = {name: jax.lax.stop_gradient(leaf) if name in fixed else leaf
              for name, leaf in params.items() if name != 'batch_stats'}
    leaves |= jax.lax.stop_gradient(params.get('batch_stats', {}))
    return _run(export(clips.shape[0]), leaves, x, lowering)

  # What cannot be exported or computed says so here.
  jax.eval_shape(logits, params, jax.ShapeDtypeStruct(
      (1, *clip_shape), jnp.result_type(*jax.tree.leaves(params), jnp.float32)))
  return logits, params


def _params(module) -> Params:
  params = {name: jnp.asarray(leaf.detach().numpy())
            for name, leaf in module.named_parameters()}
  stats = {name: jnp.asarray(leaf.numpy())
           for name, leaf in module.named_buffers()
           if name.rpartition('.')[2] in _STATISTICS}
  return params | ({'batch_stats': stats} if stats else {})


def _export(module, clip_shape, axes, batch_size) -> _Graph:
  """The module's graph for clips of a batch size."""
  torch = optional.load('torch')

  class Scores(torch.nn.Module):
    """The scores alone, of a model that answers more."""

    def __init__(self):
      super().__init__()
      self.module = module

    def forward(self, x):
      answer = self.module(x)
      return getattr(answer, 'logits', answer)

  shape = batch_size, *clip_shape
  dtype = next((p.dtype for p in module.parameters()), torch.float32)
  example = torch.zeros([shape[a] for a in axes], dtype=dtype)
  try:
    # No decomposition, but every operation on its own memory.
    exported = torch.export.export(
        Scores(), (example,), strict=False).run_decompositions({})
  except Exception as error:
    raise UserError(
        'torch.export cannot export this module for input '
        f'{tuple(example.shape)}: {error} See torch.export; or give the '
        'network as a JAX function.') from error
  return _graph(exported, example)


def _graph(exported, example) -> _Graph:
  names = {spec.arg.name: spec for spec in
           exported.graph_signature.input_specs}
  tensors = exported.state_dict | exported.constants
  inputs, constants = {}, {}
  for placeholder, spec in names.items():
    target = spec.target
    if target is None:
      inputs[placeholder] = ''
    elif spec.kind.name == 'PARAMETER' or (
        target.rpartition('.')[2] in _STATISTICS):
      inputs[placeholder] = target.removeprefix('module.')
    else:
      constants[placeholder] = tensors[target].detach().numpy()
  nodes = tuple(exported.graph.nodes)
  unknown = sorted({str(node.target) for node in nodes
                    if node.op == 'call_function' and _rule(node) is None})
  if unknown:
    raise UserError(
        f'The torch module uses operations without a rule: '
        f'{", ".join(unknown)}. Replace them, or give the network as a JAX '
        'function.')
  outputs = nodes[-1].args[0]
  if len(outputs) != 1 or outputs[0].meta['val'].ndim != 2:
    raise UserError(
        f'The torch module answers {len(outputs)} tensors, the first of shape '
        f'{tuple(outputs[0].meta["val"].shape)} for input '
        f'{tuple(example.shape)}; scores [B, K] are needed. Wrap it.')
  return _Graph(nodes, inputs, constants, outputs[0].name)


def _rule(node) -> Callable | None:
  if node.target is operator.getitem:
    return operator.getitem
  family, _, name = str(node.target).partition('.')
  return RULES.get(name.partition('.')[0]) if family == 'aten' else None


def _run(graph: _Graph, leaves: Params, x: Array, lowering: str) -> Array:
  """The module's answer, one operation after the other."""
  env = {placeholder: leaves[name] if name else x
         for placeholder, name in graph.inputs.items()}
  env |= {name: jnp.asarray(value, x.dtype) if value.dtype.kind == 'f' else
          jnp.asarray(value) for name, value in graph.constants.items()}

  def read(value):
    if hasattr(value, 'graph'):  # a node
      return env[value.name]
    if isinstance(value, (list, tuple)):
      return type(value)(map(read, value))
    return value

  for node in graph.nodes:
    if node.op != 'call_function':
      continue
    function = _rule(node)
    if getattr(node.target, '__name__', '').startswith('conv'):
      function = functools.partial(function, lowering=lowering)
    named = {key: read(value) for key, value in node.kwargs.items()}
    try:
      env[node.name] = function(*map(read, node.args), **named)
    except (NotImplementedError, TypeError) as error:
      raise UserError(
          f'{node.target} of the torch module cannot be computed in JAX as it '
          f'is used here: {error}. Replace it, or give the network as a JAX '
          'function.') from error
  return env[graph.output]

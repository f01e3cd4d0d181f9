"""Real updates as leaks: from arrays, torch and Flower.

  leak = vl.leaks.from_torch(victim, before=model, gradient=gradients)
  leak = vl.leaks.from_flower(victim, before=sent, after=received)

What has no place in the network is an error that lists it by name and shape.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vidleak_jax import trees
from vidleak_jax.leaks import mapping, reading
from vidleak_jax.models.weights import Names
from vidleak_jax.specs import DefenseSpec, FederatedSpec, Provenance
from vidleak_jax.types import Leak, Params, PublicInfo, UserError, Victim

_LISTED = 8  # names in a message
_KEPT = 8    # networks whose shapes are at hand


def from_arrays(
    victim: Victim, before: Any, *, gradient: Any = None, after: Any = None,
    difference: Any = None, batch_size: int = 1,
    federated: FederatedSpec | None = None,
    defense: DefenseSpec | None = None, labels: Sequence[int] | None = None,
    provenance: Provenance | None = None, names: Sequence[str] | None = None,
    partial: bool = False,
) -> Leak:
  """Returns a leak from a real update, as arrays by name or in a list.

  Give one of `gradient`, `after` and `difference`. Names and axes are the
  network's own, torchvision's or transformers'.

  Args:
    victim: the client's network.
    before: the weights that the client started from: a mapping or tree of
      arrays, a list of arrays, a torch module, Flower's `Parameters`, NVFlare's
      dict of arrays.
    gradient: of the mean loss, in any of these forms.
    after: the weights after local training.
    difference: weights after minus weights before, as NVFlare's DIFF.
    batch_size: clips in the update.
    federated: the protocol; None: a gradient, or one step of unknown rate.
    defense: what the client did to the update; None: not known.
    labels: [batch_size], where they are known.
    provenance: which of these facts are given; None: those passed here.
    names: of the arrays of a list, as `list(model.state_dict())`; None: the
      order of the layers, or of the tree.
    partial: whether leaves that the update lacks are taken as 0.

  Raises:
    UserError: for arrays without a place, leaves without an array, or another
      number of updates than one.

  >>> import jax, vidleak_jax as vl
  >>> victim = vl.victims.c3d((4, 16, 16, 3), 7, preset='tiny')
  >>> weights = victim.init(jax.random.key(0))
  >>> gradient = {'conv0.weight': jax.numpy.ones((8, 3, 3, 3, 3))}
  >>> leak = vl.leaks.from_arrays(victim, weights, gradient=gradient,
  ...                             partial=True)
  >>> leak.update['conv0']['kernel'].shape
  (1, 3, 3, 3, 3, 8)
  """
  given = {'gradient': gradient, 'after': after, 'difference': difference}
  chosen = [name for name, content in given.items() if content is not None]
  if len(chosen) != 1:
    raise UserError('Give one of gradient, after and difference; got '
                    f'{", ".join(chosen) or "none"}.')
  kind, = chosen
  shapes = leaf_shapes(victim)
  start, _ = mapped(victim, before, names)
  require_all(start, 'the weights before', shapes, victim)
  sent, _ = mapped(victim, given[kind], names)
  if not partial:
    require_all(sent, f'the {kind}',
                {path: shape for path, shape in shapes.items()
                 if not path.startswith(mapping.STATISTICS)}, victim)
  if kind == 'after':
    change = {path: start.matched[path] - array
              for path, array in sent.matched.items()}
  else:
    sign = -1.0 if kind == 'difference' else 1.0
    change = {path: sign * array for path, array in sent.matched.items()}
  update = {path: change.get(path, np.zeros(shape, np.float32))
            for path, shape in shapes.items()}
  for path in update:  # running statistics are no part of a gradient
    if path.startswith(mapping.STATISTICS):
      update[path] = np.zeros(shapes[path], np.float32)
  if federated is None:
    message = 'clip' if batch_size == 1 else 'batch'
    federated = FederatedSpec(
        message=message, algorithm='fedsgd' if kind == 'gradient' else 'fedavg')
  facts = provenance or Provenance(
      batch_size='given', defense='given' if defense else 'unknown')
  tree = _like(victim)
  return Leak(
      tree(start.matched), tree(update),
      PublicInfo(
          clip_shape=victim.clip_shape, batch_size=batch_size,
          num_frames=victim.clip_shape[0], victim=victim.spec,
          federated=federated, defense=defense, frozen=victim.known,
          weights='imported', provenance=facts),
      None if labels is None else np.asarray(labels, np.int32)[None])


def from_torch(victim: Victim, before: Any, **options: Any) -> Leak:
  """Returns a leak from torch: modules, state dicts, or lists of tensors.

  A gradient may be a module whose parameters hold `.grad`, the mapping or the
  list that `torch.autograd.grad` fills.

  Args:
    victim: the client's network.
    before: a module, or its state dict.
    **options: of `from_arrays`.

  Raises:
    UserError: as `from_arrays`.
  """
  gradient: Any = options.get('gradient')
  if hasattr(gradient, 'named_parameters'):
    options['gradient'] = {name: leaf.grad for name, leaf
                           in gradient.named_parameters()
                           if leaf.grad is not None}
  elif isinstance(gradient, Sequence) and hasattr(before, 'named_parameters'):
    keys = [name for name, _ in before.named_parameters()]
    options['gradient'] = dict(zip(keys, gradient, strict=True))
  return from_arrays(victim, before, **options)


def from_flower(victim: Victim, before: Any, after: Any = None,
                **options: Any) -> Leak:
  """Returns a leak from what a Flower server sent and received.

  Args:
    victim: the client's network.
    before: `Parameters`, an `ArrayRecord`, or a list of arrays.
    after: the same, as the client answered; or give `gradient`.
    **options: of `from_arrays`; `names` for lists whose order is neither that
      of the layers nor that of the tree.

  Raises:
    UserError: as `from_arrays`.
  """
  return from_arrays(victim, before, after=after, **options)


@functools.lru_cache(_KEPT)
def leaf_shapes(victim: Victim) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every leaf by path, statistics included."""
  shapes = jax.eval_shape(victim.init, jax.random.key(0))
  return {path: tuple(leaf.shape)
          for path, leaf in trees.flatten(shapes).items()}


def mapped(
    victim: Victim, content: Any, names: Sequence[str] | None = None
) -> tuple[mapping.Mapped, reading.Arrays]:
  """Returns what of some content has a place in the network, and the content.

  Raises:
    UserError: for a list whose order is not known.
  """
  shapes = leaf_shapes(victim)
  known = ('state_dict', 'tensor_type', 'keys')
  if not isinstance(content, Sequence) and not any(
      hasattr(content, name) for name in known):
    content = trees.flatten(content)
  arrays = reading.named(content)
  if not reading.is_list(arrays):
    return mapping.match(arrays, shapes, _names_of(victim)), arrays
  listed = [arrays[f'arr_{i}'] for i in range(len(arrays))]
  if () not in shapes.values():  # torch counts batches, a number each
    listed = [each for each in listed if each.ndim]
  if names is None:
    mapped = mapping.from_list(listed, _layers(victim), shapes)
    if mapped is None:
      raise UserError(
          f'A list of {len(listed)} arrays fits neither the order of the '
          "network's layers nor that of its tree. Give their names: "
          'list(model.state_dict()).')
    return mapped, arrays
  keys = [key for key in names if not key.endswith('num_batches_tracked')]
  if len(keys) != len(listed):
    raise UserError(f'There are {len(listed)} arrays and {len(keys)} names.')
  return mapping.match(dict(zip(keys, listed, strict=True)), shapes,
                       _names_of(victim)), arrays


def require_all(mapped: mapping.Mapped, what: str,
                shapes: Mapping[str, tuple[int, ...]], victim: Victim) -> None:
  """Raises UserError where leaves have no array, naming what is left over."""
  missing = [f'{path} {shape}' for path, shape in shapes.items()
             if path not in mapped.matched]
  if not missing:
    return
  name = victim.spec.name if victim.spec else 'the network'
  left = mapped.unmatched or ('nothing',)
  raise UserError(
      f'{what[0].upper()}{what[1:]} lack {len(missing)} of {len(shapes)} '
      f'leaves of {name}: {_some(missing)}. Without a place are {_some(left)}. '
      'Choose the network, preset and clip shape of the client.')


def _some(names):
  more = f' and {len(names) - _LISTED} more' * (len(names) > _LISTED)
  return '; '.join(list(names)[:_LISTED]) + more


def _names_of(victim: Victim) -> Names:
  from vidleak_jax.victims import NETWORKS
  if victim.spec is None or victim.spec.factory:
    return ()
  return NETWORKS[victim.spec.name].names


def _layers(victim: Victim) -> list[str]:
  """Paths in the order of the layers; none where these are not known."""
  if victim.graph is None:
    return []
  return list(dict.fromkeys('/'.join(path) for node in victim.graph.nodes
                            for path in node.paths))


def _like(victim: Victim) -> Any:
  """A function from leaves by path to the tree of the network."""
  shapes = jax.eval_shape(victim.init, jax.random.key(0))
  paths = list(trees.flatten(shapes))
  structure: Any = jax.tree.structure(shapes)

  def build(leaves: Mapping[str, np.ndarray]) -> Params:
    return structure.unflatten([leaves[path] for path in paths])
  return build

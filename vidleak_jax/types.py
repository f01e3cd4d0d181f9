"""What flows between the stages; ranges and shapes are said here, once.

Clips are float32 in [0, 1], channels last. Axes: B clips in one update, T
frames, H rows, W columns, C colours, K classes, M updates in a leak.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax import trees
from vidleak_jax.errors import UserError, attempt, pick
from vidleak_jax.options import Options, option
from vidleak_jax.specs import (
    DefenseSpec,
    FederatedSpec,
    Provenance,
    VictimSpec,
)

if TYPE_CHECKING:
  from vidleak_jax.victims.introspection import LayerGraph

__all__ = ['FORMAT_VERSION', 'Array', 'Batch', 'Guess', 'Layer', 'Leak',
           'PRNGKey', 'Params', 'PublicInfo', 'Recovery', 'Round', 'Row',
           'Target', 'Tokens', 'UserError', 'Victim', 'attempt', 'is_off',
           'pick']

Array = jax.Array | np.ndarray
PRNGKey = jax.Array
Row = dict[str, Any]  # a JSON object: of result.json, or a line of a .jsonl
Params = Any  # a pytree of arrays, as linen's `init` returns under 'params'

FORMAT_VERSION = 2  # of leak.json


class Batch(NamedTuple):
  """What the client holds in private."""
  clips: Array   # [B, T, H, W, C] float32 in [0, 1]
  labels: Array  # [B] int32


class Guess(NamedTuple):
  """What an attack varies: one candidate for one update's batch."""
  clips: Array   # [B, T, H, W, C] float32
  labels: Array  # [B] int32, or [B, K] float32 logits of a soft label


class Target(NamedTuple):
  """What an iterative attack matches, as it prepared it from a leak.

  The terms of an objective see one update at a time, without the axis M.
  """
  params: Params  # the weights, the same for all updates
  evidence: Any   # leaves [M, ...]: the update, or what follows from it


@dataclasses.dataclass(frozen=True)
class PublicInfo(Options):
  """The public facts of a leak: all that the attacker knows besides arrays.

  It is what `leak.json` holds, see docs/leak_format.md.
  """
  clip_shape: tuple[int, ...] = option(
      dataclasses.MISSING, '(T, H, W, C) of the clips in one update', low=1,
      high=2**20)
  batch_size: int = option(1, 'clips in one update', low=1, high=2**20)
  num_frames: int | None = option(
      None, 'of a whole clip, where an update covers a frame; None: T', low=1,
      high=2**20)
  victim: VictimSpec | None = option(
      None, 'how to build the network again; None: it comes in Python')
  federated: FederatedSpec = option(FederatedSpec(), 'the protocol')
  defense: DefenseSpec | None = option(
      DefenseSpec(), 'what the client did before sharing; None: not known')
  eight_bit: bool = option(True, 'whether pixels were 8 bit, divided by 255')
  weights: str = option('as initialised', 'where the parameters came from')
  frozen: str = option('', 'the frozen extractor and its weights, if any')
  num_reference_frames: int = option(0, 'frames of the scene, in the leak',
                                     low=0)
  provenance: Provenance = option(
      Provenance(), 'which facts are given, which inferred or unknown')
  format_version: int = option(FORMAT_VERSION, 'of leak.json')

  def __post_init__(self):
    super().__post_init__()
    if len(self.clip_shape) != 4:
      raise UserError(f'clip_shape is {self.clip_shape}; it must be (T, H, W, '
                      'C): frames, rows, columns and colours.')
    if self.format_version != FORMAT_VERSION:
      raise UserError(
          f'format_version is {self.format_version}; this package reads '
          f'{FORMAT_VERSION}. Write the leak again with this version, or see '
          'docs/leak_format.md for what changed.')

  @property
  def frames_per_clip(self) -> int:
    return self.num_frames or self.clip_shape[0]


class Round(NamedTuple):
  """A later round of the same clients and clips, with other weights."""
  params: Params  # the weights that the server sent then
  update: Params  # leaves [M, ...], as of a `Leak`


@dataclasses.dataclass(frozen=True, eq=False)
class Leak:
  """Exactly what the server sees; the only input of an attack.

  Attributes:
    params: the weights the server sent, the same for all updates.
    update: the same tree; leaves [M, ...] of M updates, or leaves shaped as
      those of `params` where there is one. Gradients, or weights before minus
      weights after local training.
    public: the public facts.
    labels: [M, B] int32 where the attacker knows them, else None.
    references: [N, R, L, L, 3] in [0, 1]: frames of each clip's scene that
      the attacker holds besides what was sent, or None.
    later_rounds: what the same clients sent for the same clips in later rounds,
      in which the server's weights were others.

  Raises:
    UserError: trees or shapes that do not fit together, NaN or infinity.

  >>> import numpy as np
  >>> kernel = np.ones((4, 2), np.float32)
  >>> leak = Leak({'head': kernel}, {'head': kernel},
  ...             PublicInfo(clip_shape=(1, 1, 1, 4)))
  >>> leak.num_updates, leak.update['head'].shape
  (1, (1, 4, 2))
  """
  params: Params
  update: Params
  public: PublicInfo
  labels: Array | None = None
  references: Array | None = None
  later_rounds: tuple[Round, ...] = ()

  def __post_init__(self):
    object.__setattr__(self, 'update', _stacked(self.params, self.update))
    object.__setattr__(self, 'later_rounds', tuple(
        _checked_round(self, i + 1, each)
        for i, each in enumerate(self.later_rounds)))
    if self.num_rounds != self.public.federated.num_rounds:
      raise UserError(
          f'federated.num_rounds is {self.public.federated.num_rounds}, but '
          f'the leak has {self.num_rounds}: give one less of later_rounds.')
    for i, each in enumerate(self.rounds()):
      _check_finite(each, i)
    shape = self.num_updates, self.public.batch_size
    if self.labels is not None:
      labels = np.asarray(self.labels)
      if labels.size != np.prod(shape) or labels.dtype.kind not in 'iu':
        raise UserError(
            f'labels are {labels.dtype} {labels.shape}; they must be whole '
            f'numbers of shape {shape}: one a clip of each update.')
      _check_classes(labels, self.public.victim)
      object.__setattr__(
          self, 'labels', labels.reshape(shape).astype(np.int32))
    if self.references is not None:
      _check_references(np.asarray(self.references))

  @property
  def num_updates(self) -> int:
    return len(jax.tree.leaves(self.update)[0])

  @property
  def num_rounds(self) -> int:
    return 1 + len(self.later_rounds)

  def rounds(self) -> tuple[Round, ...]:
    """Returns all rounds, the first one included."""
    return (Round(self.params, self.update), *self.later_rounds)

  def replace(self, **changes: Any) -> 'Leak':
    """Returns a copy with some fields changed, checked again."""
    return dataclasses.replace(self, **changes)

  def save(self, folder: str | Path) -> Path:
    """Writes `leak.safetensors` and `leak.json`; returns the first's path."""
    from vidleak_jax.leaks import storage
    return storage.save(Path(folder), self)


class Recovery(NamedTuple):
  """An attack's answer for all updates of a leak."""
  clips: np.ndarray      # [M, B, T, H, W, C] float32 in [0, 1]
  labels: np.ndarray     # [M, B] int32
  objective: np.ndarray  # [M] what the attack itself minimised; NaN: nothing
  features: np.ndarray | None = None  # [M, T, F] of a frozen extractor
  gradient_residual: np.ndarray | None = None  # [M], see attacks.residual


class Layer(NamedTuple):
  """One layer of a victim as `activation(linear(kernel, x) + bias)`.

  `linear` is bilinear, keeps the batch axis first, and includes any reshape
  between layers. `kernel` and `bias` stand under `params[name]`. For a
  recurrent layer see `attacks.analytic.recurrent`.
  """
  name: str
  linear: Callable[[Array, Array], Array]
  activation: str  # a name of `models.layers.ACTIVATIONS`, or gru or lstm
  in_shape: tuple[int, ...]     # without the batch axis
  activate: Callable[[Array], Array]  # the activation itself
  # Whether a constant shift of the input (a normalisation, say) is a part of
  # `linear`, which is then linear in the kernel, and affine in x.
  shifted: bool = False


class Tokens(NamedTuple):
  """How a video transformer turns a clip into tokens."""
  patches: Callable[[Array], Array]  # clips [B, T, H, W, C] -> [B, N, P]
  unpatch: Callable[[Array], Array]  # its inverse
  embedding: tuple[str, ...]  # path of the dense patch embedding: kernel [P, D]
  positions: tuple[str, ...]  # path of the learned positions, [1, N or N+1, D]
  num_special: int = 0        # class tokens that precede the patches


@dataclasses.dataclass(frozen=True, eq=False)
class Victim:
  """The client's network as pure functions.

  Make one by `Victim.from_flax`, `Victim.from_loss` or `vl.victims.NAME`.

  Params hold all that the server sends, BatchNorm statistics included (under
  'batch_stats', with zero gradient). `loss(params, clips, labels, key=None)` is
  the mean cross-entropy for [B] integer labels or [B, K] probabilities; a key
  switches dropout on. A frozen extractor is no part of params: both sides know
  it, and `known` says which it is.
  """
  init: Callable[[PRNGKey], Params]
  loss: Callable[..., Array]
  clip_shape: tuple[int, ...]
  num_classes: int
  # (params, clips) -> [B, K]; None where only a loss is known
  logits: Callable[[Params, Array], Array] | None = None
  # What introspection cannot see, or need not look for:
  head_path: tuple[str, ...] | None = None  # of the last dense layer in params
  chain: tuple[Layer, ...] | None = None    # the layers, first to last
  patch_tokens: Tokens | None = None  # of a transformer, learned positions
  # (params, clips) -> params with BatchNorm's running statistics moved on
  statistics: Callable[[Params, Array], Params] | None = None
  features: Callable[[Array], Array] | None = None  # frozen: clips -> [B, T, F]
  # path of the dense layer that is fed with the features' mean over the frames
  feature_layer: tuple[str, ...] = ()
  # the head as a victim whose "clips" are features [B, T, F]
  on_features: 'Victim | None' = None
  known: str = ''  # public beyond params: the frozen extractor and its weights
  spec: VictimSpec | None = None  # how to build it again
  lowering: str = ''  # of its convolutions, where the package chose it
  # Its parameters, or a gradient, in fewer leaves: the loss takes both trees.
  pack: Callable[[Params], Params] = lambda params: params

  @functools.cached_property
  def graph(self) -> 'LayerGraph | None':
    """The network as a typed graph of layers; None where only a loss is known.

    It is traced when it is first asked for.
    """
    from vidleak_jax.victims import base
    return base.graph_of(self)

  @functools.cached_property
  def head(self) -> tuple[str, ...] | None:
    """Path of the last dense layer in params, where there is one."""
    if self.head_path is not None or self.graph is None:
      return self.head_path
    found = self.graph.head
    return found.kernel[:-1] if found else None

  @functools.cached_property
  def layers(self) -> tuple[Layer, ...]:
    """The layers first to last, where the network is a plain chain."""
    from vidleak_jax.victims import base
    return base.chain_of(self) if self.chain is None else self.chain

  @functools.cached_property
  def tokens(self) -> Tokens | None:
    """How a transformer with learned positions cuts the clip into tokens."""
    from vidleak_jax.victims import base
    return self.patch_tokens or base.tokens_of(self)

  @property
  def key(self) -> Hashable:
    """What its programs depend on; victims of one spec share them."""
    if self.spec is None or self.spec.factory:
      return self
    spec = self.spec.replace(checkpoint=None)
    return spec, self.clip_shape, self.lowering, self.known

  def replace(self, **changes: Any) -> 'Victim':
    """Returns a copy with some fields changed."""
    return dataclasses.replace(self, **changes)

  @staticmethod
  def from_flax(module: Any, clip_shape: tuple[int, ...],
                num_classes: int, **options: Any) -> 'Victim':
    """Returns a victim from a linen or nnx module: `victims.from_flax`."""
    from vidleak_jax.victims import base
    return base.from_flax(module, clip_shape, num_classes, **options)

  @staticmethod
  def from_loss(loss: Callable[..., Array], params: Params,
                clip_shape: tuple[int, ...], num_classes: int,
                **options: Any) -> 'Victim':
    """Returns a victim from a loss function: `victims.from_loss`."""
    from vidleak_jax.victims import base
    return base.from_loss(loss, params, clip_shape, num_classes, **options)

  @staticmethod
  def from_torch(module: Any, clip_shape: tuple[int, ...],
                 num_classes: int, **options: Any) -> 'Victim':
    """Returns a victim from a torch module: `victims.base.from_torch`."""
    from vidleak_jax.victims import base
    return base.from_torch(module, clip_shape, num_classes, **options)


def is_off(strength: float | Array) -> bool:
  """Whether a strength is a plain 0, and so a part of the program."""
  return isinstance(strength, int | float) and strength == 0


def _stacked(params: Params, update: Params) -> Params:
  """The update with leaves [M, ...], checked against the parameters."""
  shapes = {name: np.shape(leaf) for name, leaf in
            trees.flatten(params).items()}
  sent = {name: np.shape(leaf) for name, leaf in trees.flatten(update).items()}
  if not shapes:
    raise UserError('The leak has no parameters; give the weights that the '
                    'server sent, as a tree of arrays.')
  if shapes == sent:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], update)
  counts = {sent[name][:1] for name in sent}
  wrong = [f'{name}: update {sent.get(name, "absent")}, parameters '
           f'{shapes.get(name, "absent")}'
           for name in sorted(shapes.keys() | sent.keys())
           if name not in shapes or name not in sent
           or sent[name][1:] != shapes[name]]
  if wrong or len(counts) != 1 or counts == {()} or counts == {(0,)}:
    more = ' ...' * (len(wrong) > 4)
    raise UserError(
        'The update must have the shapes of the parameters, or one more first '
        f'axis of updates, at least 1 and equal for all: '
        f'{"; ".join(wrong[:4]) or sorted(counts)}{more}.')
  return update


def _check_classes(labels: np.ndarray, victim: VictimSpec | None) -> None:
  count = victim.num_classes if victim else 2**31
  if labels.min() < 0 or labels.max() >= count:
    raise UserError(f'labels lie in [{labels.min()}, {labels.max()}]; the '
                    f'victim has classes 0 to {count - 1}.')


def _check_references(references: np.ndarray) -> None:
  if references.ndim != 5:
    raise UserError(f'references have shape {references.shape}; they must be '
                    '[clips, frames, rows, columns, colours].')
  if not jnp.issubdtype(references.dtype, jnp.floating):
    raise UserError(f'references are {references.dtype}; they must be floating '
                    'point numbers in [0, 1]: divide 8-bit pixels by 255.')
  if references.size and not (
      references.min() >= 0 and references.max() <= 1):  # false for NaN
    raise UserError(f'references lie in [{references.min()}, '
                    f'{references.max()}]; they must lie in [0, 1].')


def _checked_round(leak: Leak, number: int, one: Round) -> Round:
  """The round with an update of leaves [M, ...], as the first one's."""
  try:
    found = Round(one[0], _stacked(*one))
    if _shapes(found) != _shapes(Round(leak.params, leak.update)):
      raise UserError('Its parameters or update have other shapes than those '
                      'of the first round.')
  except UserError as error:
    raise UserError(f'Round {number} of later_rounds: {error}') from error
  return found


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  return {name: np.shape(leaf) for name, leaf in trees.flatten(tree).items()}


def _check_finite(one: Round, number: int) -> None:
  prefix = f'round{number}/' if number else ''
  arrays = trees.flatten({f'{prefix}params': one.params,
                          f'{prefix}update': one.update})
  bad = []
  for name, leaf in arrays.items():
    kind = jnp.asarray(leaf).dtype if not hasattr(leaf, 'dtype') else leaf.dtype
    if jnp.issubdtype(kind, jnp.complexfloating) or not (
        jnp.issubdtype(kind, jnp.floating)
        or jnp.issubdtype(kind, jnp.integer)):
      raise UserError(f'{name} is {kind}; real numbers are allowed.')
    if jnp.issubdtype(kind, jnp.floating) and not bool(
        np.isfinite(np.asarray(leaf, np.float32)).all()):
      bad.append(name)
  if bad:
    raise UserError(
        f'There is NaN or infinity in {", ".join(bad[:4])}. A gradient that '
        'overflowed cannot be inverted; share a finite one.')

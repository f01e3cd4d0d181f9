"""What the attacker is given: public facts and updates, nothing else."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax import trees
from vidleak_jax.errors import UserError
from vidleak_jax.options import Options, option
from vidleak_jax.specs import (
    DefenseSpec,
    FederatedSpec,
    Provenance,
    VictimSpec,
)
from vidleak_jax.types.arrays import Array, Params

FORMAT_VERSION = 2  # of leak.json


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

  def each_round(self) -> 'tuple[Leak, ...]':
    """Returns a leak for each round, as if there were no others."""
    if self.num_rounds == 1:
      return (self,)
    public = self.public.replace(
        federated=self.public.federated.replace(num_rounds=1))
    return tuple(self.replace(
        params=one.params, update=one.update, public=public, later_rounds=())
                 for one in self.rounds())

  def replace(self, **changes: Any) -> 'Leak':
    """Returns a copy with some fields changed, checked again."""
    return dataclasses.replace(self, **changes)

  def save(self, folder: str | Path) -> Path:
    """Writes `leak.safetensors` and `leak.json`; returns the first's path."""
    from vidleak_jax.leaks import storage
    return storage.save(Path(folder), self)


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

"""Random changes of training clips that keep the label, or swap it."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from vidleak_jax.types import Batch, PRNGKey, UserError

# name -> axis of a clip [T, H, W, C] that is turned round
_AXES = {'mirror': 2, 'upside_down': 1, 'reverse': 0}


def build(
    class_names: Sequence[str], *, colours: bool, shift: int,
    mirror: Sequence | None, upside_down: Sequence | None,
    reverse: Sequence | None,
) -> Callable[[PRNGKey, Batch], Batch]:
  """`(key, batch) -> batch`, each clip changed in its own way.

  Args:
    class_names: what labels stand for.
    colours: whether to shuffle the channels, invert and darken.
    shift: the most pixels a clip is moved by, in height and in width; what
      leaves at one side enters at the other.
    mirror: whether half of the clips are mirrored: None for no, else the pairs
      of classes that change places then; () where labels stay.
    upside_down: likewise.
    reverse: likewise, played backwards.

  Raises:
    UserError: for a pair that names no two classes.
  """
  swaps = {'mirror': mirror, 'upside_down': upside_down, 'reverse': reverse}
  tables = [(_AXES[name], _table(name, pairs, class_names))
            for name, pairs in swaps.items() if pairs is not None]

  def change(key, clip, label):
    key, colour_key, shift_key = jax.random.split(key, 3)
    coins = jax.random.bernoulli(key, shape=(len(_AXES),))
    for coin, (axis, table) in zip(coins, tables):
      clip = jnp.where(coin, jnp.flip(clip, axis), clip)
      label = jnp.where(coin, table[label], label)
    if shift:
      by = jax.random.randint(shift_key, (2,), -shift, shift + 1)
      clip = jnp.roll(clip, by, (1, 2))
    return _recolour(colour_key, clip) if colours else clip, label

  def change_all(key, batch):
    keys = jax.random.split(key, len(batch.labels))
    return Batch(*jax.vmap(change)(keys, *batch))
  return change_all


def _table(name, pairs, class_names):
  """Label -> label of the changed clip, [K]."""
  table = list(range(len(class_names)))
  for pair in pairs:
    try:
      one, other = map(list(class_names).index, pair)
    except (TypeError, ValueError) as error:
      raise UserError(
          f'augment.{name} has {pair}; it takes pairs of the classes '
          f'{", ".join(class_names)}.') from error
    table[one], table[other] = other, one
  return jnp.asarray(table, jnp.int32)


def _recolour(key, clip):
  shuffle, coin, dim = jax.random.split(key, 3)
  clip = clip[..., jax.random.permutation(shuffle, clip.shape[-1])]
  clip = jnp.where(jax.random.bernoulli(coin), 1 - clip, clip)
  return clip * jax.random.uniform(dim, minval=0.5)

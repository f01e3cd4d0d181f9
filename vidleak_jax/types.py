"""What flows between the stages; ranges and shapes are said here, once.

Clips are float32 in [0, 1], channels last. Axes: B clips in a batch, T frames,
H rows, W columns, C colours, K classes, M messages in a leak. A *message* is
one gradient (or update) that a client sent; it covers a batch of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import jax

Array = jax.Array
PRNGKey = jax.Array
Params = Any  # a pytree of arrays, as linen's `init` returns under 'params'


class UserError(ValueError):
  """A mistake of the user's: shown as one message, without a traceback."""


class Batch(NamedTuple):
  """What the client holds in private."""
  clips: Array   # [B, T, H, W, C] float32 in [0, 1]
  labels: Array  # [B] int32


class Leak(NamedTuple):
  """Exactly what the server sees; the only input of an attack.

  The optimisation sees one message at a time: there the leaves of `update`
  have the shapes of `params` and `labels` is [B].
  """
  params: Params        # the weights the server sent, the same for all messages
  update: Params        # same tree, leaves [M, ...]: gradient, or weight change
  labels: Array | None  # [M, B] int32 where the attacker knows them, else None
  # [N, R, S, S, 3] in [0, 1]: frames of each clip's scene that the attacker
  # holds besides what is sent
  references: Array | None = None


class Guess(NamedTuple):
  """What an attack varies: one candidate for one message's batch."""
  clips: Array   # [B, T, H, W, C] float32
  labels: Array  # [B] int32, or [B, K] float32 logits of a soft label


class Recovery(NamedTuple):
  """An attack's answer for all messages of a leak."""
  clips: Array       # [M, B, T, H, W, C] float32 in [0, 1]
  labels: Array      # [M, B] int32
  match_loss: Array  # [M] float32, the objective's value of the answer
  features: Array | None = None  # [M, T, F] of a frozen extractor; T 1: mean


class Layer(NamedTuple):
  """One layer of a victim as `activation(linear(kernel, x) + bias)`.

  `linear` is bilinear, keeps the batch axis first, and includes any reshape
  between layers. `kernel` and `bias` stand under `params[name]`. Of a recurrent
  layer see `attack.recurrent`.
  """
  name: str
  linear: Callable[[Array, Array], Array]
  activation: str  # a name of `victims.layers.ACTIVATIONS`, or gru or lstm
  in_shape: tuple[int, ...]     # without the batch axis
  activate: Callable[[Array], Array]  # the activation itself


class Tokens(NamedTuple):
  """How a video transformer turns a clip into tokens, for the closed form."""
  patches: Callable[[Array], Array]  # clips [B, T, H, W, C] -> [B, N, P]
  unpatch: Callable[[Array], Array]  # its inverse
  embedding: tuple[str, ...]  # path of the dense patch embedding: kernel [P, D]
  positions: tuple[str, ...]  # path of the learned positions, [1, N or N+1, D]
  num_special: int = 0        # class tokens that precede the patches


class Victim(NamedTuple):
  """The client's network as a tuple of pure functions.

  Params hold all that the server sends, BatchNorm statistics included (under
  'batch_stats', with zero gradient). `loss(params, clips, labels, key=None)` is
  the mean cross-entropy of [B] integer labels or [B, K] probabilities; a key
  switches dropout on. A frozen extractor is no part of params: it is a constant
  of these functions, which both sides know; `known` says which.
  """
  init: Callable[[PRNGKey], Params]
  logits: Callable[[Params, Array], Array]  # (params, clips) -> [B, K]
  loss: Callable[..., Array]
  num_classes: int
  head: tuple[str, ...]           # path of the last dense layer in params
  layers: tuple[Layer, ...] = ()  # first to last, where the closed form applies
  tokens: Tokens | None = None    # of a transformer with learned positions
  # (params, clips) -> params with BatchNorm's running statistics moved on
  statistics: Callable[[Params, Array], Params] | None = None
  features: Callable[[Array], Array] | None = None  # frozen: clips -> [B, T, F]
  # path of the dense layer that is fed with the features' mean over the frames
  feature_layer: tuple[str, ...] = ()
  # the head as a victim whose "clips" are features [B, T, F]
  on_features: Optional['Victim'] = None
  known: str = ''  # public beyond params: the frozen extractor and its weights


def pick(table: dict[str, Any], name: str, what: str) -> Any:
  """Looks `name` up, or says which names there are."""
  if name not in table:
    raise UserError(
        f'Unknown {what} {name!r}. Choose one of: {", ".join(sorted(table))}.')
  return table[name]


def is_off(strength: float | Array) -> bool:
  """Whether a strength is 0 and known to be, not an argument of a program."""
  return isinstance(strength, int | float) and strength == 0


def attempt(fn: Callable[..., Any], *args: Any) -> Any:
  """What `fn` returns, or the UserError that it raises."""
  try:
    return fn(*args)
  except UserError as error:
    return error

"""The client's network, and what is known of its layers."""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

from vidleak_jax.specs import VictimSpec
from vidleak_jax.types.arrays import Array, Params, PRNGKey

if TYPE_CHECKING:
  from vidleak_jax.victims.introspection import LayerGraph


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

"""Forward passes of networks that are plain chains of layers."""

from collections.abc import Mapping, Sequence

from vidleak_jax import trees
from vidleak_jax.models.layers import by_channel
from vidleak_jax.types import Array, Layer, Params


def leaves(layers: Sequence[Layer], params: Params) -> dict[str, Params]:
  """Returns the parameters of some layers by the layers' names."""
  return {layer.name: trees.named(params, layer.name) for layer in layers}


def run(layers: Sequence[Layer], params: Mapping[str, Params], clips: Array
        ) -> tuple[Array, Array]:
  """Returns the input of the last of these layers, and its affine output.

  Args:
    layers: the first ones of a victim's, one at least.
    params: of `leaves`.
    clips: [B, T, H, W, C].
  """
  seen = clips
  for layer in layers:
    own, x = params[layer.name], seen.reshape(-1, *layer.in_shape)
    z = layer.linear(own['kernel'], x)
    if 'bias' in own:
      z += by_channel(own['bias'], z)
    seen = layer.activate(z)
  return x, z


def features(layers: Sequence[Layer], params: Params, clips: Array) -> Array:
  """Returns the head's inputs, [B, F].

  Args:
    layers: a victim's, the dense head last.
    params: of the whole network.
    clips: [B, T, H, W, C].
  """
  below = layers[:-1]
  z = run(below, leaves(below, params), clips)[1]
  return below[-1].activate(z).reshape(len(clips), -1)

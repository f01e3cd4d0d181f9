"""A frozen image network on each frame and a trained head on its features.

Only the head is trained, so only the head's gradient is shared: params hold the
head alone. The extractor is public: the one that is shipped, read from a file,
or drawn from a seed; `Victim.known` says which. This is setting (b) of
2509.09742.

`logits`, `loss` and `features` are `jax.tree_util.Partial`: pytrees whose
leaves are the weights of the extractor. A program that takes the function as
an argument takes the weights as arguments too,

  jax.jit(lambda loss, *args: loss(*args))(victim.loss, params, clips, labels)

whereas one that closes over it has them baked in as constants: 100 MB of a
ResNet-50 that are folded, hashed and cached with the program.
"""

import functools
import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from vidleak_jax.models import weights
from vidleak_jax.models.heads import HEADS
from vidleak_jax.models.resnet import NAMES, RESNET20, ResNet, Size, Style
from vidleak_jax.types import Victim, pick
from vidleak_jax.victims import base, flax_modules, losses

_IMAGENET_STEM = (7, 7), (2, 2), 64
EXTRACTORS = {
    'resnet_tiny': Size((3, 3), (1, 1), 4, (4, 8), (1, 1), projection=False),
    'resnet20': RESNET20,
    'resnet18': Size(*_IMAGENET_STEM, (64, 128, 256, 512), (2, 2, 2, 2),
                     pool=True),
    'resnet50': Size(*_IMAGENET_STEM, (256, 512, 1024, 2048), (3, 4, 6, 3),
                     pool=True, bottleneck=True),
}
PRESETS = {'tiny': 'resnet_tiny', 'small': 'resnet20', 'full': 'resnet50'}
# Names that stand for files: what configs/train_extractor.py makes.
SHIPPED = {'photo_motion': Path(__file__).with_name('photo_motion.safetensors')}

def frozen(
    clip_shape: tuple[int, ...],
    num_classes: int,
    *,
    preset: str = 'small',
    extractor: str | None = None,
    weights_file: str | None = None,
    extractor_seed: int = 0,
    head: str = 'classifier1',
    activation: str | None = None,
    norm: str | None = None,
    inputs: str = 'imagenet',
    lowering: str = 'matmul',
) -> Victim:
  """A frozen ResNet on each frame, and a head on the features.

  `Victim.features` gives the frames' features. The heads classifier1-3 and mlp
  feed their mean over the frames to the dense layer at `Victim.feature_layer`;
  `Victim.on_features` is the head alone, and lists its layers where it can.

  Args:
    clip_shape: (T, H, W, C).
    num_classes: K.
    preset: a name of `PRESETS`: which extractor.
    extractor: a name of `EXTRACTORS` instead.
    weights_file: of the extractor: a file, or a name of `SHIPPED`; drawn from
      `extractor_seed` if None or empty.
    extractor_seed: see above.
    head: a name of `heads.HEADS`.
    activation: of the head, a name of `layers.ACTIVATIONS`; its own if None.
    norm: None, or a name of `norms.NORMS`: then nothing is frozen, and all of
      the network learns, with one dense layer as its head. So an extractor is
      trained.
    inputs: a name of `layers.INPUTS`; 'imagenet' is what the published weights
      take, those of CIFAR-10 included.
    lowering: of the convolutions.

  Raises:
    UserError: for unknown names, and a file that is not the extractor's.
  """
  extractor = extractor or pick(PRESETS, preset, 'preset of frozen')
  size = pick(EXTRACTORS, extractor, 'extractor')
  network = ResNet(size, Style('relu', norm or 'fixed', lowering),
                   inputs=inputs)
  if norm:
    return _thawed(network, clip_shape, num_classes)
  variables, source = _weights(network, clip_shape, weights_file,
                               extractor_seed)
  spec = pick(HEADS, head, 'head')
  choices = num_classes, activation or spec.activation, lowering
  in_shape = clip_shape[0], size.widths[-1]
  module = spec.make(*choices)

  def features(variables, clips):
    frames = clips.reshape(-1, *clips.shape[2:])
    return network.apply(variables, frames).reshape(*clips.shape[:2], -1)

  on_features = base.from_module(
      module, in_shape, num_classes, chain=spec.layers(*choices, in_shape))

  def logits(variables, params, clips):
    return on_features.logits(params, features(variables, clips))

  def loss(variables, params, clips, labels, key=None):
    return on_features.loss(params, features(variables, clips), labels, key)

  return on_features.replace(
      clip_shape=tuple(clip_shape), logits=Partial(logits, variables),
      loss=Partial(loss, variables), features=Partial(features, variables),
      feature_layer=('dense0',) if spec.takes_mean else (), chain=(),
      on_features=on_features, statistics=None,
      known=f'frozen {extractor}, input scale {inputs}, {source}')


def _thawed(network, clip_shape, num_classes):
  """All of the network is learned; a clip's logits are its frames' mean."""
  whole = base.from_module(network.clone(num_classes=num_classes),
                           clip_shape[1:], num_classes)

  def frames(clips):
    return clips.reshape(-1, *clips.shape[2:])

  def logits(params, clips):
    own = whole.logits(params, frames(clips))
    return own.reshape(*clips.shape[:2], -1).mean(1)

  return whole.replace(
      clip_shape=tuple(clip_shape), logits=logits,
      loss=lambda params, clips, labels, key=None: losses.cross_entropy(
          logits(params, clips), labels),
      statistics=lambda params, clips: whole.statistics(params, frames(clips)))


@functools.partial(jax.jit, static_argnums=0)
def _draw(network, key, frames):
  return network.init(key, frames)


def _weights(network, clip_shape, weights_file, seed):
  """The extractor's variables, and where they came from."""
  frames = jnp.zeros((1, *clip_shape[1:]))
  if not weights_file:
    variables = _draw(network, jax.random.key(seed), frames)
    return variables, f'weights drawn from seed {seed}'
  shapes = jax.eval_shape(network.init, jax.random.key(0), frames)
  params = shapes['params'] | {'batch_stats': shapes['batch_stats']}
  path = Path(SHIPPED.get(str(weights_file), weights_file))
  params, report = weights.load(params, path, NAMES)
  weights.require_all(report, path)
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  source = f'weights of {path.name}, sha256 {digest[:16]}'
  return flax_modules.split_stats(params), source

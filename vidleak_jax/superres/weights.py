"""Published generators: which network a file holds, and its params.

Names understood: ESRGAN's old ones (`model.0.weight`, `RRDB_trunk.0.RDB1...`),
those of BasicSR and Real-ESRGAN (`body.0.rdb1...`, `body.0.weight` for
SRVGGNetCompact; `params_ema` before `params`), and ClipNet's. Sizes are read
off the tensors.
"""

import os
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.models import weights
from vidleak_jax.superres.clip_net import ClipNet
from vidleak_jax.superres.compact import SRVGGNetCompact
from vidleak_jax.superres.rrdb import RRDBNet
from vidleak_jax.types import Params, UserError

_MOST = 512  # blocks or layers of a generator; the largest published has 69
_COMPACT = (
    (r'^body\.(\d+)', lambda m: f'{"act" if int(m[1]) % 2 else "conv"}_'
                                f'{int(m[1]) // 2}'),
)
_RRDB = (  # the old names first turned into BasicSR's
    (r'^model\.0\.', 'conv_first.'),
    (r'^(?:model\.1\.sub|RRDB_trunk)\.(\d+)\.RDB', r'body.\1.rdb'),
    (r'^model\.1\.sub\.\d+\.', 'conv_body.'),
    (r'^trunk_conv', 'conv_body'),
    (r'^(?:model\.3|upconv1)\.', 'conv_up1.'),
    (r'^(?:model\.6|upconv2)\.', 'conv_up2.'),
    (r'^(?:model\.8|HRconv)\.', 'conv_hr.'),
    (r'^model\.10\.', 'conv_last.'),
    (r'\.conv(\d)\.0\.', r'.conv\1.'),
    (r'^body\.(\d+)', r'body_\1'),
)


def load(path: str | os.PathLike) -> tuple[nn.Module, Params]:
  """The generator in a file, [B, H, W, C] -> [B, s H, s W, C], with its params.

  Args:
    path: .safetensors, .npz, or torch's .pth (which needs torch).

  Raises:
    UserError: for a file that is missing, broken, of an architecture that is
      not here, or that lacks weights.
  """
  tensors = weights.read(path)
  for prefix in ('params_ema.', 'params.'):
    if chosen := {key.removeprefix(prefix): tensor
                  for key, tensor in tensors.items() if key.startswith(prefix)}:
      tensors = chosen
      break
  network, names = _recognise(tensors, Path(path).name)
  frame = jnp.zeros((1, 8, 8, network.channels))
  example = (frame,)
  if isinstance(network, ClipNet):
    example = jnp.stack([frame] * network.frames, 1), jnp.zeros(1)
  like = jax.eval_shape(network.init, jax.random.key(0), *example)
  params, report = weights.fill(like['params'], tensors, names)
  weights.require_all(report, path)
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
    raise UserError(f'{Path(path).name} holds weights that are not finite: its '
                    'training diverged. Choose an earlier file.')
  return network, params


def _recognise(tensors: dict[str, np.ndarray], name: str):
  """The network whose tensors these are, and the map of its names."""
  if {'conv_first.weight', 'conv_0_0.weight', 'conv_last.weight'} <= {
      *tensors}:
    return _clip_net(tensors), ()
  renamed = {weights.rename(key, tensor.ndim, _RRDB): key
             for key, tensor in tensors.items()}
  if 'conv_first/kernel' in renamed and 'conv_last/kernel' in renamed:
    return _rrdb(tensors, renamed), _RRDB
  if 'body.0.weight' in tensors and 'body.1.weight' in tensors:
    return _compact(tensors), _COMPACT
  if any(key.startswith('model.') for key in tensors):
    raise UserError(
        f'{name} is an old-style ESRGAN of another scale than 4, or no ESRGAN: '
        f'it has {sorted(tensors)[:3]}... Only x4 exists in the old style here.'
    )
  raise UserError(
      f'{name} holds no network known here: it has {sorted(tensors)[:3]}... '
      'Give the weights of an RRDBNet (ESRGAN, Real-ESRGAN) or of an '
      'SRVGGNetCompact.')


def _rrdb(tensors, renamed):
  shape = lambda path: tensors[renamed[path]].shape  # noqa: E731
  width, inputs = shape('conv_first/kernel')[:2]
  channels = shape('conv_last/kernel')[0]
  blocks = {int(m[1]) for path in renamed
            if (m := re.match(r'body_(\d+)', path))}
  scale = {1: 4, 4: 2, 16: 1}.get(inputs // channels)
  first = renamed.get('body_0/rdb1/conv1/kernel')
  _check_depth(blocks)
  if not (blocks and scale and first):
    raise UserError(f'This RRDBNet has {inputs} input channels for {channels} '
                    f'outputs and {len(blocks)} blocks: a variant that is '
                    'not here. Plain ones of scale 1, 2 and 4 are.')
  return RRDBNet(scale=scale, width=width, growth=tensors[first].shape[0],
                 num_blocks=max(blocks) + 1, channels=channels)


def _check_depth(numbers):
  """Refuses a file whose names claim layers that it cannot hold."""
  if numbers and max(numbers) >= _MOST:
    raise UserError(
        f'These weights name a layer body.{max(numbers)}; a network here has '
        f'fewer than {_MOST}. The file is broken, or of another kind.')


def _clip_net(tensors):
  outputs = tensors['conv_last.weight'].shape[0]
  width, inputs = tensors['conv_first.weight'].shape[:2]
  channels = 3
  return ClipNet(
      scale=round((outputs / channels) ** 0.5), frames=inputs // channels - 1,
      width=width, num_blocks=sum(key.endswith('_0.weight') for key in tensors),
      channels=channels)


def _compact(tensors):
  width, channels = tensors['body.0.weight'].shape[:2]
  layers = {int(m[1]) for key in tensors
            if (m := re.match(r'body\.(\d+)', key))}
  _check_depth(layers)
  last = max(layers)
  outputs = tensors[f'body.{last}.weight'].shape[0]
  scale = round((outputs / channels) ** 0.5)
  return SRVGGNetCompact(scale=scale, width=width, num_convs=last // 2 - 1,
                         channels=channels)

"""ESRGAN's RRDBNet, 23 blocks, x4: seconds a tile, PyTorch's in the same run.

  python benchmarks/rrdbnet.py [--quick] [--peers=torch]

The same random weights in both (spandrel's network): answers must be equal.
"""

import json
import statistics
import tempfile
from pathlib import Path

import jax
import numpy as np
import timing
from absl import flags

from vidleak_jax.cli import launcher
from vidleak_jax.runtime import backend, parallel
from vidleak_jax.superres import network, upscale
from vidleak_jax.types import UserError

_QUICK = flags.DEFINE_bool('quick', False, 'Two blocks, one tile.')
_PEERS = flags.DEFINE_list('peers', [], 'torch, of the extra [peers].')
_EFFORT = timing.Effort(seconds=2, blocks=5, limit=120)
_SIZE = 64  # a tile's side


def main() -> None:
  devices = parallel.pick_devices()
  backend.apply(backend.choose(devices[0].platform))
  blocks = 2 if _QUICK.value else 23
  net = network.build('rrdb', scale=4, num_blocks=blocks)
  rng = np.random.default_rng(0)
  # Drawn here: compiling `init` takes a minute.
  params = jax.tree.map(
      lambda leaf: np.float32((leaf.ndim > 1) * rng.normal(
          size=leaf.shape) / np.sqrt(leaf.size / leaf.shape[-1])),
      jax.eval_shape(net.init, jax.random.key(0)))
  tiles = rng.uniform(
      size=(1, len(devices), _SIZE, _SIZE, 3)).astype(np.float32)

  def ours(count):
    for _ in range(count):
      answer = upscale.upscale(net, params, tiles, batch_size=1,
                               devices=devices)
    return answer

  runs, answers = {'self': ours}, {'self': ours(1)}
  for name in _PEERS.value:
    runs[name] = _torch(net, params, tiles, name)
    answers[name] = runs[name](1)
  times = timing.interleave(runs, _EFFORT)
  seconds = {name: statistics.median(own) / len(devices)
             for name, own in times.items()}
  for name in runs:
    print(json.dumps({
        'name': 'rrdbnet', 'peer': name, 'blocks': blocks,
        'tile': _SIZE, 'seconds_a_tile': seconds[name],
        'ratio': seconds[name] / seconds['self'],
        'largest_difference': float(np.abs(
            answers[name] - answers['self']).max())}), flush=True)


def _torch(net, params, tiles, name):
  """Spandrel's network on PyTorch with our weights."""
  if name != 'torch':
    raise UserError(f'Peers know torch only, not {name}.')
  try:
    import spandrel
    import torch
  except ImportError as error:
    raise UserError(f'The peer torch needs {error.name}: '
                    "pip install -e '.[peers]'.") from error
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / 'weights.safetensors'
    network.save(path, net, params)
    model = spandrel.ModelLoader().load_from_file(path).model.eval()
  frames = torch.from_numpy(tiles[0].transpose(0, 3, 1, 2).copy())

  def run(count):
    with torch.no_grad():
      for _ in range(count):
        answer = model(frames)
    return np.clip(answer.numpy(), 0, 1).transpose(0, 2, 3, 1)[None]
  return run


if __name__ == '__main__':
  launcher.run(main)

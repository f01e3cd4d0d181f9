"""Seconds of what is no attack by steps: closed form, super-resolution, data.

  python benchmarks/stages.py [--quick]
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags

from vidleak_jax import data, superres
from vidleak_jax.cli import launcher
from vidleak_jax.experiments import audit
from vidleak_jax.recipes import closed_form_lenet, default
from vidleak_jax.runtime import backend, parallel

_QUICK = flags.DEFINE_bool('quick', False, 'Fewer frames.')
_BLOCKS = 3


def main() -> None:
  devices = parallel.pick_devices()
  backend.apply(backend.choose(devices[0].platform))
  frames = 2 if _QUICK.value else 8
  for row in (closed_form(frames), enlarge(frames, devices), load(frames)):
    print(json.dumps({'name': 'stages', **row}), flush=True)


def closed_form(frames: int) -> dict:
  """LeNet, frame by frame, without a polish; the second run is warm."""
  config = closed_form_lenet.get_config()
  config.data.name, config.data.split = 'photo_motion', 'test'
  config.data.num_frames = frames
  config.attack.closed_form.polish_steps = 0
  seconds = []
  for _ in range(2):
    with tempfile.TemporaryDirectory() as folder:
      result = audit.run(config.to_dict(), Path(folder), log_fn=lambda _: None)
    seconds.append(result['seconds_attack'])
  return {'stage': 'closed form, LeNet 32x32', 'frames': frames,
          'seconds_first': seconds[0], 'seconds_a_frame': seconds[1] / frames}


def enlarge(frames: int, devices) -> dict:
  """32x32 to 128x128 by the network that is shipped."""
  clips = np.random.default_rng(0).uniform(
      size=(1, frames, 32, 32, 3)).astype(np.float32)

  def once():
    superres.enhance(clips, None, weights=None, scale=4, noise=0.0,
                     devices=devices)
  return {'stage': 'super-resolution, 32x32 to 128x128', 'frames': frames,
          **_timed(once, frames)}


def load(frames: int) -> dict:
  """Clips of the embedded data set, shrunk to 32x32."""
  options = default.get_config().data.to_dict() | {
      'num_frames': frames, 'num_clips': 8}
  name = options.pop('name')

  def once():
    data.load(name, seed=0, num_classes=101, num_references=0, references=(),
              **options)
  return {'stage': 'data, 8 clips of photo_motion', 'frames': 8 * frames,
          **_timed(once, 8 * frames)}


def _timed(fn, frames) -> dict:
  """The first call's seconds, and the median of some more, a frame."""
  seconds = []
  for _ in range(1 + _BLOCKS):
    began = time.perf_counter()
    fn()
    seconds.append(time.perf_counter() - began)
  return {'seconds_first': seconds[0],
          'seconds_a_frame': statistics.median(seconds[1:]) / frames}


if __name__ == '__main__':
  launcher.run(main)

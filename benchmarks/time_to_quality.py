"""Seconds of attack until a clip stands at 20, 25 and 30 dB.

  python benchmarks/time_to_quality.py [--quick] [--dir=FOLDER_OR_VIDEO]

The clip shown at a moment is the attacker's own choice then: the restart whose
objective is lowest. Compiling is not counted (`cold_start.py` has it); `dlg` is
the paper's loop.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import flags

from vidleak_jax import data
from vidleak_jax.cli import launcher
from vidleak_jax.evaluation import metrics
from vidleak_jax.runtime.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[1]
LEVELS = (20.0, 25.0, 30.0)  # dB

_QUICK = flags.DEFINE_bool('quick', False, 'One restart, fewer steps.')
_DIR = flags.DEFINE_string('dir', None, 'A video; None: the embedded clips.')

# attack, restarts, steps, of which the quick run takes the first ones
_FULL = (('feature_matching', 1, 1000), ('feature_matching', 4, 1000),
         ('ig', 1, 2000), ('ig', 4, 2000), ('dlg', 1, 120))
_QUICK_CASES = (('feature_matching', 1, 200), ('ig', 1, 200))
_CHUNKS = 40  # looks at each run


def main() -> None:
  for name, restarts, steps in _QUICK_CASES if _QUICK.value else _FULL:
    print(json.dumps(measure(name, restarts, steps, _DIR.value)), flush=True)


def measure(name: str, restarts: int, steps: int, video: str | None) -> dict:
  """One row: a run in a process of its own, then a look at its course."""
  with tempfile.TemporaryDirectory() as folder:
    fields = {
        'attack.name': name, 'attack.num_restarts': restarts,
        'attack.num_steps': steps, 'attack.chunk_steps': steps // _CHUNKS,
        'attack.keep_checkpoints': 0, 'superres.name': 'none'}
    if video:
      fields |= {'data.name': 'video_folder', 'data.split': 'all',
                 'data.dir': str(Path(video).absolute())}
    subprocess.run(
        [sys.executable, 'launch/attack.py', f'--workdir={folder}',
         '--config=configs/default.py',
         *(f'--config.{key}={value}' for key, value in fields.items())],
        cwd=ROOT, check=True, capture_output=True)
    course = list(_course(Path(folder)))
  reached = {f'seconds_to_{level:.0f}_db': next(
      (seconds for seconds, psnr in course if psnr >= level), None)
             for level in LEVELS}
  return {'name': 'time_to_quality', 'attack': name, 'restarts': restarts,
          'steps': steps, **reached, 'psnr_last': course[-1][1],
          'seconds_last': course[-1][0], 'course': course}


def _course(folder):
  """(seconds, PSNR in dB) after each chunk."""
  config = json.loads((folder / 'config.json').read_text())['config']
  options = dict(config['data'])
  sample = data.load(options.pop('name'), seed=config['seed'],
                     num_classes=config['victim']['num_classes'],
                     num_references=0, references=(), **options)
  checkpoints = Checkpoints(folder / 'checkpoints', keep=None)
  for state, facts in checkpoints.course():
    loss = np.asarray(state['best_loss'])
    clip = np.asarray(state['best']['clips'])[np.nanargmin(loss), 0]
    psnr = metrics.psnr(np.clip(clip, 0, 1), sample.batch.clips[0]).mean()
    yield facts['seconds'], float(psnr)
  checkpoints.close()


if __name__ == '__main__':
  launcher.run(main)

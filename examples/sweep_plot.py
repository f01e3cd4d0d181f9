"""A sweep with a plot: how much a clip leaks behind how much noise.

  vidleak sweep --config=examples/sweep_plot.py --workdir=runs/noise
  python examples/sweep_plot.py runs/noise

The second command reads the rows of the sweep and draws `noise.png`; it needs
matplotlib. `vidleak report --workdir=runs/noise` makes a page of the same rows.
"""

import json
import sys
from pathlib import Path

import numpy as np

from vidleak_jax.recipes import default, sweeps


def get_config():
  """Five strengths of noise on two clips; each trial is some seconds' work."""
  config = default.get_config()
  config.data.num_frames, config.data.image_size = 4, 16
  config.data.original_size = 16
  config.victim.factory = f'{Path(__file__).resolve()}:make'
  config.victim.num_classes = 10
  config.data.labels = 'random'
  config.attack.name = 'defense_aware'
  config.sweep = sweeps.space(grid={
      'defense.noise_std': (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
      'seed': range(2),
  })
  return config


def make(num_classes):
  """Returns the network: two convolutions and a dense layer."""
  import flax.linen as nn
  return nn.Sequential([
      nn.Conv(24, (3, 3, 3), strides=(1, 2, 2)), nn.leaky_relu,
      nn.Conv(32, (3, 3, 3), strides=(2, 2, 2)), nn.leaky_relu,
      lambda x: x.reshape(len(x), -1), nn.Dense(num_classes)])


def plot(folder):
  """Draws the mean PSNR, and its best floor, against the noise.

  Args:
    folder: the workdir of the sweep.

  Returns:
    The path of the picture.
  """
  import matplotlib
  matplotlib.use('Agg')
  from matplotlib import pyplot
  rows = [json.loads(line) for line in
          (Path(folder) / 'results.jsonl').read_text().splitlines()]
  rows = [row for row in rows if row['status'] == 'done']
  strengths = sorted({row['defense.noise_std'] for row in rows})

  def mean(score):
    return [np.mean([score(row) for row in rows
                     if row['defense.noise_std'] == strength])
            for strength in strengths]
  figure, axes = pyplot.subplots(figsize=(6, 3.5), layout='constrained')
  axes.plot(strengths, mean(lambda row: row['psnr']), 'o-', label='recovery')
  axes.plot(strengths, mean(lambda row: max(
      row['psnr_mean_frame'], row['psnr_unrelated'])), '--', label='floor')
  axes.set(xscale='log', xlabel='standard deviation of the noise',
           ylabel='PSNR, dB')
  axes.legend()
  path = Path(folder) / 'noise.png'
  figure.savefig(path)
  return path


if __name__ == '__main__':
  print(plot(sys.argv[1]))

"""200 trials of a second or so each, to try sweeps out.

  vidleak sweep --config=sweeps/tiny --workdir=runs/tiny
  vidleak report --workdir=runs/tiny
"""

from vidleak_jax.recipes import default, sweeps


def get_config():
  config = default.get_config()
  config.data.num_frames, config.data.image_size = 4, 16
  config.victim.preset = 'tiny'
  config.attack.name = 'ig'  # trials of one attack run as one program
  config.attack.num_steps = 400
  config.attack.chunk_steps = 100
  config.sweep = sweeps.space(grid={
      'attack.ig.learning_rate': (0.01, 0.02, 0.05, 0.1, 0.2),
      'attack.ig.priors.spatial_tv': (0.001, 0.003, 0.01, 0.03),
      'seed': range(10),
  })
  return config

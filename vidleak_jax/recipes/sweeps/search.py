"""A random space on three seeds each; with --search=optuna, what matches best.

  vidleak sweep --config=sweeps/search \
      --workdir=runs/search --search=optuna
"""

from vidleak_jax.recipes import sweeps
from vidleak_jax.recipes.sweeps import tiny


def get_config():
  config = tiny.get_config()
  config.sweep = sweeps.space(
      random={
          'attack.ig.learning_rate': ('log_uniform', 0.003, 0.3),
          'attack.ig.priors.spatial_tv': ('log_uniform', 0.001, 0.1),
          'attack.ig.priors.temporal_tv': ('log_uniform', 0.001, 0.1),
      },
      grid={'seed': range(3)},
      num_samples=25)
  return config

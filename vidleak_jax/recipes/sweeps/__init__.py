"""Sweeps: a config, and in its field `sweep` what varies. See docs/sweeps.md.

`launch/sweep.py` takes these as `--config`; `--config.FIELD=VALUE` changes what
all trials share.
"""

from ml_collections import ConfigDict


def space(grid=None, random=None, overrides=None, num_samples=10, seed=0):
  """What a config's field `sweep` holds; names are dotted, as in `seed`,
  `attack.ig.learning_rate`. What is given is multiplied with each other.

  Args:
    grid: name -> values; every combination is a trial.
    random: name -> ('uniform', low, high), ('log_uniform', low, high),
      ('integers', low, high), both ends included, or ('choice', values).
    overrides: a list of name -> value, each what one trial changes.
    num_samples: draws from `random`. Draw i depends on `seed` and i only, so
      that asking for more keeps those that were.
    seed: of the draws.
  """
  def dotted(fields):
    return ConfigDict(fields or {}, allow_dotted_keys=True, sort_keys=False)
  return ConfigDict({
      'grid': dotted({k: tuple(v) for k, v in (grid or {}).items()}),
      'random': dotted(random),
      'overrides': tuple(overrides or ()),
      'num_samples': num_samples,
      'seed': seed,
  })

"""Every field; the other recipes are this plus overrides.

  vidleak attack --config=default --workdir=runs/default

The fields, their meaning, defaults and ranges stand in `specs.py` and, for the
attacks, beside each attack; `vidleak list fields` prints them.
"""

from ml_collections import ConfigDict

from vidleak_jax.experiments.leaking import Audit
from vidleak_jax.recipes import to_config


def get_config() -> ConfigDict:
  """Returns the default: all that applies, on one clip that is embedded."""
  return to_config(Audit())

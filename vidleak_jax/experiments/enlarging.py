"""Super-resolution as a stage of an audit: before anything is scored."""

from collections.abc import Sequence

import jax
import numpy as np

from vidleak_jax import superres
from vidleak_jax.experiments.leaking import Audit
from vidleak_jax.runtime.session import Report
from vidleak_jax.types import Array, UserError


def check(audit: Audit) -> None:
  """Raises UserError for what cannot be enlarged, before an attack begins."""
  if audit.superres.name != 'none':
    superres.load(audit.superres.weights,
                  audit.data.original_size / audit.data.image_size)


def enlarged(
    audit: Audit, clips: np.ndarray, references: Array | None,
    devices: Sequence[jax.Device], progress: Report | None,
) -> np.ndarray | None:
  """Returns the enlarged clips, or None where that is not asked for.

  Args:
    audit: says whether and how.
    clips: [N, T, S, S, C], in the order in which the attack left them.
    references: [N, R, L, L, C] that the attacker holds, or None.
    devices: that share the tiles.
    progress: hears how far the work has come.

  Raises:
    UserError: for references of another size, and as `superres.enhance`.
  """
  spec = audit.superres
  if spec.name == 'none':
    return None
  scale = audit.data.original_size // audit.data.image_size
  if references is not None and not references.shape[1]:
    references = None
  if references is not None and (
      references.shape[2] != scale * audit.data.image_size):
    raise UserError(
        f'The leak holds reference frames of side {references.shape[2]}; '
        f'super-resolution needs {scale * audit.data.image_size}. Set '
        'data.original_size to that of the references.')
  return superres.enhance(
      clips, references, weights=spec.weights, scale=scale, noise=spec.noise,
      tile=spec.tile, batch_size=spec.batch_size, devices=devices,
      progress=progress)

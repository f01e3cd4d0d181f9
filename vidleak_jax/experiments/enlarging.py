"""Super-resolution as a stage of an audit: before anything is scored."""

from collections.abc import Sequence

import jax
import numpy as np
from scipy import optimize

from vidleak_jax import superres
from vidleak_jax.experiments.leaking import Audit
from vidleak_jax.models.resize import resized
from vidleak_jax.runtime.session import Report
from vidleak_jax.types import Array, UserError


def check(audit: Audit) -> None:
  """Raises UserError for what cannot be enlarged, before an attack begins."""
  if audit.superres.name != 'none':
    superres.load(audit.superres.weights,
                  audit.data.original_size / audit.data.image_size)


def paired(clips: np.ndarray, references: np.ndarray, batch_size: int
           ) -> np.ndarray:
  """Returns references in the order of the clips that they resemble most.

  A batch comes out of an attack in any order, and the attacker does not know
  which references belong to which clip.

  Args:
    clips: [N, T, S, S, C], recovered; `batch_size` of each update in a row.
    references: [N, R, L, L, C], those of an update's clips in a row.
    batch_size: clips of an update.
  """
  small = resized(references, clips.shape[-2])
  order = []
  for first in range(0, len(clips), batch_size):
    rows = range(first, min(first + batch_size, len(clips)))
    distance = [[_distance(clips[i], small[j]) for j in rows] for i in rows]
    order += (first + optimize.linear_sum_assignment(distance)[1]).tolist()
  return np.asarray(references)[order]


def _distance(clip, references):
  """Of each reference from the frame that is nearest to it, on average."""
  squares = (references[:, None] - clip[None]) ** 2
  return squares.mean((-3, -2, -1)).min(1).mean()


def enlarged(
    audit: Audit, clips: np.ndarray, references: Array | None,
    batch_size: int, devices: Sequence[jax.Device], progress: Report | None,
) -> np.ndarray | None:
  """Returns the enlarged clips, or None where that is not asked for.

  Args:
    audit: says whether and how.
    clips: [N, T, S, S, C], in the order in which the attack left them.
    references: [N, R, L, L, C] that the attacker holds, or None.
    batch_size: clips that share an update, whose order is not known.
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
  if references is not None and batch_size > 1:
    references = paired(clips, np.asarray(references), batch_size)
  return superres.enhance(
      clips, references, weights=spec.weights, scale=scale, noise=spec.noise,
      tile=spec.tile, batch_size=spec.batch_size, devices=devices,
      progress=progress)

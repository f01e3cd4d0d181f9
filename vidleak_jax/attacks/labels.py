"""Labels from the last dense layer's gradient, without any optimisation.

With cross-entropy the bias gradient of class k is the mean over the batch of
p_k - [label is k], so it is negative only for classes that are present (iDLG,
2001.02610). Without a bias the kernel's columns tell nearly as much.
"""

import numpy as np

from vidleak_jax.types import Params, UserError


def infer_labels(
    update: Params, head: tuple[str, ...], batch_size: int
) -> np.ndarray:
  """The labels in each message, in increasing order.

  Exact for one clip; for more, right where the labels are distinct and the
  probabilities are far from one-hot, as they are before training.

  Args:
    update: a leak's, leaves [M, ...].
    head: path of the last dense layer.
    batch_size: B.

  Returns:
    [M, B] int32.

  Raises:
    UserError: when B exceeds the number of classes, so that labels repeat.
  """
  layer = update
  for key in head:
    layer = layer[key]
  if 'bias' in layer:
    scores = np.asarray(layer['bias'])
  else:
    scores = _kernel_scores(np.asarray(layer['kernel']), batch_size)
  if batch_size > scores.shape[-1]:
    raise UserError(
        f'Cannot infer {batch_size} distinct labels of {scores.shape[-1]} '
        'classes. Set federated.labels_known=true, or use smaller batches.')
  lowest = np.argsort(scores, axis=-1)[:, :batch_size]
  return np.sort(lowest, axis=-1).astype(np.int32)


def _kernel_scores(kernel, batch_size):
  """[M, F, K] -> [M, K], lowest for the classes that are present."""
  if batch_size == 1:  # |p_k - 1| of the label is the sum of all the others
    return -np.linalg.norm(kernel, axis=1)
  return np.sum(kernel, axis=1)  # features that are positive on the whole

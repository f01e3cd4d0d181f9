"""From the gradient of a head to the features of every frame, exactly.

Only the first layer of the head matters: a dense one gives its input by a
division (`closed_form.dense`), whatever depth, LayerNorm or dropout follows. A
convolutional head is walked down to the features and polished there.
"""

from typing import NamedTuple

import numpy as np

from vidleak_jax.attacks import analytic
from vidleak_jax.attacks.analytic.activations import INVERTIBLE
from vidleak_jax.attacks.analytic.polish import polish
from vidleak_jax.types import Leak, UserError, Victim


class Features(NamedTuple):
  """What a head's gradient says of the frozen features."""
  values: np.ndarray  # [M, T, F] float64; [M, 1, F] where only the mean shows
  labels: np.ndarray  # [M] int32
  report: list[dict]  # per layer: layer, rank, unknowns, condition, residual


def recover_features(
    victim: Victim, leak: Leak, *, batch_size: int | None = None) -> Features:
  """Recovers the features that entered the head.

  Args:
    victim: a frozen extractor with a head.
    leak: M messages of one clip each.
    batch_size: clips per message, where the attacker knows it.

  Raises:
    UserError: for a victim without a frozen extractor, a head that gives its
      input away by no closed form, or messages of several clips.
  """
  if victim.on_features is None:
    raise UserError(
        'The attack on features needs a frozen extractor with a trained head. '
        'Set victim.name=frozen, or choose attack.name=ig.')
  if victim.feature_layer:
    found = analytic.dense_input(
        leak.update, victim.feature_layer, batch_size)
    n = found.features.shape[-1]
    row = {'layer': '/'.join(victim.feature_layer), 'rank': n, 'unknowns': n,
           'equations': n, 'condition': 1.0,
           'residual': float(np.max(found.residual)), 'steps': 0}
    return Features(found.features[:, None],
                    analytic.infer_label(leak.update, victim.head), [row])
  if not victim.on_features.layers:
    raise UserError(
        'This head mixes the frames before its first dense layer, and is no '
        'chain of invertible layers, so its gradient gives the features away '
        'by no closed form. Choose victim.head=classifier1, classifier2, '
        'classifier3, mlp or matrix.')
  return _walk(victim.on_features, leak, batch_size)


def _walk(head, leak, batch_size):
  walk = analytic.walk_down(head, leak, batch_size=batch_size)
  if walk.stopped:
    raise UserError(
        'An activation of this head has no inverse, so its gradient gives the '
        f'input of {walk.layer} away, not the features. Set victim.activation '
        f'to one of {", ".join(sorted(INVERTIBLE))}, or choose '
        'victim.head=classifier1, classifier2, classifier3 or mlp.')
  start = walk.activations[:, None]
  polished = polish(head.loss, leak, start, walk.labels[:, None],
                    inner_steps=600)  # 200 leave errors of 3e-5
  return Features(polished.clips[:, 0], walk.labels, walk.report)

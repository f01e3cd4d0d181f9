"""From the gradient of a head to the features of every frame, exactly.

Of one clip only the first layer of the head matters: a dense one gives its
input by a division (`analytic.dense`), whatever depth, LayerNorm or dropout
follows. Of a batch the dense layers are solved from the last one down
(`analytic.dense_batch`). A convolutional head is walked down to the features
and polished there.
"""

from typing import NamedTuple

import numpy as np

from vidleak_jax import trees
from vidleak_jax.attacks import analytic
from vidleak_jax.attacks.analytic.activations import INVERTIBLE
from vidleak_jax.attacks.analytic.dense_batch import batch_inputs, needs_stack
from vidleak_jax.attacks.analytic.polish import polish
from vidleak_jax.types import Leak, Row, UserError, Victim
from vidleak_jax.victims.introspection import structure


class Features(NamedTuple):
  """What a head's gradient says of the frozen features."""
  # [M, B, T, F] float64; [M, B, 1, F] where only the mean over frames shows
  values: np.ndarray
  labels: np.ndarray  # [M, B] int32
  report: list[Row]   # per layer: layer, rank, unknowns, condition, residual
  notes: tuple[str, ...] = ()  # why clips of a batch are not certain


def recover_features(
    victim: Victim, leak: Leak, *, batch_size: int | None = None) -> Features:
  """Recovers the features that entered the head.

  Args:
    victim: a frozen extractor with a head.
    leak: M messages of B clips each.
    batch_size: B, where the attacker knows it; None: one, if that fits.

  Raises:
    UserError: for a victim without a frozen extractor, a head that gives its
      input away by no closed form, or more clips than it can separate.
  """
  if victim.on_features is None:
    raise UserError(
        'The attack on features needs a frozen extractor with a trained head. '
        'Set victim.name=frozen, or choose attack.name=ig.')
  if batch_size is not None and batch_size > 1:
    return _of_batches(victim, leak, batch_size)
  if victim.feature_layer:
    found = analytic.dense_input(
        leak.update, victim.feature_layer, batch_size)
    n = found.features.shape[-1]
    row = {'layer': '/'.join(victim.feature_layer), 'rank': n, 'unknowns': n,
           'equations': n, 'condition': 1.0,
           'residual': float(np.max(found.residual)), 'steps': 0}
    return Features(
        found.features[:, None, None],
        analytic.infer_label(leak.update, victim.head)[:, None], [row])
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
  return Features(polished.clips, walk.labels[:, None], walk.report)


def needs_batch(victim: Victim, batch_size: int) -> list[str]:
  """Returns why the features of a batch do not show, none where they do."""
  if not victim.feature_layer:
    return ['only classifiers on the mean of the frames give a batch away']
  return needs_stack(_stack(victim), batch_size)


def _of_batches(victim, leak, batch_size):
  reasons = needs_batch(victim, batch_size)
  if reasons:
    raise UserError(f'The features of {batch_size} clips do not show in one '
                    f'update: {reasons[0]}. Use federated.message=frame.')
  found = [batch_inputs(_stack(victim), leak.params,
                        trees.take(leak.update, index), batch_size)
           for index in range(leak.num_updates)]
  return Features(
      np.stack([each.inputs for each in found])[:, :, None],
      np.stack([each.labels for each in found]),
      [row for each in found for row in each.report],
      notes=tuple(each.head.note for each in found
                  if not each.head.certified))


def _stack(victim):
  return structure.units(victim.on_features.graph.nodes[1:])

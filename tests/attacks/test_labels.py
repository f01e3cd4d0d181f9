"""Labels from the last layer's gradient, with and without its bias."""

import jax
import numpy as np
import pytest

from vidleak_jax.attacks import labels
from vidleak_jax.clients import defenses, federated
from vidleak_jax.types import UserError


def test_one_clip_a_message(victim, leak, batch):
  found = labels.infer_labels(leak.update, victim.head, 1)
  np.testing.assert_array_equal(found[:, 0], batch.labels)


def test_distinct_labels_of_a_batch(victim, batch):
  sent = federated.send(
      federated.client(victim.loss), victim.init(jax.random.key(1)),
      federated.split(batch, 'batch'), defenses.build(jax.random.key(2)))
  found = labels.infer_labels(sent.update, victim.head, 3)
  np.testing.assert_array_equal(found, [sorted(batch.labels)])


def test_without_a_bias_the_kernel_tells(victim, leak, batch):
  head = {'head': {'kernel': leak.update['head']['kernel']}}
  found = labels.infer_labels(head, victim.head, 1)
  np.testing.assert_array_equal(found[:, 0], batch.labels)


def test_more_clips_than_classes_is_refused(victim, leak):
  with pytest.raises(UserError, match='8 distinct labels of 7 classes'):
    labels.infer_labels(leak.update, victim.head, 8)

"""Head gradients give the features of every frame away, exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidleak_jax import victims
from vidleak_jax.attacks.features import recover_features
from vidleak_jax.clients import FedSGD, simulate, split
from vidleak_jax.evaluation import metrics
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import Batch, Leak, PublicInfo, UserError

SIZE = 16


def shared(head, num_frames, message, dropout=False, count=2, **options):
  """(victim, leak, messages) of some clips."""
  victim = victims.build('frozen', (num_frames, SIZE, SIZE, 3), 11,
                         preset='tiny', head=head, **options)
  frames = 3 if message == 'frame' else num_frames
  clips = jax.random.uniform(jax.random.key(5), (count, frames, SIZE, SIZE, 3))
  clips *= jnp.linspace(0.3, 1, count)[:, None, None, None, None]
  labels = jnp.array([3, 7, 1, 7, 10])[:count]
  messages = split(Batch(clips, labels), message)
  params = victim.init(jax.random.key(1))
  update = simulate(
      victim.loss, FedSGD(), params, messages, DefenseSpec(),
      dropout_key=jax.random.key(4) if dropout else None)
  leak = Leak(params, update, PublicInfo(clip_shape=messages.clips.shape[2:]))
  return victim, leak, messages


def relative_error(found, truth):
  truth = np.asarray(truth, np.float64)
  return np.max(np.linalg.norm(found - truth, axis=-1)
                / np.linalg.norm(truth, axis=-1))


@pytest.mark.parametrize('dropout', [False, True])
@pytest.mark.parametrize('head', ['classifier1', 'classifier2', 'classifier3'])
def test_every_frame_through_every_classifier(head, dropout):
  victim, leak, messages = shared(head, 1, 'frame', dropout)
  found = recover_features(victim, leak, batch_size=1)
  truth = victim.features(messages.clips[:, 0])
  assert found.values[:, 0].shape == truth.shape == (6, 1, 8)
  assert relative_error(found.values[:, 0], truth) < 1e-5
  np.testing.assert_array_equal(found.labels, messages.labels)
  assert found.report[0]['residual'] < 1e-6


@pytest.mark.slow
def test_the_feature_matrix():
  victim, leak, messages = shared('matrix', 10, 'clip')
  found = recover_features(victim, leak)
  assert relative_error(
      found.values[:, 0], victim.features(messages.clips[:, 0])) < 1e-5
  np.testing.assert_array_equal(found.labels, messages.labels)
  assert [row['layer'] for row in found.report] == [
      'head', 'conv3', 'conv2', 'conv1', 'conv0']


def test_of_a_whole_clip_a_classifier_gives_the_mean():
  victim, leak, messages = shared('classifier1', 4, 'clip')
  truth = victim.features(messages.clips[:, 0]).mean(1, keepdims=True)
  found = recover_features(victim, leak).values[:, 0]
  assert relative_error(found, truth) < 1e-5


@pytest.mark.parametrize('head, options, message', [
    ('gru', {}, 'classifier1, classifier2'),
    ('matrix', {'activation': 'relu'}, 'no inverse.*victim.activation'),
])
def test_heads_that_tell_too_little_are_refused(head, options, message):
  victim, leak, _ = shared(head, 4, 'clip', **options)
  with pytest.raises(UserError, match=message):
    recover_features(victim, leak)


def test_a_victim_without_extractor_is_refused(victim, leak):
  with pytest.raises(UserError, match=r'victim.name=frozen'):
    recover_features(victim, leak)


@pytest.mark.parametrize('head, dropout', [
    ('classifier1', False), ('classifier2', False), ('classifier2', True)])
def test_every_clip_of_a_batch(head, dropout):
  victim, leak, messages = shared(head, 3, 'batch', dropout, count=5)
  found = recover_features(victim, leak, batch_size=5)
  truth = victim.features(messages.clips[0]).mean(1)
  assert found.values.shape == (1, 5, 1, 8) and not found.notes
  np.testing.assert_array_equal(found.labels[0], np.sort(messages.labels[0]))
  order = metrics.assign(found.values, truth[None, :, None])[0]
  assert relative_error(found.values[0, order, 0], truth) < 1e-5
  assert max(row['residual'] for row in found.report) < 1e-5


@pytest.mark.parametrize('head, reason', [
    ('classifier3', 'norm'), ('mlp', 'slope of gelu')])
def test_batches_that_do_not_come_apart_are_refused(head, reason):
  victim, leak, _ = shared(head, 3, 'batch', count=5)
  with pytest.raises(UserError, match=reason):
    recover_features(victim, leak, batch_size=5)

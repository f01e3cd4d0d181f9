"""The frozen extractor end to end: references are held, said and scored."""

import jax
import numpy as np
import pytest

from tests.experiments.test_audit import config
from vidleak_jax import victims
from vidleak_jax.evaluation import metrics
from vidleak_jax.experiments import audit
from vidleak_jax.experiments.leaking import Audit
from vidleak_jax.leaks import storage
from vidleak_jax.recipes import frozen_features

FROZEN = {'victim__name': 'frozen', 'federated__message': 'auto',
          'attack__name': 'frozen_features',
          'attack__frozen_features__num_scenes': 20}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('frozen')
  return folder, audit.run(
      config(**FROZEN, victim__head='classifier2',
             victim__dropout_active=True, attack__num_references=2), folder)


def test_features_are_exact_and_floors_stand_beside_the_score(run):
  folder, result = run
  assert result['feature_relative_error'] < 1e-5
  assert result['label_accuracy'] == 1.0
  assert result['psnr_reference'] > 0
  assert [row['layer'] for row in result['closed_form']] == ['dense0']
  leak = storage.load(folder)
  assert leak.public.num_reference_frames == 2
  assert leak.public.federated.message == 'frame'
  assert leak.references.shape == (1, 2, 32, 32, 3)  # data.original_size


def test_from_the_leak_alone(run, tmp_path):
  folder, _ = run
  result = audit.run(config(**FROZEN), tmp_path, leak_path=folder)
  assert 'psnr' not in result and 'feature_relative_error' not in result
  found, expected = (np.load(path / 'recovered.npz')['clips']
                     for path in (tmp_path, folder))
  np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_a_matrix_head_shares_a_gradient_a_clip(tmp_path):
  result = audit.run(config(**FROZEN, victim__head='matrix'), tmp_path)
  assert storage.load(tmp_path).public.federated.message == 'clip'
  assert result['feature_relative_error'] < 1e-5
  assert 'psnr_reference' not in result


def test_the_default_extractor_is_the_trained_one_that_is_shipped():
  own = Audit.from_dict(frozen_features.get_config().to_dict()).victim
  shape = (1, 32, 32, 3)
  shipped = victims.from_spec(own, shape)
  drawn = victims.from_spec(own.replace(weights_file=''), shape)
  assert 'photo_motion.safetensors' in shipped.known
  assert 'drawn from seed 0' in drawn.known
  clips = jax.random.uniform(jax.random.key(0), (1, *shape))
  assert shipped.features(clips).shape == (1, 1, 64)
  assert not np.allclose(shipped.features(clips), drawn.features(clips))


def test_relative_error_is_the_largest():
  truth = np.array([[3.0, 4.0], [0.0, 2.0]])
  off = truth + np.array([[0.5, 0.0], [0.0, 1.0]])
  error = metrics.relative_error(off, truth)
  assert error == pytest.approx(0.5)
  assert metrics.relative_error(jax.numpy.asarray(truth), truth) == 0

"""From features to frames: never outside what the references show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidleak_jax import photos, victims
from vidleak_jax.attacks.features import (
  decoder,
  mixture,
  recover_frames,
  scenes,
)
from vidleak_jax.attacks.features import train as train_blend
from vidleak_jax.data import photo_motion
from vidleak_jax.types import UserError

SIZE = 12


def extract(frames):
  """Means over the quarters of a frame: sees brightness and place."""
  parts = frames.reshape(-1, 2, SIZE // 2, 2, SIZE // 2, 3)
  return parts.mean((2, 4)).reshape(len(frames), -1)


@jax.jit
def mix(features, references, held=None, params=None):
  params = params or mixture.init(jax.random.key(0))
  bank = mixture.variants(references)
  theirs = jax.vmap(extract)(bank)
  return mixture.blend(params, jnp.full(12, 0.1), features, references, theirs,
                     held)


@pytest.fixture(scope='module')
def references():
  return jax.random.uniform(jax.random.key(1), (3, SIZE, SIZE, 3))


def test_variants_are_shifts_around_the_reference_itself(references):
  bank = mixture.variants(references)
  assert bank.shape == (25, *references.shape)
  np.testing.assert_array_equal(bank[12], references)
  np.testing.assert_array_equal(bank[13][:, :, :-2], references[:, :, 2:])


def test_frames_stay_between_the_darkest_and_brightest_of_the_references(
    references):
  features = extract(jax.random.uniform(jax.random.key(2), (4, SIZE, SIZE, 3)))
  found = mix(features, references)
  assert found.shape == (4, SIZE, SIZE, 3)
  still = mix(features, jnp.full_like(references, 0.3))
  np.testing.assert_allclose(still, 0.3, atol=1e-5)


def test_a_reference_that_is_not_held_has_no_influence(references):
  features = extract(references)
  held = jnp.array([True, True, False])
  other = references.at[2].set(0.0)
  np.testing.assert_allclose(mix(features, references, held),
                             mix(features, other, held), atol=1e-5)


@pytest.mark.slow
def test_its_derivative_is_finite_with_one_reference(references):
  def loss(params):
    return jnp.sum(mix(extract(references), references[:1], None, params) ** 2)
  slopes = jax.jit(jax.grad(loss))(mixture.init(jax.random.key(0)))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_training_lowers_the_error():
  losses = []
  spec = train_blend.BlendSpec(
      image_size=SIZE, num_scenes=6, num_frames=2, num_references=2,
      num_steps=100, batch_size=4, seed=0)

  def hear(stage, done, total, **values):
    losses.extend(values.values())
  train_blend.run(extract, spec, progress=hear)
  assert len(losses) == 2 and losses[1] > losses[0]


@pytest.mark.slow
def test_an_interrupted_training_ends_bit_equal(tmp_path):
  spec = train_blend.BlendSpec(
      image_size=SIZE, num_scenes=4, num_frames=2, num_references=2,
      num_steps=120, batch_size=2, seed=0)

  def run(folder, hear=None):
    return train_blend.run(extract, spec, folder, progress=hear)

  def interrupt(stage, done, total, **values):
    if done == 100:
      raise KeyboardInterrupt
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / 'cut', interrupt)
  resumed = []
  cut = run(tmp_path / 'cut',
            lambda stage, done, total, **values: resumed.append(done))
  assert resumed == [50, 100, 120]  # 50 was saved
  jax.tree.map(np.testing.assert_array_equal, cut, run(tmp_path / 'whole'))


def test_scenes_depend_on_seed_and_number_alone():
  few = [*scenes.scenes(2, 3, 1, SIZE, seed=4, num_textures=5)]
  more = [*scenes.scenes(3, 3, 1, SIZE, seed=4, num_textures=5)]
  assert few[0].shape == (4, SIZE, SIZE, 3) and few[0].dtype == np.uint8
  np.testing.assert_array_equal(few, more[:2])


def test_public_scenes_show_no_photograph_that_is_attacked():
  assert not {*photo_motion.PHOTOS['test']} & {*photos.PUBLIC}


@pytest.mark.parametrize('held', [0, 2])
def test_clips_with_and_without_references(references, held):
  truth = jnp.tile(references[:1], (4, 1, 1, 1))
  found = recover_frames(
      extract, np.asarray(extract(truth))[None], SIZE,
      np.asarray(references)[None, :held] if held else None,
      path=None, num_scenes=20, seed=0)
  assert found.shape == (1, 4, SIZE, SIZE, 3)
  assert 0 <= found.min() and found.max() <= 1
  error = np.mean((found[0] - truth) ** 2)
  mean = np.mean((truth.mean((0, 1, 2)) - truth) ** 2)
  if held:  # the truth is one of them
    assert error < mean / 4


def test_a_file_of_other_weights_is_refused(tmp_path):
  np.savez(tmp_path / 'other.npz', kernel=np.zeros((2, 2)))
  with pytest.raises(UserError, match='None of the 1 tensors fits'):
    decoder.load(tmp_path / 'other.npz')


def test_of_the_shipped_blends_the_one_that_suits_the_extractor():
  """Each is best for the extractor that it was trained for."""
  victim = victims.build('frozen', (1, 32, 32, 3), 10, lowering='lax',
                         weights_file='photo_motion')
  own = decoder.frame_extractor(victim)
  public = np.stack([*scenes.scenes(30, 1, 1, 32, 0, num_textures=20)])
  scale = decoder.extract_all(own, public.reshape(-1, 32, 32, 3).astype(
      np.float32) / 255).std(0)
  found = decoder._fitting(own, scale, 32, seed=3)
  ours = decoder.load(decoder.SHIPPED[0])
  np.testing.assert_array_equal(found['log_effort'], ours['log_effort'])


def test_weights_of_the_extractor_are_arguments_of_programs():
  """Baked in as constants they would be folded and hashed with the program."""
  victim = victims.build('frozen', (2, 16, 16, 3), 5, preset='small')
  params = victim.init(jax.random.key(0))
  clips, labels = jnp.zeros((1, 2, 16, 16, 3)), jnp.array([1])

  def gradient(loss, *args):
    return jax.grad(loss)(*args)
  passed = jax.jit(gradient).lower(victim.loss, params, clips, labels)
  closed = jax.jit(jax.grad(victim.loss)).lower(params, clips, labels)
  extract = decoder._run.lower(decoder.frame_extractor(victim), clips[:, 0])
  sizes = [len(each.as_text()) for each in (passed, closed, extract)]
  assert sizes[0] < sizes[1] - 1_000_000  # 270 000 weights in hexadecimal
  assert sizes[2] < 500_000
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
               jax.jit(gradient)(victim.loss, params, clips, labels),
               jax.jit(jax.grad(victim.loss))(params, clips, labels))

"""The Python interface: in memory, silent, without global side effects."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vidleak_jax as vl

SHAPE = (4, 16, 16, 3)


@pytest.fixture(scope='module')
def victim():
  return vl.victims.c3d(SHAPE, 7, preset='tiny')


@pytest.fixture(scope='module')
def clips():
  rng = np.random.default_rng(0)
  coarse = rng.uniform(size=(2, *SHAPE)).astype(np.float32)
  return sum(np.roll(coarse, k, axis=3) for k in range(4)) / 4


@pytest.fixture(scope='module')
def leak(victim, clips):
  return vl.observe(victim, victim.init(jax.random.key(1)), clips, [5, 2])


def quick(**options):
  return vl.attacks.ig(num_steps=3, **options)


def test_public_names_are_few_and_documented():
  assert 15 <= len(vl.__all__) <= 30
  for name in vl.__all__:
    thing = getattr(vl, name)
    assert name == '__version__' or inspect.getdoc(thing), name


def test_an_attack_leaves_no_trace(victim, leak, tmp_path, monkeypatch, capfd):
  monkeypatch.chdir(tmp_path)
  before = dict(jax.config.values)
  found = vl.attack(victim, leak, quick(), key=jax.random.key(2))
  assert found.clips.shape == (2, *SHAPE) and found.labels.tolist() == [5, 2]
  assert found.gradient_residual.shape == (2,) and found.attack == 'ig'
  assert found.verdict is None
  assert not list(tmp_path.iterdir())
  assert jax.config.values == before
  assert ''.join(capfd.readouterr()) == ''


def test_progress_is_told_and_a_folder_resumes(victim, leak, tmp_path):
  told = []

  def progress(stage, done, total, **values):
    told.append((stage, done, total))
  first = vl.attack(victim, leak, quick(), key=jax.random.key(2),
                    folder=tmp_path, progress=progress)
  again = vl.attack(victim, leak, quick(), key=jax.random.key(2),
                    folder=tmp_path)
  alone = vl.attack(victim, leak, quick(), key=jax.random.key(2))
  assert ('attack', 3, 3) in told
  np.testing.assert_array_equal(first.clips, again.clips)
  np.testing.assert_array_equal(first.clips, alone.clips)


def test_a_gradient_of_the_users_own(victim, clips, tmp_path):
  params = victim.init(jax.random.key(1))
  gradient = jax.grad(victim.loss)(params, clips[:1], jnp.array([5]))
  leak = vl.Leak(params=params, update=gradient,
                 public=vl.PublicInfo(clip_shape=SHAPE))
  leak.save(tmp_path)
  loaded = vl.load_leak(tmp_path)
  assert loaded.public == leak.public and loaded.num_updates == 1
  jax.tree.map(np.testing.assert_array_equal, loaded.update, leak.update)
  found = vl.attack(victim, loaded, vl.attacks.feature_matching(num_steps=150),
                    key=jax.random.key(0))
  scores = vl.evaluate(found, clips[:1], [5], unrelated=clips[1:])
  assert scores.psnr[0] > scores.psnr_mean_frame[0]
  assert scores.label_accuracy == 1.0


def test_defences_chain_freely(victim, clips):
  params = victim.init(jax.random.key(1))
  defense = optax.chain(
      vl.defenses.clip_by_global_norm(0.1),
      vl.defenses.gaussian_noise(1e-3, jax.random.key(3)))
  leak = vl.observe(victim, params, clips, [5, 2], defense=defense)
  assert leak.public.defense is None  # nothing is told about a transform
  assert 0.09 < optax.tree.norm(jax.tree.map(lambda u: u[0], leak.update)) < 1
  known = vl.observe(victim, params, clips, [5, 2],
                     defense=vl.DefenseSpec(quantize_bits=8))
  assert known.public.defense.quantize_bits == 8
  with pytest.raises(vl.UserError, match='key'):
    vl.observe(victim, params, clips, [5, 2],
               defense=vl.DefenseSpec(noise_std=1e-3))


def test_one_local_step_is_the_gradient_times_the_rate(victim, clips, leak):
  trained = vl.observe(
      victim, leak.params, clips, [5, 2],
      client=vl.FedAvg(local_steps=1, local_learning_rate=0.5))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b / 2, atol=1e-6),
               trained.update, leak.update)


def test_applicable_says_why_not(victim, leak):
  table = vl.applicable(victim, leak)
  assert set(table) == set(vl.attacks.ATTACKS)
  assert table['feature_matching'] == table['ig'] == []
  assert 'learned positions' in table['transformer'][0]
  with pytest.raises(vl.UserError, match='frozen extractor'):
    vl.attack(victim, leak, 'frozen_features', key=jax.random.key(0))


def test_clips_of_one_update_are_paired_by_the_judge(clips):
  swapped = vl.AttackResult(
      clips[::-1].copy(), np.array([2, 5], np.int32), np.zeros(1), 'ig', {}, 1)
  scores = vl.evaluate(swapped, clips, [5, 2])
  assert scores.num_exact == 2 and scores.label_accuracy == 1.0
  apart = vl.AttackResult(swapped.clips, swapped.labels, np.zeros(2), 'ig', {},
                          2)
  assert vl.evaluate(apart, clips, [5, 2]).num_exact == 0


@pytest.mark.parametrize('call, told', [
    (lambda v, leak: vl.attack(v, leak, 'igg', key=jax.random.key(0)),
     "Did you mean 'ig'"),
    (lambda v, leak: vl.attacks.ig(num_steps=0), 'num_steps is 0'),
    (lambda v, leak: vl.attacks.ig(learning_rate=float('nan')),
     'learning_rate is nan'),
    (lambda v, leak: vl.attack(vl.victims.c3d(SHAPE, 9, preset='tiny'), leak,
                               'ig', key=jax.random.key(0)), 'do not fit'),
    (lambda v, leak: vl.observe(v, leak.params, np.ones((1, 2, 2, 3)), [0]),
     'clips have shape'),
    (lambda v, leak: vl.observe(v, leak.params, np.ones((1, *SHAPE)), [9]),
     'classes 0 to 6'),
    (lambda v, leak: vl.PublicInfo(clip_shape=(4, 16, 16)), 'clip_shape'),
    (lambda v, leak: leak.replace(labels=[1.5, 2.0]), 'labels'),
])
def test_mistakes_are_told(victim, leak, call, told):
  with pytest.raises(vl.UserError, match=told):
    call(victim, leak)


def test_files_by_run(tmp_path):
  audit = vl.Audit.from_dict({
      'data': {'num_frames': 4, 'image_size': 16, 'original_size': 32},
      'victim': {'preset': 'tiny'},
      'attack': {'name': 'ig', 'num_steps': 2}})
  result = vl.run(audit, tmp_path / 'run')
  assert result['attack'] == 'ig' and 0 < result['gradient_residual'] < 10
  assert vl.run(audit, tmp_path / 'run') == result
  assert (tmp_path / 'run').stat().st_mode & 0o777 == 0o700


def test_shapes_are_what_the_signatures_say(victim, leak, clips):
  """Results hold the shapes that their fields are annotated with."""
  import typing

  import jaxtyping
  found = vl.attack(victim, leak, quick(), key=jax.random.key(2))
  scores = vl.evaluate(found, clips, unrelated=clips[::-1])
  checked = 0
  for result in (found, scores):
    for name, kind in typing.get_type_hints(type(result)).items():
      kinds = typing.get_args(kind) or (kind,)
      shaped = [k for k in kinds if isinstance(k, type)
                and issubclass(k, jaxtyping.AbstractArray)]
      if shaped and getattr(result, name) is not None:
        checked += 1
        assert isinstance(getattr(result, name), shaped[0]), name
  assert checked >= 6

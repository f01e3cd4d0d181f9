"""An audit end to end at tiny size, and what it concludes."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

from tests.experiments.test_audit import config
from tests.helpers import dense_victim
from vidleak_jax import victims
from vidleak_jax.attacks.auto import NOTHING, PARTLY, RECOVERED
from vidleak_jax.clients import observe
from vidleak_jax.evaluation import bounds
from vidleak_jax.evaluation.report import audit_page
from vidleak_jax.experiments import audit, auditing
from vidleak_jax.experiments.auditing import advice, curve, limits, schedule
from vidleak_jax.experiments.leaking import Audit
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import Leak, PublicInfo, UserError

TINY = {'attack__auto__only': ('ig',), 'attack__auto__polish_steps': 0}
POINTS, FINER = curve.points, curve.finer  # before they are patched
ROW = {'setting', 'value', 'psnr', 'floor', 'attack', 'why_not', 'seconds'}


def ask(**overrides):
  return Audit.from_dict(config(**TINY | overrides))


@pytest.fixture(scope='module')
def one_point():
  """One noise; each other point is the same code again."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(curve, 'points', lambda *args: POINTS(*args)[:1])
    patch.setattr(curve, 'finer', lambda *args: None)
    yield


@pytest.fixture(scope='module')
def done(one_point, tmp_path_factory):
  folder = tmp_path_factory.mktemp('audit')
  told = []
  result = audit.run(ask(), folder, budget='5m', progress=lambda *args, **more:
                     told.append((args[0], more)))
  return folder, result, told


def test_it_writes_what_is_promised(done):
  folder, result, _ = done
  assert json.loads((folder / 'audit.json').read_text()) == result
  assert result['verdict'] in (RECOVERED, PARTLY, NOTHING)
  rows = {row['name']: row for row in result['attacks']}
  assert set(rows['ig']) == {'name', 'gradient_residual', 'psnr', 'ssim',
                             'seconds', 'why_not'}
  assert rows['ig']['psnr'] == pytest.approx(
      json.loads((folder / 'result.json').read_text())['psnr'])
  assert result['bounds']['epsilon'] is None
  assert {row['status'] for row in result['self_check']} == {'ok'}
  np.testing.assert_allclose(sum(r['share'] for r in result['layers']), 1)
  row, = result['curve']
  assert row['setting'] == 'defense.noise_std'
  assert ROW <= set(row) and row['psnr'] > 0 and not row['why_not']
  assert result['what_would_stop_it'] and not result['budget_was_spent']


def test_the_page_needs_no_network_and_says_it_in_words(done):
  folder, result, _ = done
  page = (folder / 'audit.html').read_text()
  assert not re.search(r'(src|href)="(?!data:)', page)
  assert '<script' not in page and 'prefers-color-scheme: dark' in page
  images = re.findall('<img[^>]*>', page)
  assert len(images) == 2 and all('alt="what the' in each for each in images)
  assert result['sentence'] in page.replace('&#x27;', "'")
  assert 'safe' not in result['verdict'] + result['sentence']


def test_progress_says_what_runs_and_how_long_is_left(done):
  stages = {stage for stage, _ in done[2]}
  assert 'ig: attack' in stages
  assert any(stage.startswith('curve noise_std-') for stage in stages)
  assert all('budget_left' in more for stage, more in done[2]
             if stage == 'ig: attack')


def test_a_finished_audit_is_not_run_again(done, monkeypatch):
  folder, result, _ = done
  monkeypatch.setattr(schedule, 'told', None)
  assert audit.run(ask(), folder, budget=60) == result
  with pytest.raises(UserError, match='every_attack was'):
    audit.run(ask(), folder)  # another kind of run


def test_a_budget_that_ends_early_is_told_and_goes_on(done, tmp_path):
  _, whole, _ = done
  early = audit.run(ask(), tmp_path, budget='0.001s')
  assert early['budget_was_spent']
  assert early['attacks'][0]['why_not'] == 'stopped after 2 of 4 steps'
  assert 'the budget was spent' in early['curve'][0]['why_not']
  assert 'budget ended before' in (tmp_path / 'audit.html').read_text()
  later = audit.run(ask(), tmp_path, budget='5m')
  assert not later['budget_was_spent']
  assert later['psnr'] == pytest.approx(whole['psnr'], abs=1e-3)


def test_of_a_leak_alone_nothing_is_scored(done, tmp_path, monkeypatch):
  folder, whole, _ = done
  for name in ('leak.safetensors', 'leak.json'):
    shutil.copy(folder / name, tmp_path)
  monkeypatch.setattr(audit.data, 'load', None)
  result = audit.run(ask(), tmp_path / 'blind', budget='5m',
                     leak_path=tmp_path / 'leak.safetensors')
  assert result['psnr'] is None and result['curve'] == []
  assert result['attacks'][0]['psnr'] is None
  assert result['verdict'] == whole['verdict']
  assert 'Nothing was measured' in result['what_would_stop_it'][0]['words']


@pytest.mark.parametrize('budget', ['soon', '-3m', '0', 'nan', '10 weeks', ''])
def test_nonsense_is_no_budget(budget, tmp_path):
  with pytest.raises(UserError, match=r'budget is .* such as 90s'):
    auditing.run(ask(), tmp_path / 'x', budget=budget)
  assert not (tmp_path / 'x').exists()


def test_a_wrong_leak_is_told(tmp_path):
  with pytest.raises(UserError, match=r'nowhere'):
    auditing.run(ask(), tmp_path / 'x', budget=9,
                 leak_path=tmp_path / 'nowhere.safetensors')


def leak_of(norm=5.0, **defense):
  update = {'head': {'kernel': np.full((10, 10), norm / 10, np.float32)}}
  return Leak(update, update, PublicInfo(
      clip_shape=(1, 2, 2, 3), defense=DefenseSpec.from_dict(defense)))


def test_a_sensitivity_that_is_too_small_is_called_what_it_is():
  """Flower's usual arguments: noise of 4.8e-5 on an update of norm 1."""
  found = limits.privacy(leak_of(local_dp={
      'clipping_norm': 1.0, 'sensitivity': 1e-4, 'epsilon': 10.0}))
  assert found['noise_multiplier'] == pytest.approx(4.8e-5, rel=0.02)
  assert found['epsilon'] > 1e8 and 'million, which is no privacy' in (
      found['words'])
  assert all(row['at_most'] == 1 for row in found['reconstruction'])


def test_noise_without_clipping_has_no_epsilon():
  found = limits.privacy(leak_of(noise_std=5.0))
  assert found['epsilon'] is None and not found['is_guarantee']
  assert found['epsilon_as_if_clipped'] == pytest.approx(4.38, abs=0.01)
  clipped = limits.privacy(leak_of(noise_std=5.0, clip_norm=5.0))
  assert clipped['epsilon'] == found['epsilon_as_if_clipped']
  private = limits.privacy(leak_of(
      dp_sgd={'clip_norm': 3.0, 'noise_multiplier': 1.0}))
  assert private['epsilon'] == pytest.approx(4.38, abs=0.01)
  assert private['advantage'] == pytest.approx(0.383, abs=1e-3)
  assert 'infinite' in limits.privacy(leak_of(quantize_bits=8))['words']


def test_the_page_says_what_an_epsilon_means():
  found = limits.privacy(leak_of(
      dp_sgd={'clip_norm': 3.0, 'noise_multiplier': 1.0}))
  text = audit_page._bounds({'psnr': None, 'bounds': found})
  assert '0.0183' in text and 'gap is at most 0.383' in text


def test_a_limit_is_that_of_the_gradient_before_it_was_clipped():
  """Clipping to a tenth with noise of s is noise of 10 s without it."""
  victim = dense_victim()
  clips = np.random.default_rng(0).uniform(size=(1, 2, 4, 4, 3))
  params, found = victim.init(None), []
  exact = observe(victim, params, clips, [1])
  norm, = limits.norm_of(exact)
  for defense in ({'noise_std': 1e-2},
                  {'clip_norm': norm / 10, 'noise_std': 1e-3}):
    leak = observe(victim, params, clips, [1], key=jax.random.key(0),
                   defense=DefenseSpec(**defense))
    found.append(limits.cramer_rao(
        victim, leak, clips.astype(np.float32), np.array([1]),
        jax.random.key(1), 1e6))
  np.testing.assert_allclose(*found, atol=0.2)
  assert limits.cramer_rao(victim, exact, clips, np.array([1]),
                           jax.random.key(1), 1e6) is None


@pytest.mark.slow
def test_the_solver_of_a_limit_runs_until_it_converged():
  victim = victims.build('c3d', (2, 8, 8, 3), 7, preset='tiny')
  clips = np.random.default_rng(0).uniform(size=(1, 2, 8, 8, 3))
  leak = observe(victim, victim.init(jax.random.key(0)), clips, [1],
                 defense=DefenseSpec(noise_std=1e-4), key=jax.random.key(1))
  clips, key = clips.astype(np.float32), jax.random.key(2)
  found = limits.cramer_rao(victim, leak, clips, np.array([1]), key, 1e6)
  hurried, converged = (bounds.cramer_rao_psnr(
      victim.loss, leak.params, clips[0], 1, 1e-4, key, num_probes=2,
      num_steps=steps) for steps in (60, 10**4))
  assert hurried > found + 0.5
  np.testing.assert_allclose(found, converged, atol=0.1)


def point(value, psnr, setting='defense.noise_std', why_not=''):
  return {'setting': setting, 'value': value, 'psnr': psnr, 'floor': 15.0,
          'why_not': why_not}


def test_the_weakest_change_that_stopped_it_is_named():
  rows = [point(1e-3, 40.0), point(1e-2, 15.2), point(1e-1, 12.0),
          point(0.1, 38.0, 'defense.clip_norm')]
  noise, clipping, promise = advice.what_would_stop_it(rows, leak_of())
  assert noise['change'] == {'defense.noise_std': 1e-2} and noise['stops']
  assert noise['epsilon_as_if_clipped'] > 1e4  # 500 times below the norm
  assert not clipping['stops'] and 'Not enough' in clipping['words']
  assert promise['epsilon'] == 8 and not promise['measured']
  between = FINER(ask(), rows)
  assert 1e-3 < between.value < 1e-2
  assert between.audit.defense.noise_std == between.value


def test_other_settings_lie_about_the_present_one():
  leak = leak_of(norm=5.0)  # 100 entries: a root mean square of 0.5
  found = POINTS(ask(), leak)
  assert {(p.setting, p.value) for p in found} == {
      ('defense.noise_std', 0.05), ('defense.noise_std', 0.5),
      ('defense.noise_std', 5e-3), ('defense.clip_norm', 0.5),
      ('data.num_clips', 2), ('data.num_clips', 4)}
  for each in found:
    group, _, field = each.setting.partition('.')
    assert getattr(getattr(each.audit, group), field) == each.value
  noisy = POINTS(ask(defense__noise_std=0.01), leak)
  assert {p.value for p in noisy if p.setting == 'defense.noise_std'} == {
      0.03, 0.1, 0.003}


def test_behind_dp_sgd_the_noise_multiplier_changes():
  """The norm of such an update is that of its noise."""
  dp_sgd = {'defense__dp_sgd__clip_norm': 1.0}
  leak = leak_of(norm=100.0, dp_sgd={'clip_norm': 1.0, 'noise_multiplier': 1.0})
  for multiplier, values in ((1.0, {0.3, 3.0, 10.0}), (0.0, {0.01, 0.1, 1.0})):
    found = POINTS(ask(
        **dp_sgd, defense__dp_sgd__noise_multiplier=multiplier), leak)
    assert {p.setting for p in found} == {curve.MULTIPLIER, 'data.num_clips'}
    assert {p.value for p in found if p.setting == curve.MULTIPLIER} == values
    for each in found:
      if each.setting == curve.MULTIPLIER:
        assert each.audit.defense.dp_sgd.noise_multiplier == each.value


def test_a_promise_that_stands_is_told():
  leak = leak_of(norm=100.0, dp_sgd={'clip_norm': 1.0, 'noise_multiplier': 1.0})
  *_, promise = advice.what_would_stop_it([], leak)
  assert promise['change'] == {} and promise['epsilon'] == pytest.approx(
      4.38, abs=0.01)
  weak = leak_of(dp_sgd={'clip_norm': 1.0, 'noise_multiplier': 0.1})
  *_, promise = advice.what_would_stop_it([], weak)
  assert promise['epsilon'] == 8 and promise['change']


def test_an_attack_that_was_stopped_proves_nothing():
  rows = [point(1e-2, 15.2, why_not='stopped after 5 of 900 steps')]
  first, _ = advice.what_would_stop_it(rows, leak_of())
  assert first['change'] == {} and 'budget ended' in first['words']
  assert FINER(ask(), [*rows, point(1e-4, 40.0)]) is None


def test_the_sentence_tells_what_is_seen():
  def say(psnr, exact=0, rows=()):
    return advice.sentence(PARTLY, {
        'psnr': psnr, 'floor': 15.0, 'num_exact': exact}, 1, rows)
  assert 'pixel for pixel' in say(90.0, 1)
  assert 'to the eye' in say(45.0) and 'plainly' in say(30.0)
  assert 'dimly' in say(20.0) and 'no more' in say(15.5)
  other = {'name': 'rgap', 'psnr': 30.0}
  assert 'rgap, is nearer' in say(15.5, rows=[other])


def test_a_defence_that_nobody_named_is_taken_as_found():
  victim = dense_victim()
  rng = np.random.default_rng(0)
  kernel = np.round(rng.normal(size=(32, 5)) * 30).clip(-127, 127) / 127
  kernel[0, 0] = 1  # the largest level of 8 bits
  params = victim.init(None)
  update = jax.tree.map(np.zeros_like, params)
  update['head'] = {'kernel': kernel.astype(np.float32),
                    'bias': kernel[0].astype(np.float32)}
  leak = Leak(params, update, PublicInfo(clip_shape=victim.clip_shape))
  for public in (leak.public, leak.public.replace(defense=None)):
    told = schedule.told(victim, leak.replace(public=public))
    assert told.public.defense == DefenseSpec(quantize_bits=8)
  known = leak.public.replace(defense=DefenseSpec(clip_norm=1.0))
  told = schedule.told(victim, leak.replace(public=known))
  assert told.public.defense == DefenseSpec(clip_norm=1.0)

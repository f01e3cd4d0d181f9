"""All tries on all devices: equal on any number, resumable, one compile.

Every promise is kept at every number of devices and of tries vmapped together;
a toy attack, which compiles in a blink, makes that affordable.
"""

import shutil
import time

import jax
import numpy as np
import pytest

from vidleak_jax.attacks.matching import engine, restarts
from vidleak_jax.runtime import parallel
from vidleak_jax.runtime.programs import ProgramCache
from vidleak_jax.runtime.progress import MetricsLog
from vidleak_jax.types import Target, UserError

KEY = jax.random.key(3)
BATCHES = pytest.mark.parametrize('batch', [1, 2, 8])
MACHINES = pytest.mark.parametrize('devices, batch', [
    (1, 1), (1, 8), (2, 1),
    *(pytest.param(*case, marks=pytest.mark.slow)
      for case in ((1, 2), (2, 8), (8, 2)))])
PROGRAMS = ProgramCache(64)  # of all tests of the toy attack
HALVED = {'restarts': 8, 'num_steps': 8, 'halve_at': (2, 4, 6)}


def _budget(devices=1, num_steps=6, chunk=3, restarts=2, batch=1, halve_at=()):
  return engine.Budget(restarts, num_steps, chunk, batch,
                       parallel.pick_devices(devices), halve_at)


def _run(attack, target, templates, folder, *, key=None, programs=None,
         **options):
  trial = engine.Trial(target, templates, KEY, {}, folder)
  (found,), cost = engine.run(
      lambda numbers: attack, [trial], _budget(**options), folder, key=key,
      programs=programs)
  return found, cost


@pytest.fixture
def run_toy(toy_attack, toy_target, toy_templates):
  def run(folder, *, num_messages=3, **options):
    target = toy_target._replace(evidence=jax.tree.map(
        lambda leaf: leaf[:num_messages], toy_target.evidence))
    templates = jax.tree.map(lambda leaf: leaf[:num_messages], toy_templates)
    return _run(toy_attack, target, templates, folder,
                **{'key': 'toy', 'programs': PROGRAMS, **options})
  return run


@pytest.fixture
def cut_off(monkeypatch):
  """Runs something that dies right after its n-th row of metrics."""

  class Killed(BaseException):
    """Stands for the process's end between two chunks."""

  def cut_off(run, chunks):
    write, left = MetricsLog.write, [chunks]

    def killed(self, step, **values):
      write(self, step, **values)
      left[0] -= 1
      if not left[0]:
        raise Killed
    with monkeypatch.context() as patch, pytest.raises(Killed):
      patch.setattr(MetricsLog, 'write', killed)
      run()
  return cut_off


def _assert_equal(one, other):
  np.testing.assert_array_equal(one.clips, other.clips)
  np.testing.assert_array_equal(one.objective, other.objective)


@MACHINES
def test_any_devices_and_batches_agree(run_toy, tmp_path, devices, batch):
  """15 tries: they leave padding on 2 and on 8 devices, and in batches."""
  one, cost = run_toy(tmp_path / 'one', restarts=5)
  many, other = run_toy(tmp_path / 'many', restarts=5, devices=devices,
                        batch=batch)
  assert cost.restart_steps == other.restart_steps == 3 * 5 * 6
  np.testing.assert_allclose(many.clips, one.clips, atol=1e-4)
  np.testing.assert_allclose(many.objective, one.objective, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('devices, together', [(2, 1), (8, 1), (2, 2)])
def test_a_victims_gradients_agree_as_well(
    tiny_attack, leak, templates, tmp_path, devices, together):
  """Convolutions are what other ways to use several devices get wrong."""
  target = Target(leak.params, leak.update)
  one, _ = _run(tiny_attack, target, templates, tmp_path / 'one')
  many, _ = _run(tiny_attack, target, templates, tmp_path / 'many',
                 devices=devices, batch=together)
  np.testing.assert_allclose(many.clips, one.clips, atol=1e-4)
  np.testing.assert_allclose(many.objective, one.objective, rtol=1e-4)


@MACHINES
def test_resume_ends_bit_equal(run_toy, cut_off, tmp_path, devices, batch):
  options = {'devices': devices, 'batch': batch, 'chunk': 2}
  whole, _ = run_toy(tmp_path / 'whole', **options)
  cut_off(lambda: run_toy(tmp_path / 'cut', **options), 1)
  cut_off(lambda: run_toy(tmp_path / 'cut', **options), 1)
  cut, cost = run_toy(tmp_path / 'cut', **options)
  _assert_equal(cut, whole)
  assert cost.restart_steps == 3 * 2 * 6
  rows = (tmp_path / 'cut' / 'metrics.jsonl').read_text().splitlines()
  assert len(rows) == 3


@BATCHES
def test_a_run_of_one_device_goes_on_with_two(run_toy, tmp_path, batch):
  run_toy(tmp_path, num_steps=3, batch=batch)
  more, _ = run_toy(tmp_path, devices=2, batch=batch)
  whole, _ = run_toy(tmp_path / 'whole')
  np.testing.assert_allclose(more.clips, whole.clips, atol=1e-4)


class _Counting(ProgramCache):
  """Counts the steps that the devices take, padding included."""

  def __init__(self):
    super().__init__()
    self.work = 0

  def get(self, key, build):
    if key[0] == 'working':  # how much memory a step needs, no program
      return super().get(key, build)
    starter, step = super().get(key, build)
    batch = key[1]

    def counted(state, tries, trials, num_steps):
      for share in np.asarray(num_steps):  # of each device
        together = restarts._divisor(len(share), batch)
        self.work += together * share.reshape(-1, together).max(1).sum()
      return step(state, tries, trials, num_steps)
    return starter, counted


@MACHINES
def test_halving_spends_the_budget_and_no_more(run_toy, tmp_path, devices,
                                               batch):
  """8 restarts x 8 steps: 2 each, then 4 for 2, 2 for 2, one to the end."""
  programs = _Counting()
  found, cost = run_toy(tmp_path / 'halved', num_messages=1, devices=devices,
                        batch=batch, programs=programs, **HALVED)
  assert cost.num_steps == 6 + (64 - 16 - 8 - 4)
  assert cost.restart_steps == 64
  assert programs.work == 64
  whole, _ = run_toy(tmp_path / 'whole', num_messages=1, restarts=8,
                     num_steps=8)
  assert (found.objective < whole.objective).all()


@MACHINES
def test_halving_of_several_messages_agrees(run_toy, tmp_path, devices, batch):
  one, _ = run_toy(tmp_path / 'one', **HALVED)
  many, cost = run_toy(tmp_path / 'many', devices=devices, batch=batch,
                       **HALVED)
  assert cost.restart_steps == 3 * 64
  np.testing.assert_allclose(many.clips, one.clips, atol=1e-3)


@MACHINES
def test_a_halved_run_resumes_bit_equal(run_toy, cut_off, tmp_path, devices,
                                        batch):
  """Cut right before a halving: who is alive stands in the checkpoint."""
  options = {'devices': devices, 'batch': batch, **HALVED}
  whole, cost = run_toy(tmp_path / 'whole', **options)
  for chunks in (1, 2):
    cut_off(lambda: run_toy(tmp_path / 'cut', **options), chunks)
  cut, other = run_toy(tmp_path / 'cut', **options)
  _assert_equal(cut, whole)
  assert other.restart_steps == cost.restart_steps


@BATCHES
def test_a_chunk_that_was_lost_is_run_again(run_toy, tmp_path, batch):
  options = {'devices': 2, 'batch': batch, **HALVED}
  whole, _ = run_toy(tmp_path / 'whole', **options)
  run_toy(tmp_path / 'again', **options)
  newest = max((tmp_path / 'again' / 'checkpoints').glob('[0-9]*'),
               key=lambda step: int(step.name))
  shutil.rmtree(newest)  # as if it had been killed before the last chunk
  again, _ = run_toy(tmp_path / 'again', **options)
  _assert_equal(again, whole)


@MACHINES
def test_trials_that_share_a_program_equal_themselves_alone(
    toy_attack, toy_target, toy_templates, tmp_path, devices, batch):
  budget = _budget(devices=devices, batch=batch, **HALVED)
  other = toy_target._replace(
      evidence=jax.tree.map(lambda leaf: -leaf, toy_target.evidence))
  trials = [engine.Trial(each, toy_templates, jax.random.key(i), {},
                         tmp_path / str(i))
            for i, each in enumerate((toy_target, other))]

  def run(some, folder):
    found, cost = engine.run(lambda numbers: toy_attack, some, budget,
                             tmp_path / folder, key='toy', programs=PROGRAMS)
    assert cost.restart_steps == 3 * 64
    return found
  together = run(trials, 'both')
  for trial, found in zip(trials, together, strict=True):
    alone, = run([trial], f'alone_{trial.folder.name}')
    np.testing.assert_allclose(found.clips, alone.clips, atol=1e-3)


@pytest.mark.parametrize('halve_at', [(0,), (3, 2), (6,), (4, 100)])
def test_halvings_that_leave_nothing_are_refused(halve_at):
  with pytest.raises(UserError, match='halve_at'):
    engine.Budget(1, 6, 3, 1, [], halve_at).checked()


@BATCHES
def test_chunks_of_any_length_share_one_compile(toy_attack, toy_target,
                                                toy_templates, tmp_path, batch):
  traced = []

  def counted(state, own):
    traced.append(1)
    return toy_attack.update(state, own)
  _run(toy_attack._replace(update=counted), toy_target, toy_templates, tmp_path,
       num_steps=5, chunk=2, batch=batch)
  # For the memory it needs, for the terms' shapes, for the loop.
  assert len(traced) <= 3


def test_equal_keys_share_one_compile(toy_attack, toy_target, toy_templates,
                                      tmp_path):
  """Functions made anew are the same attack when their keys say so."""
  traced, programs = [], ProgramCache()

  def counted(state, own):
    traced.append(1)
    return toy_attack.update(state, own)
  for name, key in (('a', 'one'), ('b', 'one'), ('c', 'other')):
    before = len(traced)
    _run(toy_attack._replace(update=counted), toy_target, toy_templates,
         tmp_path / name, key=key, programs=programs)
    assert (len(traced) == before) == (name == 'b')
  assert len(programs) == 2 * 2  # the step, and what memory it needs


@pytest.mark.parametrize('devices, batch', [(1, 1), (8, 64)])
def test_too_many_restarts_are_refused_at_once(run_toy, tmp_path, devices,
                                               batch):
  began = time.monotonic()
  with pytest.raises(UserError, match=r'About \d+ would fit: set attack.num_r'):
    run_toy(tmp_path, restarts=10**10, devices=devices, batch=batch)
  assert time.monotonic() - began < 2
  assert not list(tmp_path.iterdir())


def test_more_devices_than_there_are():
  with pytest.raises(UserError, match=r'num_devices=9, but 8 cpu'):
    parallel.pick_devices(9)


def test_what_the_restarts_see_fits_together_again():
  devices = parallel.pick_devices(4)
  tree = {'a': np.arange(24.0).reshape(8, 3)}
  np.testing.assert_array_equal(
      parallel.gather(parallel.spread(tree, devices))['a'], tree['a'])
  copies = parallel.replicate(tree, devices)['a']
  assert copies.shape == (4, 8, 3)
  assert parallel.padded(5, devices) == 8

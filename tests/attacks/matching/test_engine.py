"""All tries on all devices: equal on any number, resumable, one compile."""

import shutil

import jax
import numpy as np
import pytest

from vidleak_jax.attacks.matching import engine
from vidleak_jax.runtime import parallel
from vidleak_jax.runtime.programs import ProgramCache
from vidleak_jax.runtime.progress import MetricsLog
from vidleak_jax.types import UserError

KEY = jax.random.key(3)


def _run(attack, leak, templates, folder, *, devices=1, num_steps=6, chunk=3,
         restarts=2, batch=1, halve_at=(), **options):
  budget = engine.Budget(restarts, num_steps, chunk, batch,
                         parallel.pick_devices(devices), halve_at)
  trial = engine.Trial(leak, templates, KEY, {}, folder)
  (found,), cost = engine.run(
      lambda numbers: attack, [trial], budget, folder, **options)
  return found, cost


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('engine')


def test_1_2_and_8_devices_agree(tiny_attack, leak, templates, folder):
  """6 tries: 2 devices share them evenly, 8 need two rows of padding."""
  one, cost = _run(tiny_attack, leak, templates, folder / 'one')
  assert cost.restart_steps == 36
  for count in (2, 8):
    many, _ = _run(tiny_attack, leak, templates, folder / str(count),
                   devices=count)
    np.testing.assert_allclose(many.clips, one.clips, atol=1e-4)
    np.testing.assert_allclose(many.match_loss, one.match_loss, rtol=1e-4)


class _Killed(BaseException):
  """Stands for the process's end between two chunks."""


def test_resume_ends_bit_equal(tiny_attack, leak, templates, tmp_path,
                               monkeypatch):
  whole, _ = _run(tiny_attack, leak, templates, tmp_path / 'whole')
  write = MetricsLog.write

  def killed_after_a_chunk(self, step, **values):
    write(self, step, **values)
    raise _Killed
  with monkeypatch.context() as patch, pytest.raises(_Killed):
    patch.setattr(MetricsLog, 'write', killed_after_a_chunk)
    _run(tiny_attack, leak, templates, tmp_path / 'cut')
  cut, _ = _run(tiny_attack, leak, templates, tmp_path / 'cut')
  np.testing.assert_array_equal(cut.clips, whole.clips)
  np.testing.assert_array_equal(cut.match_loss, whole.match_loss)
  rows = (tmp_path / 'cut' / 'metrics.jsonl').read_text().splitlines()
  assert len(rows) == 2


def test_a_run_of_one_device_goes_on_with_two(tiny_attack, leak, templates,
                                              tmp_path):
  _run(tiny_attack, leak, templates, tmp_path, num_steps=3)
  more, _ = _run(tiny_attack, leak, templates, tmp_path, devices=2)
  whole, _ = _run(tiny_attack, leak, templates, tmp_path / 'whole')
  np.testing.assert_allclose(more.clips, whole.clips, atol=1e-4)


@pytest.mark.parametrize('devices, together', [(1, 1), (2, 1), (1, 4)])
def test_the_worse_half_gives_its_steps_to_the_better(
    tiny_attack, leak, templates, tmp_path, devices, together):
  """4 restarts x 6 steps: 2 each, then two go on for 2, one to the end."""
  options = {'restarts': 4, 'halve_at': (2, 4), 'devices': devices}
  found, cost = _run(tiny_attack, leak, templates, tmp_path / 'halved',
                     batch=together, **options)
  assert cost.num_steps == 4 + (24 - 8 - 4)
  if together == 1:  # those vmapped together go on together
    assert cost.restart_steps == 3 * 24
  whole, _ = _run(tiny_attack, leak, templates, tmp_path / 'whole', restarts=4)
  assert (found.match_loss < whole.match_loss).all()


def test_a_halved_run_resumes_bit_equal(tiny_attack, leak, templates, tmp_path,
                                        monkeypatch):
  options = {'restarts': 4, 'halve_at': (2, 4), 'devices': 2}
  whole, _ = _run(tiny_attack, leak, templates, tmp_path / 'whole', **options)
  _run(tiny_attack, leak, templates, tmp_path / 'again', **options)
  newest = max((tmp_path / 'again' / 'checkpoints').glob('[0-9]*'),
               key=lambda step: int(step.name))
  shutil.rmtree(newest)  # as if it had been killed before the last chunk
  again, _ = _run(tiny_attack, leak, templates, tmp_path / 'again', **options)
  np.testing.assert_array_equal(again.clips, whole.clips)


@pytest.mark.parametrize('halve_at', [(0,), (3, 2), (6,), (4, 100)])
def test_halvings_that_leave_nothing_are_refused(halve_at):
  with pytest.raises(UserError, match='halve_at'):
    engine.Budget(1, 6, 3, 1, [], halve_at).checked()


def test_chunks_of_any_length_share_one_compile(tiny_attack, leak, templates,
                                                tmp_path):
  traced = []
  update = tiny_attack.update

  def counted(state, own):
    traced.append(1)
    return update(state, own)
  _run(tiny_attack._replace(update=counted), leak, templates, tmp_path,
       num_steps=5, chunk=2)
  assert len(traced) <= 2  # once for the terms' shapes, once for the loop


def test_equal_keys_share_one_compile(toy_attack, toy_leak, toy_templates,
                                      tmp_path):
  """Functions made anew are the same attack when their keys say so."""
  traced, programs = [], ProgramCache()

  def counted(state, own):
    traced.append(1)
    return toy_attack.update(state, own)
  for name, key in (('a', 'one'), ('b', 'one'), ('c', 'other')):
    before = len(traced)
    _run(toy_attack._replace(update=counted), toy_leak, toy_templates,
         tmp_path / name, key=key, programs=programs)
    assert (len(traced) == before) == (name == 'b')
  assert len(programs) == 2


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

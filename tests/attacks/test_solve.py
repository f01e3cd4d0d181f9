"""Attacks are run and measured; users are told when algebra is not exact."""

import re

import jax
import numpy as np
import pytest

from tests.helpers import problem, run_attack
from vidleak_jax import victims
from vidleak_jax.attacks import Effort, solve
from vidleak_jax.attacks.analytic.closed_form import ClosedForm
from vidleak_jax.clients import observe
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import UserError


def find(size, folder, whole_levels=True, **defense):
  """A closed form of one frame through a small LeNet, and its worst error."""
  shape = (1, size, size, 3)
  clips = np.random.default_rng(0).uniform(
      0.2, 0.8, (1, *shape)).astype(np.float32)
  victim = victims.build('lenet', shape, 20, preset='tiny')
  leak = observe(victim, victim.init(jax.random.key(0)), clips, [7],
                 defense=DefenseSpec(**defense), key=jax.random.key(1))
  outcome = run_attack(
      ClosedForm(polish_steps=0, whole_levels=whole_levels), victim, leak,
      folder)
  return outcome, np.abs(outcome.recovery.clips - clips).max()


def test_an_exact_closed_form_has_no_note_and_its_match_is_measured(tmp_path):
  outcome, error = find(8, tmp_path)
  assert outcome.findings['closed_form_note'] == ''
  assert error < 1e-2
  assert outcome.recovery.labels == 7
  assert 0 < outcome.recovery.gradient_residual < 1e-3


@pytest.mark.slow
def test_what_is_lost_is_said(tmp_path):
  outcome, _ = find(16, tmp_path, noise_std=1e-5)
  note = outcome.findings['closed_form_note']
  assert re.search(r'conv0 leaves \d+ of 768 directions open', note)
  assert 'disagree by' in note
  clips = outcome.recovery.clips
  assert clips.dtype == np.float32 and 0 <= clips.min() <= clips.max() <= 1


def test_levels_are_not_looked_for_where_there_are_none(tmp_path):
  outcome, error = find(8, tmp_path, whole_levels=False)
  assert 'on_levels' not in outcome.findings
  assert error < 1e-2


def test_one_that_fails_keeps_no_other_from_its_answer():
  """Problems that run together: each has an outcome, or its own reason."""
  def zero(tree):
    return jax.tree.map(np.zeros_like, tree)
  shape = (1, 8, 8, 3)
  lenet = victims.build('lenet', shape, 7, preset='tiny')
  good = observe(lenet, lenet.init(jax.random.key(0)),
                 np.full((1, *shape), 0.4, np.float32), [3])
  dead = good.replace(update=zero(good.update))
  found, why = solve(
      [problem(lenet, good), problem(lenet, dead)],
      [ClosedForm(polish_steps=0)] * 2, Effort())
  assert np.isfinite(found.recovery.gradient_residual).all()
  assert isinstance(why, UserError)


def test_an_attack_that_does_not_apply_says_why(victim, leak):
  several = leak.replace(public=leak.public.replace(batch_size=2))
  with pytest.raises(UserError, match='one clip an update, this leak has 2'):
    run_attack(ClosedForm(), victim, several)

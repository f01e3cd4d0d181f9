"""Attacks by name: what a user is told when the algebra is not exact."""

import re

import jax
import numpy as np

from vidleak_jax import victims
from vidleak_jax.attacks import dispatch
from vidleak_jax.clients import defenses, federated
from vidleak_jax.runtime import backend
from vidleak_jax.types import Batch


def solve(size, folder, whole_levels=True, **defense):
  """A closed form of one frame through a small LeNet, and its worst error."""
  shape = (1, size, size, 3)
  clips = np.random.default_rng(0).uniform(
      0.2, 0.8, (1, *shape)).astype(np.float32)
  victim = victims.build('lenet', shape, 20, preset='tiny')
  leak = federated.send(
      federated.client(victim.loss), victim.init(jax.random.key(0)),
      federated.split(Batch(clips, np.array([7], np.int32)), 'clip'),
      defenses.build(jax.random.key(1), **defense))
  knowledge = {'federated': {'algorithm': 'fedsgd'}, 'batch_size': 1,
               'num_messages': 1, 'clip_shape': shape}
  case = dispatch.Case(victim, leak, knowledge, jax.random.key(2),
                      jax.devices()[:1], backend.choose('cpu'), folder, False)
  outcome, = dispatch.run([case], [{
      'name': 'closed_form',
      'closed_form': {'polish_steps': 0, 'polish_inner_steps': 1,
                      'whole_levels': whole_levels}}], folder)
  return outcome, np.abs(outcome.recovery.clips - clips).max()


def test_an_exact_closed_form_has_no_note_and_its_match_is_measured(tmp_path):
  outcome, error = solve(8, tmp_path)
  assert outcome.findings['closed_form_note'] == ''
  assert error < 1e-2
  assert outcome.recovery.labels == 7
  assert 0 < outcome.recovery.match_loss < 1e-3


def test_what_is_lost_is_said(tmp_path, capsys):
  outcome, _ = solve(16, tmp_path, noise_std=1e-5)
  note = outcome.findings['closed_form_note']
  assert note in capsys.readouterr().out
  assert re.search(r'conv0 leaves \d+ of 768 directions open', note)
  assert 'disagree by' in note
  clips = outcome.recovery.clips
  assert clips.dtype == np.float32 and 0 <= clips.min() <= clips.max() <= 1


def test_levels_are_not_looked_for_where_there_are_none(tmp_path):
  outcome, error = solve(8, tmp_path, whole_levels=False)
  assert 'on_levels' not in outcome.findings
  assert error < 1e-2

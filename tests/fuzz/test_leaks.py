"""A spoilt leak is taken in or refused with a reason, soon and in little room.

The same in many more ways: `python -m tests.fuzz.leaks --seconds=600`.
"""

import jax
import numpy as np
import pytest

import vidleak_jax as vl
from tests.fuzz import leaks
from vidleak_jax.errors import UserError

_TIMES = 5  # each random mutation


@pytest.fixture(scope='module')
def original():
  return leaks.original()


def test_the_original_is_taken(original, tmp_path):
  assert leaks.refusal(original, tmp_path) == ''


@pytest.mark.parametrize('name', leaks.MUTATIONS | leaks.SAID)
def test_a_spoilt_leak(name, original, tmp_path):
  mutate = (leaks.MUTATIONS | leaks.SAID)[name]
  before = leaks.peak_bytes()
  for seed in range(_TIMES if name in leaks.MUTATIONS else 1):
    rng = np.random.default_rng([seed, *name.encode()])
    leaks.refusal(mutate(rng, original), tmp_path)
  assert leaks.peak_bytes() - before < leaks.BYTES


@pytest.mark.parametrize('name', leaks.REFUSED)
def test_what_an_attack_could_not_use_is_refused(name, original, tmp_path):
  mutate, field = leaks.REFUSED[name]
  assert field in leaks.refusal(mutate(None, original), tmp_path)


def test_labels_of_a_leak_that_names_no_victim(original, tmp_path):
  assert leaks.refusal(original, tmp_path) == ''
  leak = vl.load_leak(tmp_path)
  leak = leak.replace(public=leak.public.replace(victim=None),
                      labels=np.array([[leaks.NUM_CLASSES], [0]]))
  victim = vl.victims.c3d(leaks.CLIP_SHAPE, leaks.NUM_CLASSES, preset='tiny')
  with pytest.raises(UserError, match='labels of the leak reach 7'):
    vl.attack(victim, leak, 'ig', key=jax.random.key(0))

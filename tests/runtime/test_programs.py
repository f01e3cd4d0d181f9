"""One explicit cache of compiled programs."""

import pytest

from vidleak_jax.runtime.programs import ProgramCache, default


def test_equal_keys_share_a_program_and_others_do_not():
  programs, built = ProgramCache(), []

  def build(name):
    return programs.get((name, 2), lambda: built.append(name) or [name])
  assert build('ig') is build('ig')
  assert build('dlg') == ['dlg'] and built == ['ig', 'dlg']


def test_the_one_used_longest_ago_leaves():
  programs = ProgramCache(2)
  for key in (1, 2, 1, 3):
    programs.get(key, object)
  assert 1 in programs and 3 in programs and 2 not in programs
  programs.clear()
  assert not len(programs)


def test_a_program_that_cannot_be_built_is_not_kept():
  programs = ProgramCache()
  with pytest.raises(ZeroDivisionError):
    programs.get('key', lambda: 1 / 0)
  assert programs.get('key', lambda: 5) == 5


def test_a_cache_without_room_is_refused():
  with pytest.raises(ValueError, match='size >= 1'):
    ProgramCache(0)
  assert default() is default()

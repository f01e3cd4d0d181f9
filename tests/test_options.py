"""Options: types and ranges where they enter, and what makes a program."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from vidleak_jax import options
from vidleak_jax.options import Options, option
from vidleak_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Blur(Options):
  width: float = option(1.0, 'pixels', above=0, high=9, traced=True)
  share: float = option(0.5, 'of frames', low=0, below=1, traced=True)
  rounds: int = option(2, 'of it', low=1)


@dataclasses.dataclass(frozen=True)
class Filters(Options):
  name: str = option('blur', 'which', choices=('blur', 'sharpen'))
  blur: Blur = option(Blur(), 'how')
  on: bool = option(True, 'whether')
  seed: int | None = option(None, 'or none')
  sizes: tuple[int, ...] = option((), 'of blocks', low=1)


@pytest.mark.parametrize(('field', 'value', 'found'), [
    ('width', 2, 2.0), ('width', np.float32(0.5), 0.5), ('share', 0, 0.0),
    ('rounds', 3.0, 3), ('rounds', np.int64(4), 4)])
def test_values_take_the_declared_type(field, value, found):
  kept = getattr(Blur(**{field: value}), field)
  assert kept == found and type(kept) is type(found)


@pytest.mark.parametrize(('field', 'value'), [
    ('width', 0.0), ('width', -1.0), ('width', 9.5), ('width', math.nan),
    ('width', math.inf), ('width', '1'), ('width', True), ('width', None),
    ('share', 1.0), ('share', -1e-9), ('rounds', 0), ('rounds', 1.5),
    ('rounds', True), ('rounds', 1e30), ('rounds', [1])])
def test_what_is_not_allowed_is_told_with_the_range(field, value):
  with pytest.raises(UserError, match=f'{field} is .*; it must be a ') as told:
    Blur(**{field: value})
  assert repr(value) in str(told.value)
  assert ('above 0 up to 9' in str(told.value)) == (field == 'width')


def test_bounds_that_are_included_are_allowed():
  assert Blur(width=9, share=0).width == 9


@pytest.mark.parametrize(('field', 'value'), [
    ('on', 1), ('on', 'true'), ('sizes', 3), ('sizes', (1, 0)),
    ('sizes', (1, 'a')), ('name', 3), ('seed', 'x'), ('blur', 3)])
def test_other_kinds_are_told(field, value):
  with pytest.raises(UserError, match=field):
    Filters(**{field: value})


def test_none_and_lists_pass_where_they_may():
  made = Filters(seed=None, sizes=[2, np.int32(4)])
  assert made.seed is None and made.sizes == (2, 4)
  assert Filters(seed=7).seed == 7


def test_the_nearest_choice_is_named():
  with pytest.raises(UserError, match=r"one of blur, sharpen.*'sharpen'"):
    Filters(name='sharpn')


@pytest.mark.parametrize('make', [
    lambda: Filters.from_dict({'blurr': {}}), lambda: Filters().replace(blurr=1)
], ids=['from_dict', 'replace'])
def test_the_nearest_field_is_named(make):
  with pytest.raises(UserError, match=r"no field 'blurr'.*'blur'"):
    make()


def test_a_field_that_is_near_nothing_lists_them_all():
  with pytest.raises(UserError, match='It has: width, share, rounds'):
    Blur().replace(q=1)


def test_the_place_of_a_nested_field_is_named():
  with pytest.raises(UserError, match=r'attack\.blur\.width is 0'):
    Filters.from_dict({'blur': {'width': 0}}, 'attack.')


def test_plain_values_come_back():
  made = Filters(blur=Blur(width=3.0), sizes=(1, 2), seed=4)
  assert Filters.from_dict(made.to_dict()) == made
  assert made.to_dict()['blur'] == {'width': 3.0, 'share': 0.5, 'rounds': 2}
  assert Filters.from_dict({}) == Filters()


def test_a_structure_holds_no_traced_number_and_binds_back():
  one = Filters(blur=Blur(width=3.0))
  other = Filters(blur=Blur(width=4.0, share=0.25))
  structure, numbers = options.split(one)
  assert numbers == {'blur': {'width': 3.0, 'share': 0.5}}
  assert options.split(other)[0] == structure
  assert hash(options.split(other)[0]) == hash(structure)
  assert options.bind(structure, numbers) == one
  assert options.bind(structure, options.split(other)[1]) == other


def test_a_number_of_0_and_what_is_not_traced_are_structure():
  structure, numbers = options.split(Filters(blur=Blur(share=0.0)))
  assert numbers == {'blur': {'width': 1.0}}
  assert structure.blur.share == 0.0
  assert structure != options.split(Filters())[0]
  assert options.split(Filters(blur=Blur(rounds=3)))[0] != options.split(
      Filters())[0]


def test_numbers_may_be_under_trace():
  structure, numbers = options.split(Filters(blur=Blur(width=3.0)))
  traced = []

  @jax.jit
  def double(numbers):
    traced.append(1)
    return 2 * options.bind(structure, numbers).blur.width
  assert double(numbers) == 6.0
  assert double(options.split(Filters(blur=Blur(width=4.0)))[1]) == 8.0
  assert len(traced) == 1

"""Trees of parameters: paths, flattening, and small sums."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

from vidleak_jax import trees
from vidleak_jax.types import UserError

TREE = {'conv': {'kernel': np.arange(6.0).reshape(2, 3), 'bias': np.ones(3)},
        'scale': np.full((), 2.0)}


def test_flatten_names_leaves_by_their_path_and_nest_is_its_inverse():
  flat = trees.flatten(TREE)
  assert set(flat) == {'conv/kernel', 'conv/bias', 'scale'}
  again = trees.nest(flat)
  assert jax.tree.structure(again) == jax.tree.structure(TREE)
  jax.tree.map(np.testing.assert_array_equal, again, TREE)


def test_flatten_goes_into_lists_and_tuples():
  class Pair(NamedTuple):
    left: int
    right: list
  assert trees.flatten({'a': Pair(1, [2, (3,)])}) == {
      'a/left': 1, 'a/right/0': 2, 'a/right/1/0': 3}


@pytest.mark.parametrize('names', [
    ('a', 'a/b'), ('a/b', 'a'), ('a/b', 'a/b/c')])
def test_one_name_is_no_leaf_and_group(names):
  with pytest.raises(UserError, match='a'):
    trees.nest(dict.fromkeys(names, 0))


def test_at_follows_a_path_and_says_what_stands_there_instead():
  assert trees.at(TREE, ('conv', 'bias')) is TREE['conv']['bias']
  assert trees.at(TREE, ()) is TREE
  with pytest.raises(UserError, match=r"'conv/weight'.*bias.*kernel"):
    trees.at(TREE, ('conv', 'weight'))
  with pytest.raises(UserError, match=r"'scale/x'.*an array"):
    trees.at(TREE, ('scale', 'x'))


def test_dot_is_the_inner_product_of_all_entries():
  np.testing.assert_allclose(trees.dot(TREE, TREE), 55 + 3 + 4)


def test_take_stack_and_num_entries():
  stacked = trees.stack([TREE, jax.tree.map(lambda x: 2 * x, TREE)])
  assert stacked['conv']['kernel'].shape == (2, 2, 3)
  jax.tree.map(np.testing.assert_array_equal, trees.take(stacked, 0), TREE)
  assert trees.num_entries(TREE) == 10
  assert trees.num_entries(jax.eval_shape(lambda: TREE)) == 10


def test_to_float64():
  small = jax.tree.map(np.float32, TREE)
  assert {leaf.dtype for leaf in jax.tree.leaves(trees.to_float64(small))} == {
      np.dtype('float64')}


def test_small_leaves_are_joined_and_split_again():
  join, split = trees.joiner(TREE, 4)
  vector, kernel = join(TREE)
  np.testing.assert_array_equal(vector, [1, 1, 1, 2])
  assert kernel.shape == (2, 3)
  jax.tree.map(np.testing.assert_array_equal, split(join(TREE)), TREE)


def test_where_no_leaf_is_small_all_stay_apart():
  join, split = trees.joiner(TREE, 0)
  assert len(join(TREE)) == 1 + 3
  jax.tree.map(np.testing.assert_array_equal, split(join(TREE)), TREE)

"""Transformers without learned positions: spans of what their layers saw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import helpers
from tests.helpers import psnr
from vidleak_jax import victims
from vidleak_jax.attacks.analytic import subspace
from vidleak_jax.attacks.analytic.closed_form import ClosedForm
from vidleak_jax.attacks.analytic.subspace import (
  constraints,
  reading,
  search,
  stages,
  whole,
)
from vidleak_jax.types import UserError

SHAPE = (4, 16, 16, 3)  # of videomae tiny 8 tokens for 16 numbers of width
SHORT = (2, 16, 16, 3)  # of timesformer tiny as many


def random_clip(seed=1):
  return np.asarray(jax.random.uniform(jax.random.key(seed), SHAPE))


def share(victim, clips):
  """The leak of some clips [M, *SHAPE], one an update, all of class 3."""
  return helpers.share(victim, np.stack(clips)[:, None],
                       np.full((len(clips), 1), 3))


def noisy(leak, size):
  """Noise of a size relative to each leaf's own."""
  leaves, tree = jax.tree.flatten(leak.update)
  keys = jax.random.split(jax.random.key(2), len(leaves))
  return leak.replace(update=jax.tree.unflatten(tree, [
      leaf + size * jnp.std(leaf) * jax.random.normal(key, leaf.shape)
      for key, leaf in zip(keys, leaves)]))


def evidence(victim, leak, shape):
  """(The first update, the network's layout, what it tells), in float64."""
  params, update = jax.tree.map(
      lambda leaf: np.asarray(leaf, np.float64), (leak.params, leak.update))
  update = jax.tree.map(lambda leaf: leaf[0], update)
  layout = constraints.layout(victim, params, shape)
  return update, layout, constraints.gather(
      layout, params, update, shape, smooth=True)


def coordinates(clip, layout, known):
  """What a search should find of a clip, [N, r]."""
  tiles = layout.tiling
  patches = tiles.black + tiles.slope * clip.ravel()[tiles.order]
  return (patches - known.grey) @ np.linalg.pinv(known.basis)


@pytest.fixture(scope='module')
def videomae():
  return victims.build('videomae', SHAPE, 7, preset='tiny')


@pytest.fixture(scope='module')
def leak(videomae):
  return share(videomae, [random_clip()])


@pytest.mark.slow
def test_the_whole_clip_from_grey_without_its_label(videomae, leak, tmp_path):
  outcome = helpers.run_attack(
      ClosedForm(polish_steps=0, whole_levels=False), videomae, leak, tmp_path)
  assert psnr(outcome.recovery.clips[0, 0], random_clip()) > 70
  assert outcome.recovery.labels == 3
  assert outcome.findings['closed_form_note'] == ''
  assert outcome.findings['closed_form'][0]['rank'] == 8


def test_what_is_not_to_be_had_is_refused(videomae, leak):
  with pytest.raises(UserError, match='No layer shows'):
    subspace.recover_spans(videomae, noisy(leak, 0.1), SHAPE)


@pytest.mark.parametrize('path', [
    ('embed', 'kernel'), ('block0', 'attention', 'query', 'kernel')])
def test_a_leaf_that_a_defence_zeroed_is_told(videomae, leak, path):
  def zeroed(tree, name, *below):
    part = tree[name]
    return tree | {name: zeroed(part, *below) if below else np.zeros_like(part)}
  update = zeroed(leak.update, *path)
  with pytest.raises(UserError, match=f'{"/".join(path)} is zero'):
    subspace.recover_spans(videomae, leak.replace(update=update), SHAPE)


def test_networks_without_patches_are_refused():
  shape = (1, 8, 8, 3)
  lenet = victims.build('lenet', shape, 7)
  with jax.enable_x64(True), pytest.raises(UserError, match='as patches'):
    constraints.layout(lenet, lenet.init(jax.random.key(0)), shape)


@pytest.mark.parametrize('inputs', ['unit', 'imagenet'])
def test_a_tiling_is_the_networks_own(inputs):
  victim = victims.build('videomae', SHAPE, 7, preset='tiny', inputs=inputs)
  params = victim.init(jax.random.key(0))
  with jax.enable_x64(True):
    tiles = reading.tiling(victim.logits, params, SHAPE)
    clip = random_clip().astype(np.float64)
    read = reading.read(victim.logits, params, clip)
  assert tiles.embedding == ('embed',)
  np.testing.assert_allclose(
      tiles.black + tiles.slope * clip.ravel()[tiles.order],
      read.inputs[(('embed',),)], atol=1e-6)


@pytest.mark.slow
def test_truth_agrees_with_all_that_a_timesformer_shares():
  """Spans, sums over frames, sums over places; grey contradicts them."""
  victim = victims.build('timesformer', SHORT, 7, preset='tiny')
  clip = random_clip()[:2].astype(np.float64)
  leak = share(victim, [clip])
  with jax.enable_x64(True):
    _, layout, known = evidence(victim, leak, SHORT)
    program = search.build(victim.logits, layout, SHORT)
    truth = coordinates(clip, layout, known)
    assert psnr(program.clip(truth, known), clip) > 80
    grey = program.cost(np.zeros_like(truth), known)
    assert program.cost(truth, known) < 1e-8 * grey
  # every token's own place, its own frame, and the bias they all share
  np.testing.assert_allclose(known.members.sum(1), 3, atol=1e-6)
  np.testing.assert_allclose(truth @ known.means, known.members, atol=1e-2)


def test_a_flatter_clip_fits_the_spans_but_not_their_directions(videomae):
  clip = random_clip().astype(np.float64)
  leak = share(videomae, [clip])
  with jax.enable_x64(True):
    update, layout, known = evidence(videomae, leak, SHAPE)
    # as where too few directions show: no sums, and spans that lack some
    known = known._replace(means=known.means[:, :0],
                           members=known.members[:, :0])
    sharp = constraints.sharpened(known, layout, update, 100.0, 1e-13)
    program = search.build(videomae.logits, layout, SHAPE)
    truth = coordinates(clip, layout, known)
    flat = truth.copy()
    flat[:, -1] *= 0.5  # one direction of the patches half lost
    assert program.cost(flat, known) < 1e-2
    assert program.cost(truth, sharp) < 1e-3 * program.cost(flat, sharp)
    found = search.descend(program, sharp,
                           search.begin(program, sharp, flat), 10)
    assert psnr(program.clip(found.c, known), clip) > 60


@pytest.mark.slow
def test_the_whole_gradient_leads_home_where_it_is_weighed():
  victim = victims.build('timesformer', SHORT, 7, preset='tiny')
  clip = random_clip()[:2].astype(np.float64)
  leak = share(victim, [clip])
  with jax.enable_x64(True):
    update, layout, known = evidence(victim, leak, SHORT)
    program = search.build(victim.logits, layout, SHORT)
    matching = whole.build(victim, program)
    truth = coordinates(clip, layout, known)
    start = truth * np.random.default_rng(0).uniform(0.6, 1.0, truth.shape)
    c = start
    for each in whole.SHARES:
      goal = whole.target(update, 3, len(start), each)
      c = whole.descend(matching, known, goal, c, 10, fast=each >= whole.FAST)
    assert psnr(program.clip(start, known), clip) < 25
    assert psnr(program.clip(c, known), clip) > 60


@pytest.mark.slow
def test_a_sharpened_search_goes_on_where_it_was_cut(
    videomae, leak, tmp_path, monkeypatch):
  def run(folder):
    folder.mkdir(exist_ok=True)
    return subspace.recover_spans(videomae, noisy(leak, 1e-4), SHAPE,
                               sharpen_steps=6, folder=folder)

  save, saved = stages._save, []

  def cut(*args):
    saved.append(args)
    if len(saved) == 4:
      raise KeyboardInterrupt
    save(*args)

  whole = run(tmp_path / 'whole')
  monkeypatch.setattr(stages, '_save', cut)
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / 'cut')
  searches = []
  monkeypatch.setattr(stages, '_search', searches.append)
  resumed = run(tmp_path / 'cut')
  assert not searches
  np.testing.assert_array_equal(resumed.clips, whole.clips)
  assert resumed.report == whole.report

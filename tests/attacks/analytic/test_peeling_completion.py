"""Networks that show fewer equations than pixels: near, and said to be so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidleak_jax as vl
from tests.attacks.analytic.test_peeling import (
    psnr,
    residual_network,
    smooth_clip,
)
from vidleak_jax.attacks.analytic.peeling import facts, lower, needs
from vidleak_jax.attacks.analytic.peeling.attack import Peeling
from vidleak_jax.attacks.analytic.peeling.reading import blocks_of
from vidleak_jax.attacks.base import Problem
from vidleak_jax.models.resnet import Size
from vidleak_jax.runtime import backend
from vidleak_jax.runtime.session import session
from vidleak_jax.types import UserError
from vidleak_jax.victims.introspection.graph import run
from vidleak_jax.victims.introspection.tracing import leaves_of

CLIP = smooth_clip()  # outside of float64, which draws other numbers
NARROW = Size((3, 3, 3), (1, 2, 2), 16, (16, 24), (1, 1))


@pytest.fixture(scope='module')
def narrow():
  victim = residual_network(size=NARROW)
  params = victim.init(jax.random.key(0))
  return victim, params, vl.observe(victim, params, CLIP, [3])


def test_a_narrow_network_is_near(narrow):
  victim, _, leak = narrow
  network = blocks_of(victim.graph)
  assert 'too few' in needs.too_few(network)
  assert Peeling().requires(victim, leak) == []
  found = Peeling(errors=(0.1, 0.03), stage_steps=4).solve(
      Problem(victim, leak, jax.random.key(1), session()))
  clip = CLIP[0]
  floor = psnr(clip.mean((0, 1, 2)), clip)
  assert psnr(found.clips[0, 0], clip) > floor + 6
  assert 'not exact' in found.note


def test_stages_are_not_repeated(narrow, tmp_path):
  victim, _, leak = narrow
  attack = Peeling(errors=(0.1, 0.03), stage_steps=2, inner_steps=20)

  def solve(folder, report=None):
    folder.mkdir(exist_ok=True)
    return attack.solve(Problem(victim, leak, jax.random.key(1), session(
        folder=folder, report=report))).clips

  def stop(stage, done, total, **values):
    if (stage, done, total) == ('pixels', 2, 3):
      raise KeyboardInterrupt
  with pytest.raises(KeyboardInterrupt):
    solve(tmp_path / 'cut', stop)
  stored = tmp_path / 'cut' / 'update0_pixels.npz'
  with np.load(stored) as first:
    assert int(first['ended']) == 1
  seen = []
  resumed = solve(tmp_path / 'cut', lambda *row, **_: seen.append(row))
  assert ('pixels', 1, 3) not in seen and ('pixels', 2, 3) in seen
  np.testing.assert_array_equal(resumed, solve(tmp_path / 'whole'))


def test_a_stage_that_does_not_explain_facts_is_not_taken(narrow):
  victim, _, leak = narrow

  def solve(*errors):
    return Peeling(errors=errors, stage_steps=2, inner_steps=20).solve(
        Problem(victim, leak, jax.random.key(1), session())).clips
  once = solve(0.1)
  np.testing.assert_array_equal(solve(0.1, 1e-6), once)  # too much is asked
  assert not np.array_equal(solve(0.1, 0.09), once)


def test_outputs_alone_are_completed_too(narrow):
  victim, _, leak = narrow
  attack = Peeling(errors=(0.1, 0.03), stage_steps=4, largest=1)
  assert attack.requires(victim, leak) == []
  found = attack.solve(Problem(victim, leak, jax.random.key(1), session()))
  clip = CLIP[0]
  assert psnr(found.clips[0, 0], clip) > psnr(clip.mean((0, 1, 2)), clip) + 6
  assert 'a prior chose' in found.note


@pytest.mark.slow
def test_norms_of_groups_leave_the_contrast_open():
  victim = residual_network('group', size=NARROW._replace(widths=(16, 32)))
  leak = vl.observe(victim, victim.init(jax.random.key(0)), CLIP, [3])
  attack = Peeling(errors=(0.1, 0.03), stage_steps=4)
  assert attack.requires(victim, leak) == []
  found = attack.solve(Problem(victim, leak, jax.random.key(1), session()))
  clip, other = CLIP[0], found.clips[0, 0]
  share = (clip * other).sum() / (other ** 2).sum()
  assert psnr(share * other, clip) > psnr(clip.mean((0, 1, 2)), clip) + 6
  assert 'does not see the contrast' in found.note


def lower_of(victim, params, leak):
  """The truth below the last stage: (graph, leaves, what is known)."""
  network = blocks_of(victim.graph)
  source = network.blocks[-1].source
  leaves = {path: np.asarray(leaf, np.float64)
            for path, leaf in leaves_of(params).items()}
  clips = np.float64(CLIP)

  def loss(bump):
    values = {victim.graph.nodes[0].name: clips}
    for node in victim.graph.nodes[1:]:
      values[node.name] = node.op(leaves, *(
          values[name] for name in node.inputs))
      if node.name == source:
        values[node.name] = values[node.name] + bump
    logits = values[victim.graph.output]
    return -jax.nn.log_softmax(logits)[0, 3]
  shape = run(victim.graph, leaves, clips)[source].shape
  cotangent = jax.grad(loss)(jnp.zeros(shape))
  update = {path: np.asarray(leaf[0], np.float64)
            for path, leaf in leaves_of(leak.update).items()}
  return (facts.until(victim.graph, {source}), leaves,
          lower.Lower({source: cotangent}, update), clips)


def test_kernels_below_are_explained_by_the_clip(narrow):
  with backend.float64():
    part, leaves, known, clips = lower_of(*narrow)
    slopes, _ = lower.expected_slopes(part, leaves, clips, 1e-6)

    def sizes(clips, tau, error):
      return [[float(np.mean(np.asarray(row) ** 2)) for row in rows]
              for rows in lower.misses(
                  part, leaves, known, clips, slopes, tau, error)]
    wave = 0.02 * np.sin(np.arange(clips.size)).reshape(clips.shape)
    exact, near, other = (sizes(clips, 1e-6, 1e-6), sizes(
        clips + wave, 0.2, 0.05), sizes(clips[:, ::-1], 0.2, 0.05))
  # The stem and the first block's two have a kernel and a ReLU each.
  assert [len(rows) for rows in exact] == [3, 3]
  assert max(exact[0]) < 0.5  # off by less than a millionth
  assert max(exact[1]) < 1e-3
  for rows, others in zip(near, other):
    assert 0.01 < min(rows) and max(rows) < 2  # of the size that was expected
    assert sum(others) > 20 * sum(rows)


def test_what_has_no_rule_is_named():
  victim = residual_network(size=NARROW, norm='group')
  with pytest.raises(UserError, match=r'norm.* stands below'):
    lower.check(victim.graph)

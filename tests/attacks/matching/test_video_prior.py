"""The prior follows motion, and says what equations leave open."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidleak_jax.attacks.matching import most_likely, motion, video_prior


@pytest.fixture(scope='module')
def clips():
  """[1, 4, 20, 20, 3]: a smooth picture that goes 1.5 pixels down a frame."""
  rng = np.random.default_rng(0)
  rows, columns = np.mgrid[0:20, 0:20]
  frames = [sum(
      rng_amplitude * np.sin(0.5 * (rows - 1.5 * t) * a + 0.6 * columns * b + c)
      for rng_amplitude, a, b, c in ((0.2, 1, 0.5, 0), (0.15, -0.6, 1, 2)))
            for t in range(4)]
  brightness = 0.5 + np.array(frames)
  tint = rng.uniform(0.9, 1.1, 3)
  return jnp.asarray(brightness[None, ..., None] * tint, jnp.float32)


def test_motion_is_told_to_a_quarter_of_a_pixel(clips):
  flow = motion.estimate(clips, 2)
  inner = flow[:, :, 4:-4, 4:-4]
  np.testing.assert_allclose(inner[..., 0], -1.5, atol=0.26)
  np.testing.assert_allclose(inner[..., 1], 0, atol=0.26)
  moved = motion.follow(clips, flow)
  apart = jnp.abs(clips[:, 1:] - moved)[:, :, 3:-3, 3:-3]
  assert apart.max() < 0.01 < 0.1 < jnp.abs(jnp.diff(clips, axis=1)).max()


def test_a_still_clip_does_not_move(clips):
  still = jnp.broadcast_to(clips[:, :1], clips.shape)
  flow = motion.estimate(still, 2)
  assert not flow.any()
  np.testing.assert_allclose(motion.follow(still, flow), still[:, 1:],
                             atol=1e-6)


def test_double_precision_changes_no_type(clips):
  with jax.enable_x64(True):
    shown = video_prior.measure(clips, jnp.ones_like(clips)[None])
    assert shown.flow.dtype == clips.dtype
    assert video_prior.energy(shown, clips).dtype == clips.dtype


def test_following_is_linear(clips):
  flow = motion.estimate(clips, 2)
  other = jax.random.uniform(jax.random.key(1), clips.shape)
  np.testing.assert_allclose(
      motion.follow(2 * clips - other, flow),
      2 * motion.follow(clips, flow) - motion.follow(other, flow), atol=1e-5)


@pytest.mark.parametrize('shape', [(1, 1, 8, 8, 3), (2, 3, 4, 4, 1)])
def test_any_clip_has_an_energy(shape):
  clips = jax.random.uniform(jax.random.key(0), shape)
  shown = video_prior.measure(clips, clips[None])
  value, slope = jax.value_and_grad(video_prior.energy, argnums=1)(shown, clips)
  assert value > 0 and jnp.isfinite(slope).all()


@pytest.mark.slow
def test_what_equations_leave_open_is_filled(clips):
  """Half of the pixels are told, and the others start wrong."""
  told = jax.random.bernoulli(jax.random.key(2), shape=clips.shape)
  start = jnp.where(told, clips, clips + 0.05 * jax.random.normal(
      jax.random.key(3), clips.shape))

  def misses(guess):
    return [told * (guess - clips) / 1e-3]
  step = jax.jit(lambda clips, trust: most_likely.newton_step(
      misses, 60, clips, trust))
  guess, trust = start, jnp.float32(0.1)
  for _ in range(4):
    now = step(guess, trust)
    assert now.value <= now.before
    guess, trust = now.clips, now.trust
  error, before = (jnp.sqrt(jnp.mean((each - clips) ** 2))
                   for each in (guess, start))
  assert error < 0.2 * before


def test_scales_are_of_the_guess_as_far_as_it_is_certain(clips):
  certain = video_prior.measure(clips, jnp.zeros((2, *clips.shape)))
  plain = video_prior.measure(clips)
  for scale, other in zip(certain.scales, plain.scales, strict=True):
    np.testing.assert_allclose(scale, other, rtol=1e-5)
  grey = jnp.full_like(clips, 0.5)
  noise = jax.random.normal(jax.random.key(0), (2, *clips.shape))
  wide = video_prior.measure(grey, 0.3 * noise)
  # Of natural videos rows differ by about a tenth, in brightness.
  assert 0.05 < wide.scales[1][..., 0] < 0.2
  assert all(jnp.all(v > 0) for v in wide.variances)


@pytest.mark.slow
def test_scales_do_not_collapse_behind_noise(clips):
  """Each pixel is told with an error as large as the picture's contrast."""
  told = clips + 0.3 * jax.random.normal(jax.random.key(2), clips.shape)

  def misses(guess):
    return [(guess - told) / 0.3]
  step = jax.jit(lambda *state: most_likely.newton_step(misses, 30, *state))

  def error(deviations):
    guess, trust = jnp.full_like(clips, 0.5), jnp.float32(0.3)
    for _ in range(8):
      now = step(guess, trust, deviations)
      guess, trust, deviations = now.clips, now.trust, now.deviations
    return jnp.sqrt(jnp.mean((guess - clips) ** 2))
  assert error(jnp.zeros((2, *clips.shape))) < 0.8 * error(None)

"""Where tests find files, and what they attack."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidleak_jax.attacks import Attack, Effort, Outcome, Problem, solve
from vidleak_jax.runtime.session import session
from vidleak_jax.types import (
    Array,
    Leak,
    PublicInfo,
    Target,
    UserError,
    Victim,
)
from vidleak_jax.victims import cross_entropy

ROOT = Path(__file__).parents[1]
REFERENCES = ROOT / 'tests' / 'references'
# Class folders of real videos; by default a folder beside the checkout.
CLIPS = Path(os.environ.get('VIDLEAK_CLIPS') or ROOT / '../shared/data/videos')
needs_clips = pytest.mark.skipif(
    not CLIPS.is_dir(),
    reason=f'no real videos at {CLIPS}: set VIDLEAK_CLIPS')


def mostly_quick(cases: Iterable, slow: Collection) -> list:
  """Returns cases as a test's parameters, some of them marked slow."""
  return [pytest.param(case, marks=[pytest.mark.slow] * (case in slow))
          for case in cases]


def share(victim: Victim, clips: Array, labels: Array, seed: int = 0) -> Leak:
  """Returns the gradients of updates with clips [M, B, T, H, W, C].

  The clips need not lie in [0, 1], and labels may be soft.
  """
  params = victim.init(jax.random.key(seed))
  gradient = jax.grad(victim.loss)
  update = jax.jit(lambda *updates: jax.lax.map(
      lambda one: gradient(params, *one), updates))(clips, labels)
  return Leak(params, update, PublicInfo(
      clip_shape=clips.shape[2:], batch_size=clips.shape[1]))


def noisy(leak: Leak, share_of_std: float) -> Leak:
  """Returns the leak with noise in proportion to each leaf."""
  def add(leaf):
    noise = np.random.default_rng(0).normal(size=leaf.shape)
    return leaf + share_of_std * np.std(leaf) * noise.astype(np.float32)
  return leak.replace(update=jax.tree.map(add, leak.update))


def target_of(leak: Leak, index: int = 0) -> Target:
  """Returns what gradient matching holds a guess against, of one update."""
  return Target(
      leak.params, jax.tree.map(lambda leaf: leaf[index], leak.update))


def problem(victim: Victim, leak: Leak, folder: Path | None = None,
            seed: int = 2) -> Problem:
  """Returns an attacker's problem on one device."""
  return Problem(victim, leak, jax.random.key(seed),
                 session(jax.devices()[:1], folder=folder))


def run_attack(
    attack: Attack, victim: Victim, leak: Leak, folder: Path | None = None,
    effort: Effort | None = None,
) -> Outcome:
  """Returns what an attack finds, measured; raises what it refuses."""
  outcome, = solve([problem(victim, leak, folder)], [attack],
                   effort or Effort(), folder)
  if isinstance(outcome, UserError):
    raise outcome
  return outcome


def psnr(a: Array, b: Array) -> float:
  """Returns 10 log10(1 / mean squared error)."""
  return -10 * np.log10(np.mean((np.asarray(a, np.float64) - b) ** 2))


def small_clips(count: int) -> np.ndarray:
  """Returns drawn clips [count, 2, 4, 4, 3] for `dense_victim`."""
  return np.random.default_rng(0).uniform(
      size=(count, 2, 4, 4, 3)).astype(np.float32)


def dense_victim(clip_shape: tuple[int, ...] = (2, 4, 4, 3),
                 num_classes: int = 5, width: int = 32) -> Victim:
  """Returns two dense layers with a tanh between: compiles in a blink."""
  size = int(np.prod(clip_shape))
  keys = jax.random.split(jax.random.key(0))
  params = {
      'first': {'kernel': jax.random.normal(keys[0], (size, width)) / size**0.5,
                'bias': jnp.zeros(width)},
      'head': {'kernel': jax.random.normal(keys[1], (width, num_classes)) / 4,
               'bias': jnp.zeros(num_classes)}}

  def logits(params, clips):
    x = clips.reshape(len(clips), -1) - 0.5
    first, head = params['first'], params['head']
    x = jnp.tanh(x @ first['kernel'] + first['bias'])
    return x @ head['kernel'] + head['bias']

  def loss(params, clips, labels):
    return cross_entropy(logits(params, clips), labels)
  return Victim.from_loss(loss, params, clip_shape, num_classes, logits=logits)

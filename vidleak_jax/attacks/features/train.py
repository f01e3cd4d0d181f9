"""Training of the blend, on public scenes alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidleak_jax.attacks.features import mixture, scenes
from vidleak_jax.attacks.features.decoder import extract_all
from vidleak_jax.types import Array, Params


def run(
    extract: Callable[[Array], Array],
    *,
    size: int,
    num_scenes: int,
    num_frames: int,
    num_references: int,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    log: Callable[[int, float], None],
) -> Params:
  """Trains the params of `blend.blend` for an extractor.

  Args:
    extract: frames [B, S, S, 3] to features [B, F].
    size: S.
    num_scenes: public ones; each is seen with 1 to `num_references` references.
    num_frames: of each scene's clip.
    num_references: at most.
    num_steps: of Adam.
    batch_size: scenes a step.
    learning_rate: at the start; it falls to 0.
    seed: of scenes, params and order.
    log: called with the step and the mean PSNR over the last 50 steps.
  """
  drawn = np.stack([*scenes.scenes(
      num_scenes, num_frames, num_references, size, seed)])
  clips, references = drawn[:, :num_frames], drawn[:, num_frames:]
  features = _extract(extract, clips)
  banks = np.stack([
      _extract(extract, np.asarray(mixture.variants(held)))
      for held in references])
  scale = features.reshape(-1, features.shape[-1]).std(0) + 1e-6
  params = mixture.init(jax.random.key(seed))
  optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, clips, features, references, banks, held):
    error, slope = jax.value_and_grad(mixture.error)(
        params, scale, clips / 255.0, features, references / 255.0, banks, held)
    moves, state = optimizer.update(slope, state)
    return optax.apply_updates(params, moves), state, error

  rng, errors = np.random.default_rng(seed), []
  for i in range(num_steps):
    rows = rng.integers(num_scenes, size=batch_size)
    counts = rng.integers(1, num_references + 1, size=batch_size)
    order = rng.random((batch_size, num_references)).argsort(1)
    params, state, error = step(
        params, state, clips[rows], features[rows], references[rows],
        banks[rows], jnp.asarray(order < counts[:, None]))
    errors.append(error)
    if (i + 1) % 50 == 0:
      log(i + 1, -10 / np.log(10) * float(np.mean(errors[-50:])))
  return params


def _extract(extract, frames):
  """Features of uint8 frames [..., S, S, 3]."""
  flat = frames.reshape(-1, *frames.shape[-3:]).astype(np.float32) / 255
  return extract_all(extract, flat).reshape(*frames.shape[:-3], -1)

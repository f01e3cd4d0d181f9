"""Training of the blend, on public scenes alone."""

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidleak_jax.attacks.features import mixture, scenes
from vidleak_jax.attacks.features.decoder import extract_all
from vidleak_jax.runtime import trainer
from vidleak_jax.runtime.progress import MetricsLog
from vidleak_jax.types import Array, Params

_CHUNK = 50  # steps between logs and checkpoints


class State(NamedTuple):
  """All that training changes."""
  step: Array  # [] int32
  params: Params
  opt_state: optax.OptState


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
    folder: Path | None = None,
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
    log: called with the step and the mean PSNR over the steps since the last
      call, 50 at most.
    folder: gets `metrics.jsonl` and `checkpoints/`, and training goes on from
      what stands there; None: it cannot go on.
  """
  public = np.stack([*scenes.scenes(
      num_scenes, num_frames, num_references, size, seed)])
  clips, references = public[:, :num_frames], public[:, num_frames:]
  features = _extract(extract, clips)
  banks = np.stack([
      _extract(extract, np.asarray(mixture.variants(held)))
      for held in references])
  scale = features.reshape(-1, features.shape[-1]).std(0) + 1e-6
  params = mixture.init(jax.random.key(seed))
  optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
  state = jax.device_get(State(
      jnp.zeros((), jnp.int32), params, optimizer.init(params)))

  @jax.jit
  def step(state, clips, features, references, banks, held):
    error, slope = jax.value_and_grad(mixture.error)(
        state.params, scale, clips / 255.0, features, references / 255.0,
        banks, held)
    moves, opt_state = optimizer.update(slope, state.opt_state)
    return State(state.step + 1, optax.apply_updates(state.params, moves),
                 opt_state), error

  batches, errors = enumerate(_batches(
      seed, num_scenes, num_references, batch_size)), []

  def advance(state, i):  # batches of steps done before are skipped
    rows, held = next(batch for n, batch in batches if n == i)
    state, error = step(state, clips[rows], features[rows], references[rows],
                        banks[rows], jnp.asarray(held))
    errors.append(error)
    return state, error

  def at_stop(done, state, _):
    del state
    psnr = -10 / np.log(10) * float(np.mean(errors))
    errors.clear()
    log(done, psnr)
    return {'psnr': psnr}

  with contextlib.ExitStack() as stack:
    if folder is None:
      folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    metrics = stack.enter_context(MetricsLog(folder / 'metrics.jsonl'))
    state, _ = trainer.train(
        state, advance, at_stop, what='blend', log=metrics,
        stops={*range(_CHUNK, num_steps, _CHUNK), num_steps},
        checkpoints=folder / 'checkpoints')
  return state.params


def _batches(seed, num_scenes, num_references, size):
  """Yields (scenes [B], which references are held [B, R]) without end."""
  rng = np.random.default_rng(seed)
  while True:
    rows = rng.integers(num_scenes, size=size)
    counts = rng.integers(1, num_references + 1, size=size)
    order = rng.random((size, num_references)).argsort(1)
    yield rows, order < counts[:, None]


def _extract(extract, frames):
  """Features of uint8 frames [..., S, S, 3]."""
  flat = frames.reshape(-1, *frames.shape[-3:]).astype(np.float32) / 255
  return extract_all(extract, flat).reshape(*frames.shape[:-3], -1)

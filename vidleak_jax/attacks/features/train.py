"""Training of the blend, on public scenes alone."""

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vidleak_jax.attacks.features import mixture, scenes
from vidleak_jax.attacks.features.decoder import extract_all
from vidleak_jax.options import Options, option
from vidleak_jax.runtime import trainer
from vidleak_jax.runtime.progress import MetricsLog
from vidleak_jax.runtime.session import Report
from vidleak_jax.types import Array, Params
from vidleak_jax.victims.frozen import EXTRACTORS, PRESETS

_CHUNK = 50  # steps between logs and checkpoints


@dataclass(frozen=True)
class ExtractorSpec(Options):
  """The frozen network whose features are blended."""
  preset: str = option('small', 'its size', choices=tuple(PRESETS))
  extractor: str | None = option(None, 'another one, by its name',
                                 choices=tuple(EXTRACTORS))
  weights_file: str = option('photo_motion', 'a name, or a file')
  extractor_seed: int = option(0, 'without such a file', low=0)
  inputs: str = option('imagenet', 'the scale of the input',
                       choices=('unit', 'half', 'imagenet', 'kinetics'))


@dataclass(frozen=True)
class BlendSpec(Options):
  """The training of a blend."""
  seed: int = option(7, 'of scenes, weights and order', low=0, high=2**32 - 1)
  image_size: int = option(32, 'rows and columns', low=8)
  num_scenes: int = option(
      600, 'public ones, each seen with 1 to num_references references', low=1)
  num_frames: int = option(4, "of each scene's clip", low=1)
  num_references: int = option(5, 'at most', low=1)
  num_steps: int = option(600, 'of Adam', low=1, high=10**9)
  batch_size: int = option(8, 'scenes in a step', low=1)
  learning_rate: float = option(3e-3, 'at the start; it falls to 0', above=0,
                                high=1e3)
  victim: ExtractorSpec = option(ExtractorSpec(), 'whose extractor is known')


class State(NamedTuple):
  """All that training changes."""
  step: Array  # [] int32
  params: Params
  opt_state: optax.OptState


def run(
    extract: Callable[[Array], Array], spec: BlendSpec,
    folder: Path | None = None, *, progress: Report | None = None,
) -> Params:
  """Returns the params of `mixture.blend`, trained for an extractor.

  Args:
    extract: frames [B, S, S, 3] to features [B, F].
    spec: scenes and steps; S is its `image_size`.
    folder: gets `metrics.jsonl` and `checkpoints/`, and training goes on from
      what stands there; None: it cannot go on.
    progress: hears the mean PSNR since it heard last, 50 steps at most.
  """
  public = np.stack([*scenes.scenes(
      spec.num_scenes, spec.num_frames, spec.num_references, spec.image_size,
      spec.seed)])
  clips = public[:, :spec.num_frames]
  references = public[:, spec.num_frames:]
  features = _extract(extract, clips)
  banks = np.stack([
      _extract(extract, np.asarray(mixture.variants(held)))
      for held in references])
  scale = features.reshape(-1, features.shape[-1]).std(0) + 1e-6
  params = mixture.init(jax.random.key(spec.seed))
  optimizer = optax.adam(
      optax.cosine_decay_schedule(spec.learning_rate, spec.num_steps))
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
      spec.seed, spec.num_scenes, spec.num_references, spec.batch_size)), []

  def advance(state, i):  # batches of steps done before are skipped
    rows, held = next(batch for n, batch in batches if n == i)
    state, error = step(state, clips[rows], features[rows], references[rows],
                        banks[rows], jnp.asarray(held))
    errors.append(error)
    return state, error

  def at_stop(done, state, _):
    del done, state
    psnr = -10 / np.log(10) * float(np.mean(errors))
    errors.clear()
    return {'psnr': psnr}

  with contextlib.ExitStack() as stack:
    if folder is None:
      folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    metrics = stack.enter_context(MetricsLog(folder / 'metrics.jsonl'))
    state, _ = trainer.train(
        state, advance, at_stop, what='blend', progress=progress,
        log=metrics,
        stops={*range(_CHUNK, spec.num_steps, _CHUNK), spec.num_steps},
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

"""Feature matching that knows the client's defence.

`feature_matching` takes the head's gradient as exact and breaks under any
defence. Here every entry is an observation with bounds and a standard
deviation, and three stages follow each other:

  1. The head is solved for its input h and dL/dh (`defended_head`).
  2. Adam on h and the last kernel's gradient, while the assumed error tau of
     the guess's features falls (`defended_model`).
  3. Where entries are noisy, Adam on all leaves; where they are exact or
     clipped, Gauss-Newton on h and the last kernel, tau falling on: there
     first-order steps stall, exact but in weak channels alone.

A prior of fixed weight, total variation over time, rows and columns, completes
the likelihood; it is in natural units, so it does not depend on sizes.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from vidleak_jax.attacks.matching import defended_head
from vidleak_jax.attacks.matching.defended_model import (
    Entries,
    Fade,
    Target,
    features,
    residuals,
)
from vidleak_jax.attacks.observation import Observed
from vidleak_jax.types import Layer, Params, PRNGKey, UserError

_FAR = 1e30        # stands for an infinite bound on the device
_SURE = 5.0        # a sign is sure that many stds from 0
_TRIES = (1.0, 0.7, 0.5, 0.3, 0.1, 0.0)  # lengths of a step of Gauss-Newton
_REREAD = 8        # steps of Gauss-Newton between two readings of the head
_FALL = 0.5, 0.85  # bounds of how tau falls in a step of Gauss-Newton
Progress = Callable[[str, int, int, np.ndarray], None]


@dataclass(frozen=True)
class DefendedOptions:
  """How the defended attack runs; the defaults hold for all defences.

  Errors tau are relative to the root mean square of the features.
  """
  top_steps: int = 600        # of Adam, on features and the last kernel
  top_rate: float = 0.1       # of Adam, with cosine decay
  top_errors: tuple[float, float] = (1.0, 3e-3)    # tau, from and to
  top_weight: float = 60.0    # of total variation against -log likelihood
  all_steps: int = 800        # of Adam, on all leaves
  all_rate: float = 0.02
  all_errors: tuple[float, float] = (3e-3, 1e-3)   # of what the top shows
  lower_errors: tuple[float, float] = (0.05, 2e-3)  # of the lower leaves
  all_weight: float = 30.0
  newton_steps: int = 40      # of Gauss-Newton, where entries are exact
  newton_inner: int = 150     # conjugate gradients inside each
  newton_errors: tuple[float, float] = (0.3, 1e-4)
  newton_weight: float = 10.0
  exact: float = 3e-3         # std over root mean square of exact entries
  time_weight: float = 2.0    # of differences over time
  space_weight: float = 0.7   # of differences over rows and columns
  corner: float = 2e-3        # below which total variation is quadratic
  start_std: float = 0.02     # of the start about grey
  chunk: int = 100            # steps between two reports of progress

  def __post_init__(self):
    for name, value in vars(self).items():
      if not np.all(np.isfinite(value) & (np.asarray(value) >= 0)):
        raise UserError(f'{name} is {value!r}. Give finite numbers of at least '
                        '0.')
    if min(*self.top_errors, *self.all_errors, *self.lower_errors,
           *self.newton_errors, self.chunk, self.corner) <= 0:
      raise UserError('Errors, the corner and the chunk must be above 0.')


class DefendedResult(NamedTuple):
  """What `recover_defended` found."""
  clip: np.ndarray        # [T, H, W, C] float32 in [0, 1]
  label: int
  chi2: float             # mean square of all residuals over their std
  scale: float            # of the update, over the gradient
  notes: tuple[str, ...]  # what a reader of the result should know


class _Stage(NamedTuple):
  """What is compiled into one program, besides shapes."""
  layers: tuple[Layer, ...]
  options: DefendedOptions
  all_leaves: bool  # or features and the last kernel alone
  per_entry: bool   # or whitened between channels
  name: str
  steps: int
  rate: float
  weight: float     # of total variation
  errors: tuple[float, float]
  lower: tuple[float, float] = (1.0, 1.0)

  def fade(self, step):
    part = jnp.minimum(step / max(self.steps, 1), 1.0)
    return Fade(*(start * (end / start) ** part
                  for start, end in (self.errors, self.lower)))


def recover_defended(
    layers: tuple[Layer, ...], params: Params, update: Params,
    observed: Params, label: int | None, clip_shape: tuple[int, ...],
    key: PRNGKey, *, scale: float | None = 1.0,
    options: DefendedOptions | None = None, progress: Progress | None = None,
) -> DefendedResult:
  """The clip of one update that passed a defence.

  Args:
    layers: a chain of convolutions with biases, the dense head last.
    params: the weights.
    update: what the client sent for one clip; tells shapes only, its entries
      are taken from `observed`.
    observed: of `observation.observe_update`.
    label: of the clip, or None to infer it.
    clip_shape: (T, H, W, C).
    key: of the start; consumed.
    scale: of the update over the gradient, where public (such as learning rate
      times steps); None to find it in the head.
    options: None for the defaults.
    progress: called with (stage, steps done, steps in all, clip) after each
      chunk.

  Raises:
    UserError: a network that is not such a chain; an update that says nothing
      about the head.
  """
  options = options or DefendedOptions()
  report = progress or (lambda *_: None)

  def ready(guess=None):
    return prepare(layers, params, update, observed, label, scale=scale,
                   guess=guess)

  target, head, notes = ready()
  clipped = _is_clipped(observed)
  common = layers, options
  top = _Stage(*common, False, clipped, 'features and last kernel',
               options.top_steps, options.top_rate, options.top_weight,
               options.top_errors)
  clips = 0.5 + options.start_std * jax.random.normal(key, (1, *clip_shape))
  last = target.kernels[layers[-2].name]
  if clipped or last.typical < options.exact * last.rms:
    newton = _Stage(*common, False, clipped, 'Gauss-Newton',
                    options.newton_steps, 0.0, options.newton_weight,
                    options.newton_errors)
    top = top._replace(weight=options.newton_weight,
                       errors=(1.0, options.newton_errors[0] / 10))
    clips = _adam(top, params, target, clips, report)
    tau, least = map(jnp.float32, options.newton_errors)
    for step in range(newton.steps):
      if clipped and step % _REREAD == 0:  # the guess fills in what is clipped
        target, head, notes = ready(
            np.asarray(features(layers, params, clips), np.float64))
      clips, chi2 = _newton_step(newton, params, target, clips, tau)
      report(newton.name, step + 1, newton.steps, clips)
      tau = jnp.maximum(tau * jnp.clip(chi2 ** 0.5, *_FALL), least)
    chi2 = float(chi2)
  else:
    every = _Stage(*common, True, False, 'all leaves', options.all_steps,
                   options.all_rate, options.all_weight, options.all_errors,
                   options.lower_errors)
    clips = _adam(top, params, target, clips, report)
    clips = _adam(every, params, target, clips, report)
    chi2 = float(_chi2(every, params, target, clips))
  return DefendedResult(np.asarray(clips[0]), head.label, chi2, head.scale,
                        notes)


def prepare(
    layers: tuple[Layer, ...], params: Params, update: Params, observed: Params,
    label: int | None = None, *, scale: float | None = 1.0,
    guess: np.ndarray | None = None,
) -> tuple[Target, defended_head.Head, tuple[str, ...]]:
  """(what is compared, the head's factors, notes); arguments as above.

  Raises:
    UserError: see `recover_defended`.
  """
  _check(layers, params, update)
  seen = {name: observed[name] for name in (each.name for each in layers)}
  top = layers[-1].name
  head = defended_head.read_head(
      params[top], seen[top]['kernel'], seen[top]['bias'], label, scale=scale,
      guess=guess)
  h = head.feature
  middle = h.middle
  same_side = (h.low > 0) | (h.high < 0)
  sure = same_side & (np.abs(middle) > _SURE * h.std)
  # Of what is small nearly all is negative: leaky units shrink it.
  likely = np.where(h.is_value, middle, 0) - 2.7 * h.std
  slope = np.asarray(params[top]['kernel'], np.float64) @ head.error
  own = {name: {part: each.scaled(1 / head.scale)
                for part, each in parts.items()}
         for name, parts in seen.items()}
  target = Target(
      _entries(h), _float32(np.sign(middle) * sure), _float32(likely),
      _float32(slope),
      {each.name: _entries(own[each.name]['kernel']) for each in layers[:-1]},
      {each.name: _entries(own[each.name]['bias']) for each in layers[:-1]})
  return target, head, _notes(head, observed)


def _check(layers, params, update):
  if len(layers) < 2 or any(
      set(params[each.name]) != {'kernel', 'bias'} for each in layers):
    raise UserError(
        'The defended attack needs a chain of convolutions with a dense head, '
        'such as c3d or lenet. Choose attack.name=ig for this victim.')
  wrong = jax.tree.map(lambda a, b: np.shape(a) != np.shape(b), params, update)
  if any(jax.tree.leaves(wrong)):
    raise UserError('The update has other shapes than the parameters: give one '
                    'message, without an axis of messages.')


def _notes(head, observed):
  notes = []
  if head.misfit > 2:
    notes.append(
        f'The head misses its observations by {head.misfit ** 0.5:.1f} stds: '
        'another scale, several clips, or a defence that is not known.')
  leaves = jax.tree.leaves(observed, is_leaf=_is_observed)
  share = np.average([np.mean(each.is_value) for each in leaves],
                     weights=[each.low.size for each in leaves])
  notes.append(f'{share:.1%} of the entries are values, the others intervals.')
  return tuple(notes)


def _is_observed(node):
  return isinstance(node, Observed)


def _is_clipped(observed):
  return any(np.mean(each.is_clipped) > 1e-3 for each in jax.tree.leaves(
      observed, is_leaf=_is_observed))


def _entries(seen: Observed) -> Entries:
  low, high = (np.clip(part, -_FAR, _FAR) for part in seen[:2])
  known = np.isfinite(seen.low) & np.isfinite(seen.high)
  rms = np.sqrt(np.mean(np.where(known, seen.middle, 0) ** 2)) + 1e-12
  return Entries(*map(_float32, (low, high, seen.std, np.median(seen.std),
                                 rms)))


def _float32(array):
  return jnp.asarray(np.asarray(array, np.float32))


def _differences(clips):
  return [jnp.diff(clips, axis=axis) for axis in (1, 2, 3)]


def _weights(stage):
  options = stage.options
  return [stage.weight * w for w in (
      options.time_weight, options.space_weight, options.space_weight)]


def _lengths(stage, difference):
  """Of differences, [..., 1]: the colours of a video share their edges."""
  square = jnp.sum(difference ** 2, -1, keepdims=True)
  return jnp.sqrt(square + stage.options.corner ** 2)


def _misses(stage, params, target, clips, fade):
  return residuals(stage.layers, params, target, clips, fade,
                   all_leaves=stage.all_leaves, per_entry=stage.per_entry)


def _objective(stage, params, target, clips, fade):
  found = _misses(stage, params, target, clips, fade)
  variation = sum(w * jnp.sum(_lengths(stage, d)) for w, d in zip(
      _weights(stage), _differences(clips)))
  return sum(jnp.sum(r ** 2) for r in found) / 2 + variation


def _adam(stage, params, target, clips, report):
  """One stage of Adam, in chunks."""
  chunk, state = stage.options.chunk, _optimizer(stage).init(clips)
  for done in range(0, stage.steps, chunk):
    clips, state = _adam_chunk(
        stage, params, target, clips, state, jnp.float32(done))
    report(stage.name, min(done + chunk, stage.steps), stage.steps, clips)
  return clips


def _optimizer(stage):
  schedule = optax.cosine_decay_schedule(stage.rate, max(stage.steps, 1), 0.02)
  return optax.adam(schedule, b2=0.99)


@functools.partial(jax.jit, static_argnums=0)
def _adam_chunk(stage, params, target, clips, state, done):
  optimizer = _optimizer(stage)

  def step(carry, i):
    clips, state = carry
    slope = jax.grad(_objective, argnums=3)(
        stage, params, target, clips, stage.fade(done + i))
    move, state = optimizer.update(slope, state)
    return (jnp.clip(clips + move, 0, 1), state), None
  return lax.scan(step, (clips, state), jnp.arange(stage.options.chunk))[0]


@functools.partial(jax.jit, static_argnums=0)
def _newton_step(stage, params, target, clips, tau):
  """(one damped step, chi2); total variation by reweighted squares."""
  fade = Fade(tau, jnp.float32(1))
  found, forward = jax.linearize(
      lambda clips: _misses(stage, params, target, clips, fade), clips)
  backward = jax.linear_transpose(forward, clips)
  weights = [w / _lengths(stage, d) for w, d in zip(
      _weights(stage), _differences(clips))]

  def smooth(v):
    scaled = [w * d for w, d in zip(weights, _differences(v))]
    return jax.linear_transpose(_differences, v)(scaled)[0]

  move, _ = jax.scipy.sparse.linalg.cg(
      lambda v: backward(forward(v))[0] + smooth(v),
      -backward(found)[0] - smooth(clips), maxiter=stage.options.newton_inner)
  tries = jnp.stack([jnp.clip(clips + a * move, 0, 1) for a in _TRIES])
  values = lax.map(
      lambda clips: _objective(stage, params, target, clips, fade), tries)
  clips = tries[jnp.nanargmin(values)]
  return clips, _mean_square(_misses(stage, params, target, clips, fade))


@functools.partial(jax.jit, static_argnums=0)
def _chi2(stage, params, target, clips):
  """Mean square of the residuals, with the errors of the last step."""
  return _mean_square(_misses(
      stage, params, target, clips, stage.fade(jnp.float32(stage.steps))))


def _mean_square(found):
  return sum(jnp.sum(r ** 2) for r in found) / sum(r.size for r in found)

"""Feature matching that knows the client's defence.

`feature_matching` takes the head's gradient as exact and breaks under any
defence. Here every entry is an observation with bounds and a standard
deviation, and stages follow each other:

  1. The head is solved for its input h and dL/dh (`defended_head`).
  2. Adam on h and the last kernel's gradient, while the assumed error tau of
     the guess's features falls (`defended_model`).
  3. Where entries are exact or clipped, Gauss-Newton on the same, tau falling
     on: there first-order steps stall, exact but in weak channels alone.
  4. Unless entries are clipped, Gauss-Newton on all leaves, for the pixels and
     for the slopes of all kinked units. Where noise hides a sign, fixed slopes
     keep the guess where it is.

A prior completes the likelihood: total variation over time, rows and columns of
fixed weight for Adam, what the guess itself shows (`video_prior`) for
Gauss-Newton. Both are in natural units and do not depend on sizes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.attacks.matching import defended_head
from vidleak_jax.attacks.matching.defended_model import (
    Entries,
    Target,
    features,
)
from vidleak_jax.attacks.matching.defended_steps import (
    Prior,
    Progress,
    Stage,
    adam,
    falling,
    joint_step,
    mean_square,
    slopes,
    top_step,
)
from vidleak_jax.attacks.observation import Observed
from vidleak_jax.types import Array, Layer, Params, PRNGKey, UserError

_FAR = 1e30        # stands for an infinite bound on the device
_MANY = 0.5        # of the kernels' entries are values
_SURE = 5.0        # a sign is sure that many stds from 0
_REREAD = 8        # steps of Gauss-Newton between two readings of the head
_FIRST_TRUST = 0.1  # how far a pixel is expected to move after Adam
_SAMPLES = 2       # of what noise leaves open, at the end
_CHEAP = 24_576    # numbers of a clip, of fewer more iterations are made,
_MOST_INNER = 600  # up to these
_AGREES = 1.0      # mean square of residuals: the assumed error may fall
_STEPS = 2         # of Gauss-Newton there for each tau
_FALL = 0.5, 1.0   # bounds of how tau falls in a step of Gauss-Newton


_PRIOR = Prior()


@dataclass(frozen=True)
class DefendedOptions:
  """How the defended attack runs; the defaults hold for all defences.

  Errors tau are relative to the root mean square of the features.
  """
  top_steps: int = 600        # of Adam, on features and the last kernel
  top_rate: float = 0.1       # of Adam, with cosine decay
  top_errors: tuple[float, float] = (1.0, 3e-3)    # tau, from and to
  top_weight: float = 60.0    # of total variation against -log likelihood
  finish_steps: int = 20      # of Gauss-Newton, on all leaves
  finish_inner: int = 200     # conjugate gradients inside each, or more
  finish_errors: tuple[float, float] = (0.5, 1e-2)  # of outputs' signs
  feature_errors: tuple[float, float] = (0.02, 1e-4)  # of features
  # The same where most entries are known by bounds alone, see `assumed_errors`.
  sparse_finish_errors: tuple[float, float] = (0.5, 0.05)
  sparse_feature_errors: tuple[float, float] = (0.1, 3e-3)
  newton_steps: int = 40      # of Gauss-Newton, where entries are exact
  newton_inner: int = 600     # conjugate gradients inside each step
  newton_errors: tuple[float, float] = (0.3, 1e-4)
  newton_start_weight: float = 10.0  # of Adam's, before
  exact: float = 1e-3         # std over root mean square of exact entries
  prior: Prior = _PRIOR
  start_std: float = 0.02     # of the start about grey
  chunk: int = 100            # steps between two reports of progress

  def __post_init__(self):
    for name, value in vars(self).items():
      value = np.asarray(value)
      if not np.all(np.isfinite(value) & (value >= 0)):
        raise UserError(f'{name} is {value.tolist()!r}. Give finite numbers of '
                        'at least 0.')
    if min(*self.top_errors, *self.finish_errors, *self.feature_errors,
           *self.sparse_finish_errors, *self.sparse_feature_errors,
           *self.newton_errors, self.chunk, self.prior.corner) <= 0:
      raise UserError('Errors, the corner and the chunk must be above 0.')


class DefendedResult(NamedTuple):
  """What `recover_defended` found."""
  clip: np.ndarray        # [T, H, W, C] float32 in [0, 1]
  label: int
  chi2: float             # mean square of all residuals over their std
  scale: float            # of the update, over the gradient
  notes: tuple[str, ...]  # what a reader of the result should know


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
  last = target.kernels[layers[-2].name]
  exact = clipped or bool(last.typical < options.exact * last.rms)
  top = Stage(layers, options.prior, clipped, 'features and last kernel',
              options.top_steps, options.top_rate, options.top_weight,
              options.top_errors)
  if exact:
    top = top._replace(weight=options.newton_start_weight,
                       errors=(1.0, options.newton_errors[0] / 10))
  clips = 0.5 + options.start_std * jax.random.normal(key, (1, *clip_shape))
  clips = adam(top, params, target, clips, options.chunk, report)
  if exact:
    clips, chi2, target, head, notes = _solve_top(
        top, params, target, head, notes, clips, options, report,
        ready if clipped else None)
  else:
    chi2 = float(mean_square(top, params, target, clips))
  if options.finish_steps and not clipped:
    clips, chi2 = _finish(layers, params, target, clips, options, report)
  return DefendedResult(
      np.asarray(clips[0]), head.label, chi2, head.scale, notes)


def assumed_errors(target: Target, options: DefendedOptions
                   ) -> tuple[tuple[float, float], tuple[float, float]]:
  """(errors of outputs' signs, of features) that the last stage assumes.

  Where most entries of the kernels are bounds, as after pruning, the few values
  lead astray once they count for more than the prior.
  """
  seen = [np.asarray(each.low == each.high) for each in target.kernels.values()]
  if sum(map(np.sum, seen)) < _MANY * sum(each.size for each in seen):
    return options.sparse_finish_errors, options.sparse_feature_errors
  return options.finish_errors, options.feature_errors


def _solve_top(top, params, target, head, notes, clips, options, report, ready):
  """Gauss-Newton on features and last kernel, tau falling as they agree."""
  start, least = options.newton_errors
  stage = top._replace(name='Gauss-Newton', steps=0)
  tau, trust = jnp.float32(start), jnp.float32(start)
  for step in range(options.newton_steps):
    if ready and step % _REREAD == 0:  # the guess fills in what is clipped
      target, head, notes = ready(np.asarray(
          features(top.layers, params, clips), np.float64))
    clips, chi2, trust = top_step(
        stage, options.newton_inner, params, target, clips, tau, trust)
    report(stage.name, step + 1, options.newton_steps, clips)
    # The error that is assumed falls as the guess comes to agree.
    tau = jnp.maximum(tau * jnp.clip(chi2 ** 0.5, *_FALL), least)
  return clips, float(chi2), target, head, notes


def _finish(layers, params, target, clips, options, report):
  """(clips, mean square of the residuals) after Gauss-Newton on all leaves."""
  trust, chi2 = jnp.float32(_FIRST_TRUST), jnp.float32('nan')
  deviations = jnp.zeros((_SAMPLES, *clips.shape), clips.dtype)
  count = options.finish_steps
  inner = int(np.clip(options.finish_inner * _CHEAP / clips.size,
                      options.finish_inner, _MOST_INNER))
  sign_errors, errors = assumed_errors(target, options)
  most, least = map(jnp.float32, errors)
  error = most
  for step in range(count):
    if step % _STEPS == 0:
      tau = falling(sign_errors, step / max(count - _STEPS, 1))
      shares = slopes(layers, params, target, clips, tau)
      if chi2 < _AGREES:  # of the last two; nothing agrees at first
        error = jnp.maximum(error / 2, least)
      elif chi2 > 2 * _AGREES:
        error = jnp.minimum(2 * error, most)
    clips, shares, chi2, trust, deviations = joint_step(
        layers, inner, params, target, clips, shares, tau,
        error, trust, deviations)
    report('Gauss-Newton on all leaves', step + 1, count, clips)
  return clips, float(chi2)


def unfinished(clips: Array, head: dict[str, Observed], label: int | None
               ) -> DefendedResult:
  """Returns an answer that was stopped: the guess as it stood.

  Args:
    clips: [1, T, H, W, C] of the last report of progress.
    head: its observed kernel and bias.
    label: of the clip, or None to infer it.
  """
  if label is None:
    label = defended_head.infer_label(head['bias'], head['kernel'])
  return DefendedResult(np.asarray(clips[0]), label, float('nan'), 1.0, ())


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
  scaled = {name: {part: each.scaled(1 / head.scale)
                   for part, each in parts.items()}
            for name, parts in seen.items()}
  target = Target(
      _entries(h), _float32(np.sign(middle) * sure), _float32(likely),
      _float32(slope), _float32(np.eye(len(head.error))[head.label]),
      *({each.name: _entries(scaled[each.name][part]) for each in layers[:-1]}
        for part in ('kernel', 'bias')))
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

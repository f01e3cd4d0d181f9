"""What a client does to its update before it sends it: optax transforms.

Each defence keeps shapes and dtypes and chains with any other:

    optax.chain(clip_by_global_norm(1.0), gaussian_noise(1e-3, key))

Strengths that are Python numbers are checked; traced ones pass, so one program
serves all strengths. `DEFENSES` lists them all, with what each leaves to a
server that knows it; an optax transform of the user's own works as well.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from vidleak_jax import options, user_code
from vidleak_jax.clients import compression, filters
from vidleak_jax.clients.compression import (
    prune,
    qsgd,
    quantize,
    random_per_leaf,
    sign,
    top_k,
)
from vidleak_jax.clients.filters import (
    SVTOptions,
    exclude_vars,
    local_dp_mod,
    local_dp_std,
    nvflare_percentile,
    svt_privacy,
)
from vidleak_jax.clients.ranges import Strength, require
from vidleak_jax.specs import DefenseSpec, LocalDpSpec, SvtSpec
from vidleak_jax.types import PRNGKey, UserError, is_off

_GAMMA = 0.01  # NVFlare's default

__all__ = [
    'DEFENSES', 'Defense', 'SVTOptions', 'build', 'clip_by_global_norm',
    'exclude_vars', 'from_spec', 'gaussian_noise', 'local_dp_mod',
    'local_dp_std', 'noise_std_of', 'nvflare_percentile', 'prune', 'qsgd',
    'quantize', 'sign', 'svt_privacy', 'top_k',
]


def build(
    key: PRNGKey, *, clip_norm: Strength = 0.0, noise_std: Strength = 0.0,
    local_dp: LocalDpSpec | None = None, exclude_vars: str = '',
    svt: SvtSpec | None = None, prune_fraction: Strength = 0.0,
    topk_fraction: Strength = 0.0, quantize_bits: Strength = 0,
    qsgd_levels: Strength = 0, sign: str = 'off',
    nvflare_percentile: Strength = 0.0, nvflare_gamma: Strength = 0.0,
    factory: str | None = None,
) -> optax.GradientTransformation:
  """Returns the defences that are on, in the order of the arguments.

  Those at 0 are left out; of the groups, those that say so. The user's own
  defence comes last.
  """
  local_key, svt_key, qsgd_key = jax.vmap(
      jax.random.fold_in, (None, 0))(key, jnp.arange(1, 4))
  chain = []
  if not is_off(clip_norm):
    chain.append(clip_by_global_norm(clip_norm))
  if not is_off(noise_std):
    chain.append(gaussian_noise(noise_std, key))
  if local_dp and not is_off(local_dp.epsilon):
    chain.append(local_dp_mod(
        local_dp.clipping_norm, local_dp.sensitivity, local_dp.epsilon,
        local_dp.delta, local_key))
  if exclude_vars:
    chain.append(filters.exclude_vars(exclude_vars))
  if svt and not is_off(svt.fraction):
    chain.append(svt_privacy(svt_key, SVTOptions(
        svt.fraction, svt.epsilon, svt.noise_var, svt.gamma, svt.tau,
        svt.repeats)))
  if not is_off(prune_fraction):
    chain.append(prune(prune_fraction))
  if not is_off(topk_fraction):
    chain.append(top_k(topk_fraction, error_feedback=False))
  if not is_off(quantize_bits):
    chain.append(quantize(quantize_bits))
  if not is_off(qsgd_levels):
    chain.append(qsgd(qsgd_levels, qsgd_key))
  if sign != 'off':
    chain.append(compression.sign(scaled=sign == 'scaled'))
  if not is_off(nvflare_percentile) or not is_off(nvflare_gamma):
    gamma = _GAMMA if is_off(nvflare_gamma) else nvflare_gamma
    chain.append(filters.nvflare_percentile(nvflare_percentile, gamma))
  if factory:
    chain.append(_own(factory, jax.random.fold_in(key, 1)))
  return optax.chain(*chain) if chain else optax.identity()


def from_spec(
    spec: DefenseSpec, key: PRNGKey, *, random: bool = True
) -> optax.GradientTransformation:
  """Returns the defences of a spec, but for DP-SGD, which a client computes.

  Args:
    spec: whose strengths may be traced.
    key: of all its noise; consumed.
    random: whether what is drawn at random is applied, too: noise, SVT's choice
      of entries, QSGD's rounding.
  """
  given = {f: getattr(spec, f) for f in spec.__dataclass_fields__}
  del given['dp_sgd']
  if not random:
    given |= {'noise_std': 0.0, 'svt': None, 'qsgd_levels': 0}
    given['local_dp'] = options.bind(spec.local_dp, {'sensitivity': 0.0})
  return build(key, **given)


def noise_std_of(spec: DefenseSpec, batch_size: int) -> float:
  """Returns the std of all Gaussian noise on an entry of an update.

  Args:
    spec: of Python numbers.
    batch_size: clips in the update, over which DP-SGD averages.
  """
  local, private = spec.local_dp, spec.dp_sgd
  return math.hypot(
      spec.noise_std,
      local_dp_std(local.sensitivity, local.epsilon, local.delta)
      if local.epsilon else 0.0,
      private.clip_norm * private.noise_multiplier / batch_size)


def _own(name: str, key: PRNGKey) -> optax.GradientTransformation:
  """The defence that a user's function makes; it gets a `key` if it takes one.

  Raises:
    UserError: where there is no such function, or it returns something else.
  """
  make = user_code.load(name, 'defense.factory')
  made = make(key=key) if 'key' in inspect.signature(
      make).parameters else make()
  if not isinstance(made, optax.GradientTransformation):
    raise UserError(f'{name} made {type(made).__name__}; defense.factory must '
                    'make an optax transform.')
  return made


def clip_by_global_norm(max_norm: Strength) -> optax.GradientTransformation:
  """Scales the whole update down to a norm of at most `max_norm`.

  This clips the mean over a batch. DP-SGD clips each example's gradient: see
  `clients.dp_sgd`.

  Raises:
    UserError: the norm is not above 0.
  """
  require('clip_norm', max_norm, 0, above=True)
  return optax.clip_by_global_norm(max_norm)


def gaussian_noise(
    std: Strength, key: PRNGKey
) -> optax.GradientTransformation:
  """Adds N(0, std^2) to every entry, with new noise in every update.

  Args:
    std: at least 0; 0 changes nothing.
    key: consumed.

  Raises:
    UserError: the std is out of range.
  """
  require('noise_std', std, 0)
  return random_per_leaf(
      lambda leaf, key: leaf + std * jax.random.normal(
          key, leaf.shape, leaf.dtype), key)


@dataclass(frozen=True)
class Defense:
  """A row of the table of defences."""
  factory: Callable[..., optax.GradientTransformation]
  leaves: str                # what a server that knows the defence still has
  example: Mapping[str, object]  # usual strengths, without the key
  off: Mapping[str, object] | None = None  # strengths that change nothing
  has_key: bool = False      # whether the factory takes a `key`


DEFENSES: dict[str, Defense] = {
    'clip_by_global_norm': Defense(
        clip_by_global_norm, 'every entry, up to one common factor',
        {'max_norm': 1.0}, {'max_norm': 1e30}),
    'gaussian_noise': Defense(
        gaussian_noise, 'every entry, with a known standard deviation',
        {'std': 1e-3}, {'std': 0.0}, has_key=True),
    'prune': Defense(
        prune, 'the large entries exactly; an interval about 0 for the others',
        {'fraction': 0.9}, {'fraction': 0.0}),
    'quantize': Defense(
        quantize, 'every entry, to half a step of a grid that it shows itself',
        {'bits': 8}, {'bits': 0}),
    'nvflare_percentile': Defense(
        nvflare_percentile,
        'most entries exactly; an interval about 0 for the smallest; a sign '
        'and a bound for those above gamma',
        {'percentile': 10, 'gamma': 0.01}, {'percentile': 0, 'gamma': 1e30}),
    'svt_privacy': Defense(
        svt_privacy, 'a few entries, clipped, with Laplace noise', {},
        has_key=True),
    'exclude_vars': Defense(
        exclude_vars, 'the other leaves exactly', {'patterns': 'bias'},
        {'patterns': ()}),
    'local_dp_mod': Defense(
        local_dp_mod,
        'every entry, up to one common factor, with a known standard deviation '
        'that does not grow with the clipping norm',
        {'clipping_norm': 1.0, 'sensitivity': 1e-4, 'epsilon': 10.0,
         'delta': 1e-5},
        {'clipping_norm': 1e30, 'sensitivity': 0.0, 'epsilon': 1.0,
         'delta': 1e-5}, has_key=True),
    'top_k': Defense(
        top_k, 'the largest entries exactly; an interval about 0 for the '
        'others; with error feedback the rest comes in later rounds',
        {'fraction': 0.1}, {'fraction': 1.0}),
    'qsgd': Defense(
        qsgd, 'every entry, unbiased, to one step of a grid that it shows '
        'itself', {'levels': 127}, {'levels': 0}, has_key=True),
    'sign': Defense(sign, 'the sign of every entry', {}),
}

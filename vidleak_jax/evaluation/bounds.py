"""Limits to set beside a measured attack: of information, and of privacy."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from scipy import optimize, special

from vidleak_jax.types import Array, Params, PRNGKey, UserError


def cramer_rao_psnr(
    loss: Callable[..., Array], params: Params, clip: Array, label: int,
    std: Params | float, key: PRNGKey, *, prior_std: float = 0.5,
    num_probes: int = 4, num_steps: int = 200,
) -> float:
  """The PSNR in dB that no unbiased attack on one noisy gradient exceeds.

  The gradient g(x) of the true clip is observed with independent Gaussian
  errors, and each pixel is known to `prior_std` beforehand. The Bayesian
  information is `J^T S^-1 J + 1 / prior_std^2` with `J = dg/dx`, and the mean
  square error is at least the mean of its inverse's diagonal, estimated by
  Hutchinson's probes. The solves by conjugate gradients approach the inverse
  from below, so stopping early raises the limit and never breaks it. Signs of
  kinked activations count as known, which raises it as well. An attack with a
  prior for videos may pass it: a prior is a bias.

  Args:
    loss: `(params, clips, labels) -> []`.
    params: the weights.
    clip: [T, H, W, C] in [0, 1], the truth.
    label: of the clip.
    std: of the errors, one number or a tree of numbers or arrays as the
      parameters; infinite where nothing was sent.
    key: of the probes; consumed.
    prior_std: of a pixel, above 0.
    num_probes: random directions to average over.
    num_steps: conjugate gradients at most, for each probe. Stopped early the
      limit is too high, never too low.

  Raises:
    UserError: a std that is not above 0.
  """
  stds = [prior_std, *jax.tree.leaves(std)]
  if not all(bool(jnp.all(jnp.asarray(leaf) > 0)) for leaf in stds):
    raise UserError('cramer_rao_psnr needs stds above 0. An exact gradient has '
                    'no limit of this kind.')
  if not isinstance(std, dict):
    std = jax.tree.map(lambda leaf: std, params)
  labels = jnp.array([label], jnp.int32)

  def observed(clip):
    update = jax.grad(loss)(params, clip[None], labels)
    return jax.tree.map(lambda leaf, std: leaf / std, update, std)

  @jax.jit
  def quadratic(clip, probe):
    _, forward = jax.linearize(observed, clip)
    backward = jax.linear_transpose(forward, clip)

    def information(v):
      return backward(forward(v))[0] + v / prior_std ** 2
    solved, _ = jax.scipy.sparse.linalg.cg(
        information, probe, maxiter=num_steps)
    return jnp.vdot(probe, solved) / probe.size

  clip = jnp.asarray(clip, jnp.float32)
  probes = jax.random.rademacher(key, (num_probes, *clip.shape), jnp.float32)
  error = sum(float(quadratic(clip, probe)) for probe in probes) / num_probes
  return -10 * math.log10(error)


def gaussian_epsilon(
    noise_multiplier: float, delta: float, num_releases: int = 1
) -> float:
  """The exact epsilon of full-batch Gaussian releases.

  `num_releases` of one multiplier equal one of `multiplier /
  sqrt(num_releases)`, for which `delta = Phi(a - b) - exp(epsilon) Phi(-a - b)`
  with `a = 1 / (2 sigma)` and `b = epsilon sigma` (1805.06083, theorem 8).

  Args:
    noise_multiplier: std over the sensitivity that the client really has, such
      as its clipping norm; not what a configuration calls sensitivity.
    delta: in (0, 1).
    num_releases: updates that the client sends.

  Returns:
    At least 0; infinite without noise.

  Raises:
    UserError: an argument is out of range.
  """
  if not (noise_multiplier >= 0 and 0 < delta < 1 and num_releases >= 1):
    raise UserError(
        f'gaussian_epsilon got {noise_multiplier=}, {delta=} and '
        f'{num_releases=}. Give a multiplier of at least 0, a delta between 0 '
        'and 1, and at least one release.')
  if noise_multiplier == 0:
    return math.inf
  sigma = noise_multiplier / math.sqrt(num_releases)

  def excess(epsilon):
    a, b = 1 / (2 * sigma), epsilon * sigma
    log_first = special.log_ndtr(a - b)
    log_second = epsilon + special.log_ndtr(-a - b)
    gap = -math.expm1(min(log_second - log_first, 0.0))
    return log_first + math.log(max(gap, 1e-300)) - math.log(delta)

  if excess(0.0) <= 0:
    return 0.0
  high = 1.0
  while excess(high) > 0:
    high *= 2
  return float(optimize.brentq(excess, 0.0, high, rtol=1e-10))


def reconstruction_bound(
    noise_multiplier: float, kappa: float, num_releases: int = 1
) -> float:
  """The largest chance of any reconstruction from full-batch releases.

  `Phi(Phi^-1(kappa) + sqrt(num_releases) / sigma)`: by Neyman and Pearson no
  event of chance kappa under N(0, sigma^2) has a greater one under N(1,
  sigma^2) (2201.12383; 2302.07225, section 3). It holds against an attacker who
  knows everything but the one clip.

  Args:
    noise_multiplier: std over the sensitivity, at least 0.
    kappa: the chance of the best guess without the update, in (0, 1): 1 / N for
      one of N candidates.
    num_releases: updates that the client sends.

  Returns:
    At most 1, which says nothing.

  Raises:
    UserError: an argument is out of range.

  >>> round(reconstruction_bound(1.0, 0.001), 4)
  0.0183
  """
  if not (noise_multiplier >= 0 and 0 < kappa < 1 and num_releases >= 1):
    raise UserError(
        f'reconstruction_bound got {noise_multiplier=}, {kappa=} and '
        f'{num_releases=}. Give a multiplier of at least 0, a kappa between 0 '
        'and 1, and at least one release.')
  if noise_multiplier == 0:
    return 1.0
  return float(special.ndtr(special.ndtri(kappa)
                            + math.sqrt(num_releases) / noise_multiplier))


def membership_advantage(
    noise_multiplier: float, num_releases: int = 1
) -> float:
  """The largest gap of any test that tells whether a clip was in an update.

  The gap is that of true and false positive rate, `TPR - FPR`. It is at most
  `2 Phi(sqrt(num_releases) / (2 sigma)) - 1`, the total variation of N(0,
  sigma^2) and N(1, sigma^2) (1905.02383, corollary 2.13; for what it means,
  2407.02191). The largest TPR at one FPR is `reconstruction_bound` with that
  FPR as `kappa`: both are one trade-off.

  Args:
    noise_multiplier: std over the sensitivity, at least 0.
    num_releases: updates that the client sends.

  Returns:
    In [0, 1]: 0 is a guess, 1 says nothing.

  Raises:
    UserError: an argument is out of range.

  >>> round(membership_advantage(1.0), 4)
  0.3829
  """
  if not (noise_multiplier >= 0 and num_releases >= 1):
    raise UserError(
        f'membership_advantage got {noise_multiplier=} and {num_releases=}. '
        'Give a multiplier of at least 0, and at least one release.')
  if noise_multiplier == 0:
    return 1.0
  return float(2 * special.ndtr(
      math.sqrt(num_releases) / (2 * noise_multiplier)) - 1)


def no_prior_psnr(noise_multiplier: float, clip_norm: float) -> float:
  """The PSNR in dB of the best attack without a prior, at its best place.

  Where a layer's gradient is the clip itself, clipped to the norm C and hidden
  by noise of std sigma C, the attacker scales it back by |clip| / C: each pixel
  has an error of std sigma |clip| (2402.12861). No network shows more to an
  attacker who knows nothing about videos; most show less.

  Args:
    noise_multiplier: sigma, above 0.
    clip_norm: |clip|, the Euclidean norm of its pixels in [0, 1].

  Returns:
    At least 6 dB: an answer of grey misses no pixel by more than a half.

  Raises:
    UserError: an argument is not above 0.
  """
  if not (noise_multiplier > 0 and clip_norm > 0):
    raise UserError(f'no_prior_psnr got {noise_multiplier=} and {clip_norm=}; '
                    'both must be above 0.')
  return -20 * math.log10(min(noise_multiplier * clip_norm, 0.5))


def sampled_epsilon(
    noise_multiplier: float, delta: float, num_steps: int,
    sampling_probability: float,
) -> float:
  """Epsilon of DP-SGD with Poisson sampling, by `dp-accounting`'s PLD.

  Args:
    noise_multiplier: std over the clipping norm, above 0.
    delta: in (0, 1).
    num_steps: of DP-SGD.
    sampling_probability: of an example in one step, in (0, 1].

  Raises:
    UserError: `dp-accounting` is not installed.
  """
  try:
    import dp_accounting
    from dp_accounting import pld
  except ImportError:
    raise UserError('sampled_epsilon needs dp-accounting: pip install '
                    "'vidleak_jax[accounting]'.") from None
  event = dp_accounting.PoissonSampledDpEvent(
      sampling_probability, dp_accounting.GaussianDpEvent(noise_multiplier))
  accountant = pld.PLDAccountant()
  accountant.compose(event, num_steps)
  return float(accountant.get_epsilon(delta))

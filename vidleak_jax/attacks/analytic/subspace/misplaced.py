"""Tokens that a guess has in another frame's place, and what belongs there.

Sums over frames and over places hardly change when two frames swap what they
have at one place, so a search may end with some tokens of a clip swapped and
all others right. Video tells which: along the motion of the whole picture they
do not follow from the frame before, nor lead to the next.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.attacks.analytic.subspace import search
from vidleak_jax.attacks.analytic.subspace.constraints import Evidence, Layout
from vidleak_jax.attacks.matching import video_prior
from vidleak_jax.types import Array

Fill = Callable[[Array, Evidence], np.ndarray | None]

# Chosen on a clip of photo_motion's train split:
_OUTLIER = 3.0  # times the median token's differences along the motion
_MOST = 0.25    # of the tokens; more of them leave nothing to go by
_TOLD = 0.4     # of a token's pixels, to judge it by
_ROUNDS = 8     # of reweighted squares
_INNER_STEPS = 60
_DAMPING = 1e-2  # of coordinates, which are of unit size
_FIT_ROUNDS, _FIT_LEAST = 10, 0.1  # reweighted; pixels of motion


def build(program: search.Search, network: Layout) -> Fill:
  """Returns (c [N, r], evidence) -> c with misplaced tokens filled, or None.

  None where no token is misplaced, or too many to tell. Those that are become
  the most likely ones beside all others, by `video_prior` alone.

  Args:
    program: of the network.
    network: its layout.
  """
  order = network.tiling.order

  def clips(c, evidence):
    return program.clip(c, evidence)[None]

  @jax.jit
  def solve(c, free, shown, evidence):
    seen, apart = jax.linearize(
        lambda c: video_prior.differences(shown, clips(c, evidence)), c)
    gather = jax.linear_transpose(apart, c)
    weights = [1 / each for each in video_prior.lengths(shown, seen)]

    def smooth(differences):
      return free * gather(tuple(
          w * d for w, d in zip(weights, differences, strict=True)))[0]
    return c + jax.scipy.sparse.linalg.cg(
        lambda v: smooth(apart(free * v)) + _DAMPING * v, -smooth(seen),
        maxiter=_INNER_STEPS)[0]

  def filled(c, evidence):
    guess = clips(c, evidence)
    shown = video_prior.measure(guess)
    if shown.flow is None:
      return None
    shown = shown._replace(flow=steady(np.asarray(shown.flow)))
    apart = np.array(video_prior.lengths(
        shown, video_prior.differences(shown, guess))[0])[0, ..., 0]
    apart[_from_outside(shown.flow[0])] = np.nan
    wrong = _misplaced(apart, order, guess.shape)
    if not 0 < wrong.mean() < _MOST:
      return None
    free = jnp.asarray(wrong, c.dtype)[:, None]
    c = (1 - free) * c
    for _ in range(_ROUNDS):
      c = solve(c, free, shown, evidence)
    return np.asarray(c)
  return filled


def steady(flow: np.ndarray) -> np.ndarray:
  """Returns the motion of the whole picture: affine, by least absolutes.

  Args:
    flow: [B, T - 1, H, W, 2] of `motion.estimate`, in part wrong.
  """
  places = np.stack(np.meshgrid(*(
      np.linspace(-1, 1, n) for n in flow.shape[2:4]), indexing='ij'), -1)
  terms = np.insert(places.reshape(-1, 2), 0, 1, axis=1)
  rows = flow.reshape(-1, len(terms), 2)
  fits = np.median(rows, 1, keepdims=True) + np.zeros_like(rows)
  for _ in range(_FIT_ROUNDS):
    weights = 1 / np.maximum(np.linalg.norm(rows - fits, axis=-1), _FIT_LEAST)
    gram = np.einsum('fn,ni,nj->fij', weights, terms, terms)
    fits = terms @ np.linalg.solve(
        gram, np.einsum('fn,ni,fnk->fik', weights, terms, rows))
  return fits.reshape(flow.shape)


def _from_outside(flow):
  """[T - 1, H, W] whether a pixel comes from beyond the border."""
  sizes = flow.shape[1:3]
  places = np.stack(np.meshgrid(*map(np.arange, sizes), indexing='ij'), -1)
  come = places + flow
  return ((come < 0) | (come > np.array(sizes) - 1)).any(-1)


def _misplaced(lengths, order, shape):
  """[N] which tokens differ from the frames before and after, [T-1, H, W]."""
  gap = np.full((1, *lengths.shape[1:]), np.nan)
  pixels = np.stack([np.concatenate(two) for two in (
      (gap, lengths), (lengths, gap))])  # to the frame before, to the next
  pixels = np.broadcast_to(pixels[..., None], (2, *shape[1:]))
  tokens = pixels.reshape(2, -1)[:, order]
  told = np.isfinite(tokens)
  means = np.where(told, tokens, 0).sum(-1) / np.maximum(told.sum(-1), 1)
  least = np.where(told.mean(-1) > _TOLD, means, np.inf).min(0)
  known = np.isfinite(least)
  return known & (least > max(_OUTLIER * np.median(least[known]), 1.0))

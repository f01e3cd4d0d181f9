"""What a gradient says, linearly, of the inputs of a network's layers.

One clip gives a dense layer n inputs, rows of Y [n, d], and its kernel the
gradient Y^T E with the errors E. Where n < d the inputs therefore lie in the
span of the gradient's columns, exactly, whatever the errors are. DAGER
(2405.15586) tests the words of a text by it.

The patch embedding's gradient (X - grey)^T delta = U S V^T says more: its rows
span all patches, X = grey + C U^T with C square. A parameter that is added to
some tokens (a bias, a position that frames share) has the sum of their delta as
its gradient k, and C^T delta = S V^T turns that into an equation for C: with
m = S^-1 V^T k, C m is 1 for those tokens and 0 for the others.

Rounding hides the span's faint directions, and tilts the others by the share of
it in their singular value. Inputs that are flatter than the true ones then lie
in what is left of the span better than the truth does. The other way round each
direction says, as surely as it is known, that inputs and errors of bounded size
make it: `sharpened`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.attacks.analytic.subspace import reading
from vidleak_jax.runtime import programs
from vidleak_jax.types import Params, UserError, Victim

_GREY = 0.5
_VARIANCE, _DISTANCE, _COLOURS = 0.0625, 12.0, 0.9  # of pixels, see `_likely`
_GAP = 10.0    # of singular values above the first that is noise
_SHOWN = 0.75  # of the inputs' directions; with fewer a layer says too little
_RANK = 1e-9  # singular values, of the largest, that float64 tells from 0
_FLAT = 3e-8  # of the largest, at least: rounding of float32
# Of an input's size, what may lie outside a span whose directions are weighed:
# as the true clip does where float32 hides a fifth of them.
_OUTSIDE = 3e-4


class Evidence(NamedTuple):
  """Of one message; all arrays, so that messages share a program."""
  params: Params
  grey: np.ndarray    # [P] a grey patch
  basis: np.ndarray   # [r, P] of the patches, which are grey + C basis
  outside: dict[tuple[reading.Path, ...], np.ndarray]  # [d, d - n] orthonormal
  weights: dict[tuple[reading.Path, ...], float]  # of what lies there
  means: np.ndarray   # [r, J] m of above, for C of this basis
  members: np.ndarray  # [N, J] which tokens each is about
  weight: float        # of these
  # Of `sharpened` alone:
  trust: float         # in the spans
  directions: dict[tuple[reading.Path, ...], np.ndarray]  # [d, k] weighted
  slack: float         # of the errors that make them


class Layout(NamedTuple):
  """What does not depend on the message: how the network is laid out."""
  tiling: reading.Tiling
  ranks: dict[tuple[reading.Path, ...], int]  # of inputs
  sizes: dict[tuple[reading.Path, ...], float]  # of those inputs at grey, rms
  shared: dict[reading.Path, np.ndarray]  # [N, rows] see `members`
  block: str                              # the first
  is_deep: bool  # whether `ranks` are of all blocks


def layout(
    victim: Victim, params: Params, shape: tuple[int, ...]
) -> Layout:
  """Reads a network. Call it in float64.

  Where tokens share positions, the attentions' inputs of all blocks count: what
  one token has of another is hardly told within the first block, whose layers
  are nearly linear.
  """
  logits = victim.logits
  tiles = reading.tiling(logits, params, shape)
  noise = np.random.default_rng(0).uniform(size=shape)
  inputs = reading.read(logits, params, noise).inputs
  (_, *layers) = inputs
  block = layers[0][0][0]
  shared = _members(victim, params, tiles, shape)
  is_deep = any(which.shape[1] > 1 for which in shared.values())
  ranks = {paths: _rank(np.asarray(inputs[paths])) for paths in layers
           if paths[0][0] == block
           or (is_deep and len(paths) > 1)}
  grey = reading.read(logits, params, np.full(shape, _GREY)).inputs
  sizes = {paths: float(jnp.sqrt(jnp.mean(grey[paths] ** 2)))
           for paths in ranks}
  return Layout(tiles, ranks, sizes, shared, block, is_deep)


def gather(
    network: Layout, params: Params, update: Params, shape: tuple[int, ...],
    smooth: bool,
) -> Evidence:
  """The evidence of one message.

  Args:
    network: its layout.
    params: of it, float64.
    update: one message's gradient, float64.
    shape: (T, H, W, C) of its clip.
    smooth: whether C is scaled as in patches of neighbours that look alike;
      otherwise its basis is orthonormal. The search takes another way each.

  Raises:
    UserError: a gradient that is all zero, or no layer's inputs stand out of
      the noise.
  """
  tiles = network.tiling
  _check_alive(network, update)
  embedding = _leaf(update, tiles.embedding)
  grey = (tiles.black + _GREY * tiles.slope)[0]
  kernel = embedding['kernel'] - np.outer(grey, embedding['bias'])
  left, values, right = np.linalg.svd(kernel, full_matrices=False)
  rank = _above_noise(values, len(tiles.order))
  spans = {paths: span for paths, n in network.ranks.items()
           if (span := _span(update, paths, n, network.is_deep)) is not None}
  # A span that lacks directions contradicts the truth itself, a little.
  spans = {paths: span for paths, span in spans.items()
           if span.shape[1] == network.ranks[paths]} or spans
  if not spans:
    raise UserError(
        'No layer shows the span of what it saw: more tokens than width, '
        'noise, or a defence. Choose attack.name=ig.')
  weights, weight = {paths: 1.0 for paths in spans}, 1.0
  if network.is_deep:
    tilts = {paths: _tilt(*_decompose(update, paths, network.ranks[paths])[1:],
                          network.ranks[paths]) for paths in spans}
    weights = {paths: min(tilts.values()) / tilt
               for paths, tilt in tilts.items()}
    weight = min(tilts.values()) / _tilt(
        values, _noise(values, len(tiles.order)), rank)
  left = left[:, :rank]
  mix = _likely(tiles, shape, left) if smooth else np.eye(rank)
  means, members = [np.zeros((rank, 0))], [np.zeros((len(tiles.order), 0))]
  for path, which in network.shared.items():
    if rank == len(tiles.order):
      sums = _leaf(update, path).reshape(-1, right.shape[1])[which.any(0)]
      means.append(mix @ (sums @ right[:rank].T / values[:rank]).T)
      members.append(which[:, which.any(0)])
  outside = {paths: np.linalg.svd(span)[0][:, span.shape[1]:]
             for paths, span in spans.items()}
  return Evidence(params, grey, mix @ left.T, outside, weights,
                  np.concatenate(means, 1), np.concatenate(members, 1), weight,
                  1.0, {}, 0.0)


def _check_alive(network, update):
  """Refuses a message whose gradient is all zero where it is read."""
  kernels = [(*path, 'kernel') for paths in network.ranks for path in paths]
  embedding = (*network.tiling.embedding, 'kernel')
  for path in [embedding, *kernels, *network.shared]:
    if not np.any(_leaf(update, path)):
      raise UserError(
          f'The gradient of {"/".join(path)} is zero: a defence zeroed it '
          '(heavy pruning does), so the closed form has nothing to solve. Use '
          'attack.name=ig instead.')


def sharpened(
    known: Evidence, network: Layout, update: Params, cap: float, slack: float
) -> Evidence:
  """The evidence with the spans' directions weighed by how well they show.

  Args:
    known: of the message.
    network: its layout.
    update: the message's gradient, float64.
    cap: a direction's weight is its singular value over that of the noise, but
      no more than this.
    slack: how dear errors are that make a direction from the inputs: with
      less, faint parts of the inputs can make it too. In squares, of the
      inputs' whole size.
  """
  directions = {}
  for paths, count in network.ranks.items():
    if paths[0][0] != network.block:
      continue
    left, values, noise = _decompose(update, paths, count)
    weights = np.minimum(values[:count] / noise, cap)
    directions[paths] = left[:, :count] * weights * (weights > 1)
  return known._replace(
      weights={paths: 1.0 for paths in known.weights}, weight=1.0,
      trust=1 / _OUTSIDE, directions=directions, slack=slack)


def _likely(tiles, shape, left):
  """[r, r] whose rows mix U's columns into those of unit likely size.

  Pixels correlate by exp(-distance / 12), colours by 0.9: of natural video.
  """
  *places, colours = np.unravel_index(tiles.order[0], shape)
  apart = sum(np.subtract.outer(at, at) ** 2 for at in places)
  alike = np.where(np.equal.outer(colours, colours), 1.0, _COLOURS)
  covariance = _VARIANCE * np.exp(-np.sqrt(apart) / _DISTANCE) * alike
  covariance[np.diag_indices(len(alike))] += 1e-6
  values, vectors = np.linalg.eigh(left.T @ np.linalg.solve(covariance, left))
  return (vectors / np.sqrt(values)).T


def _span(update, paths, count, is_weighed):
  """[d, n] the span of a layer's inputs, as far as it stands out of noise.

  Where spans are weighed by how well they show, the directions that do not are
  among them: the weight tells how little their place is known.
  """
  left, values, _ = _decompose(update, paths, count)
  if count >= len(values):
    return None
  shown = int(np.sum(values[:count] > _GAP * values[count]))
  if shown < _SHOWN * count:
    return None
  return left[:, :count if is_weighed else shown]


def _decompose(update, paths, count):
  """(U, S, noise in S) of a layer's kernel gradients, all of one size."""
  kernels = [_leaf(update, path)['kernel'] for path in paths]
  joined = np.concatenate([k / np.linalg.norm(k) for k in kernels], 1)
  left, values, _ = np.linalg.svd(joined, full_matrices=False)
  return left, values, _noise(values, count)


def _tilt(values, noise, count):
  """About which share of the inputs lies outside their span as it shows.

  Noise tilts each direction by its share in the singular value, and inputs are
  taken to have the square root of that along it.
  """
  values = values[:count]
  return noise * np.sqrt(np.sum(1 / values) / np.sum(values))


def _above_noise(values, count):
  """How many of at most `count` directions stand out."""
  return int(np.sum(values[:count] > _noise(values, count)))


def _noise(values, count):
  """In singular values of a gradient that has `count` of its own."""
  return max([_FLAT * values[0], *values[count:count + 1]])


def _members(victim, params, tiles, shape):
  """{path: [N, rows]}, which of a parameter's rows each token adds."""
  width = _leaf(params, tiles.embedding)['kernel'].shape[1]
  rows = {path: leaf for path, leaf in _leaves(params)
          if leaf.shape[-1] == width and path[-1] != 'kernel'}

  def first_channel(rows, params):
    params = functools.reduce(
        lambda tree, item: _with(tree, *item), rows.items(), params)
    clip = jnp.full(shape, _GREY)
    return reading.read(victim.logits, params, clip).tokens[:, 0]

  slopes = programs.default().get(
      ('subspace members', victim.key, shape),
      lambda: jax.jit(jax.jacrev(first_channel)))
  rates = slopes(rows, params)
  rates = {path: np.asarray(slope)[..., 0].reshape(len(slope), -1)
           for path, slope in rates.items()}
  return {path: slope for path, slope in rates.items() if slope.any()}


def _rank(rows):
  values = np.linalg.svd(rows, compute_uv=False)
  return int(np.sum(values > _RANK * values[0]))


def _leaves(tree):
  return [(tuple(key.key for key in path), leaf)
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _leaf(tree, path):
  for name in path:
    tree = tree[name]
  return tree


def _with(tree, path, leaf):
  name, *below = path
  return tree | {name: _with(tree[name], below, leaf) if below else leaf}

"""The linear equations that a kernel's gradient sets its layer's input.

`dW[tap, ci, co] = sum_p x[p * stride + tap, ci] dz[p, co]` is linear in x with
known dz: one matrix [taps * Cout, positions] for all input channels ci. Where
it leaves directions open, the outputs that are known close them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vidleak_jax.attacks.analytic.peeling.geometry import Geometry
from vidleak_jax.types import UserError

_WEAK = 1e-4    # singular values below this share of the largest count as open
_DIM = 3e-2    # below this share the known outputs have a say
_CLEAR = 1e-2  # singular values above this share of the largest are shown
_ROUNDING = 1e-7  # of a float32 gradient, relative; the least noise assumed
_FAINT = 0.1   # of the median channel, below which one weighs less
_RIDGE = 1e-12 # of the mean square, against patches that are alike
_CONVERGED = 1e-8  # of the preconditioned residual
SURPLUS = 1.25    # known outputs for each direction that the kernels leave
_AMPLE = 8.0       # and for each that known outputs rule instead of kernels


class Undetermined(UserError):
  """Kernels and known outputs do not suffice for a layer's input."""


class Source(NamedTuple):
  """One convolution that sees the unknown input."""
  geometry: Geometry
  dz: np.ndarray        # [Pout, Cout] cotangent of its output
  gradient: np.ndarray  # [taps, Cin, Cout] as the client sent it


class Outputs(NamedTuple):
  """Outputs that are known, as `weight * (forward(x) - target) = 0`."""
  forward: Callable[[np.ndarray], np.ndarray]    # [Pin, Cin] -> [Pout, Cout]
  pull_back: Callable[[np.ndarray], np.ndarray]  # its transpose
  target: np.ndarray  # [Pout, Cout]
  weight: np.ndarray  # [Pout, Cout] 1 / standard deviation; 0: not known


class Solved(NamedTuple):
  """The answer of a least-squares problem for a layer's input."""
  x: np.ndarray      # [Pin, Cin]
  sigma: np.ndarray  # [Pin, Cin] estimated standard deviation
  rank: int          # of the kernels' equations of one channel
  condition: float   # largest over smallest singular value within the rank
  residual: float    # of the kernels' equations, relative
  steps: int         # of conjugate gradients on the known outputs


class Shown(NamedTuple):
  """The part of a layer's input that kernels show: basis^T x = value."""
  basis: np.ndarray  # [Pin, R] orthonormal
  value: np.ndarray  # [R, Cin]
  condition: float   # largest over smallest singular value within it
  residual: float    # of the equations, relative


class Spectrum(NamedTuple):
  """Eigenvalues [Pin] and eigenvectors [Pin, Pin] of the normal matrix."""
  values: np.ndarray
  vectors: np.ndarray

  @property
  def strong(self) -> np.ndarray:
    """[Pin] bool: which directions the kernels show."""
    return self.values > _WEAK ** 2 * self.values[-1]

  def apply(self, factors: np.ndarray, x: np.ndarray) -> np.ndarray:
    return self.vectors @ (factors[:, None] * (self.vectors.T @ x))


def solve(sources: Sequence[Source], outputs: Sequence[Outputs] = (), *,
          held: np.ndarray | None = None, max_steps: int = 1000) -> Solved:
  """Returns the input of a layer from the gradients of kernels that see it.

  Every output channel counts alike, however little it moved the loss, since
  float32's errors are relative to a channel's gradient. The normal equations
  are precise enough: in float64 their error is far below that of the float32
  gradient at the conditions that are let pass.

  Args:
    sources: the convolutions; each adds rows for the same unknowns.
    outputs: used only where the kernels leave directions open.
    held: [Pin, n] orthonormal directions that no equation shows: x has
      nothing of them.
    max_steps: of conjugate gradients on `outputs`.

  Raises:
    Undetermined: the outputs are too few, or too badly conditioned, to close
      what the kernels leave open.
    UserError: no unit of the convolutions has a cotangent.
  """
  sources = [_balanced(source) for source in sources]
  spectrum = _spectrum(sources, held)
  values, strong = spectrum.values, spectrum.strong
  inverse = np.where(strong, 1 / np.where(strong, values, 1.0), 0.0)
  x = spectrum.apply(inverse, _normal_rest(sources, 0.0))
  x = x + spectrum.apply(inverse, _normal_rest(sources, x))  # refinement
  steps, ridge = 0, 0.0
  num_open = int((~strong).sum())
  if outputs and num_open:
    share = sum(np.count_nonzero(o.weight) for o in outputs) / x.shape[1]
    check_share(share, num_open)
    ruled = min(max(num_open, int(share / _AMPLE)), len(values) - 1)
    x, steps, ridge = _close(
        x, sources, outputs, spectrum, values[ruled], max_steps)
    if steps == max_steps:
      raise Undetermined('conjugate gradients on the known outputs have not '
                         f'converged in {max_steps} steps')
  return _judged(x, sources, spectrum, held, ridge, steps)


def judged(x: np.ndarray, sources: Sequence[Source], held: np.ndarray,
           ridge: float, steps: int) -> Solved:
  """Returns an input that was found by other means, with its errors.

  Args:
    x: [Pin, Cin] the input.
    sources: the convolutions that read it.
    held: see `solve`.
    ridge: what known outputs add to the eigenvalues of the normal matrix.
    steps: that it took.
  """
  sources = [_balanced(source) for source in sources]
  return _judged(x, sources, _spectrum(sources, held), held, ridge, steps)


def spectrum_of(sources: Sequence[Source], held: np.ndarray) -> Spectrum:
  """Returns the spectrum of the kernels' equations, channels balanced."""
  return _spectrum([_balanced(source) for source in sources], held)


def check_share(share: float, num_open: int) -> None:
  """Raises where known outputs, for a channel, are too few for directions.

  Raises:
    Undetermined: as it says.
  """
  if share < SURPLUS * num_open:
    raise Undetermined(
        f'{share:.0f} known outputs a channel are too few for the {num_open} '
        'directions that the kernels do not show')


def shown(sources: Sequence[Source]) -> Shown:
  """Returns what the gradients of kernels that see an input show of it.

  Args:
    sources: the convolutions; each adds rows for the same unknowns.

  Raises:
    UserError: no unit of the convolutions has a cotangent.
  """
  sources = [_balanced(source) for source in sources]
  rows = sum(s.gradient[:, 0].size for s in sources)
  values, basis = _row_spectrum(sources) if (
      rows < sources[0].geometry.num_in) else _spectrum(sources)
  strong = values > _WEAK ** 2 * values[-1]
  basis, values = basis[:, strong], values[strong]
  value = basis.T @ _normal_rest(sources, 0.0) / values[:, None]
  rest = basis.T @ _normal_rest(sources, basis @ value) / values[:, None]
  value = value + rest  # refinement
  rests = sum((_rest(s, basis @ value) ** 2).sum() for s in sources)
  size = sum((s.gradient ** 2).sum() for s in sources)
  clear = values > _CLEAR ** 2 * values[-1]
  return Shown(np.ascontiguousarray(basis[:, clear]), value[clear],
               float(np.sqrt(values[-1] / values[clear][0])),
               float(np.sqrt(rests / max(size, 1e-300))))


def cotangents(source: Source, x: np.ndarray) -> np.ndarray:
  """Returns dz [Pout, Cout] from the input: the same equations, turned round.

  Each channel stands alone here, so a wrong ReLU shows itself where it is.
  """
  seen = source.geometry.patches(x).reshape(source.geometry.num_out, -1)
  gram = seen @ seen.T
  gram[np.diag_indices_from(gram)] += _RIDGE * np.trace(gram) / len(gram)
  flat = source.gradient.reshape(-1, source.gradient.shape[-1])
  return np.linalg.solve(gram, seen @ flat)


def _judged(x, sources, spectrum, held, ridge, steps):
  values, strong = spectrum.values, spectrum.strong
  rests = [_rest(s, x) for s in sources]
  rows = sum(s.gradient[:, 0].size for s in sources)
  error = np.sqrt(sum((rest ** 2).sum((0, 2)) for rest in rests) / rows)
  floor = ridge or values[strong].min()
  spread = spectrum.vectors ** 2 @ (1 / np.maximum(values, floor))
  size = sum((s.gradient ** 2).sum() for s in sources)
  return Solved(
      x, np.sqrt(spread)[:, None] * error,
      int(strong.sum()) - (0 if held is None else held.shape[1]),
      float(np.sqrt(values[-1] / values[strong].min())),
      float(np.sqrt(sum((r ** 2).sum() for r in rests) / max(size, 1e-300))),
      steps)


def _spectrum(sources, held=None):
  normal = sum(s.geometry.normal_matrix(s.dz) for s in sources)
  if not (np.isfinite(normal).all() and normal.any()):
    raise UserError('A layer has no gradient to be read. Choose '
                    'attack.name=ig.')
  if held is not None and held.size:
    # As if they were known to be zero, as well as the average is known.
    normal += np.trace(normal) / len(normal) * held @ held.T
  return Spectrum(*np.linalg.eigh(normal))


def _row_spectrum(sources):
  """As `_spectrum`, within the rank, where rows are fewer than unknowns."""
  matrix = np.vstack([s.geometry.matrix(s.dz) for s in sources])
  values, vectors = np.linalg.eigh(matrix @ matrix.T)
  within = values > _WEAK ** 2 * values[-1]
  values, vectors = values[within], vectors[:, within]
  return Spectrum(values, matrix.T @ vectors / np.sqrt(values))


def weights(dz: np.ndarray) -> np.ndarray:
  """Returns the weight [C] with which a channel of [P, C] counts like all."""
  size = np.sqrt((dz ** 2).sum(0))
  # The errors of dz are alike in all channels, so the faintest count less.
  size = np.maximum(size, _FAINT * np.median(size))
  return np.where(size > 0, 1 / np.where(size > 0, size, 1.0), 0.0)


def _balanced(source):
  weight = weights(source.dz)
  return source._replace(dz=source.dz * weight,
                         gradient=source.gradient * weight)


def _rest(source, x):
  if np.ndim(x) == 0:
    return source.gradient
  return source.gradient - source.geometry.kernel_gradient(x, source.dz)


def _normal_rest(sources, x):
  """M^T (right-hand side - M x) of all sources, [Pin, Cin]."""
  # The pull-back of dz through dW, taken as a kernel, is M^T dW.
  return sum(s.geometry.pull_back(s.dz, _rest(s, x)) for s in sources)


def _close(x, sources, outputs, spectrum, most, max_steps):
  """Conjugate gradients on kernels' and known outputs' equations together.

  They move the directions that the kernels show badly. All rows are divided by
  their standard deviations; the eigenvalues of the kernels' part precondition.
  Outputs add `most` to the eigenvalues, on the average, though they may be
  more precise: what they determine badly is then left to the kernels, and the
  search converges. Returns (x, steps, what they add).
  """
  weak = spectrum.values < _DIM ** 2 * spectrum.values[-1]
  values = np.maximum(spectrum.values[weak], 0.0)[:, None]
  basis = np.ascontiguousarray(spectrum.vectors[:, weak])
  rests = sum((_rest(s, x) ** 2).sum() for s in sources)
  size = sum((s.gradient ** 2).sum() for s in sources)
  rows = sum(s.gradient.size for s in sources)
  precision = rows / max(rests, _ROUNDING ** 2 * size)

  def from_outputs(v):
    v = basis @ v
    return basis.T @ sum(
        o.pull_back(o.weight ** 2 * o.forward(v)) for o in outputs)

  probe = np.random.default_rng(0).choice(
      [-1.0, 1.0], (len(values), x.shape[1]))
  ridge = float((from_outputs(probe) * probe).mean() / precision)
  if ridge > most:
    fainter = np.sqrt(most / ridge)
    outputs = [o._replace(weight=o.weight * fainter) for o in outputs]
    ridge = float(most)
  rest = basis.T @ (precision * _normal_rest(sources, x) + sum(
      o.pull_back(o.weight ** 2 * (o.target - o.forward(x))) for o in outputs))
  factors = 1 / (precision * (values + ridge))
  move, z = np.zeros_like(rest), factors * rest
  p, gamma, step = z, (rest * z).sum(), 0
  first = gamma
  while step < max_steps and gamma > _CONVERGED ** 2 * first:
    q = precision * values * p + from_outputs(p)
    alpha = gamma / (p * q).sum()
    move, rest = move + alpha * p, rest - alpha * q
    z = factors * rest
    gamma, last = (rest * z).sum(), gamma
    p, step = z + gamma / last * p, step + 1
  return x + basis @ move, step, ridge

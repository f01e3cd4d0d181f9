"""From what is known of some layers to the pixels, by Gauss-Newton."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.attacks.analytic.peeling import contrast
from vidleak_jax.attacks.analytic.peeling import facts as facts_lib
from vidleak_jax.attacks.analytic.peeling.lower import Lower
from vidleak_jax.attacks.analytic.peeling.units import Leaves
from vidleak_jax.attacks.matching import gauss_newton, variation
from vidleak_jax.victims.introspection.graph import LayerGraph, run

_GREY = 0.5


class Part(NamedTuple):
  """What one round shows."""
  facts: tuple[facts_lib.Fact, ...]
  leaves: Leaves  # the weights of that round
  lower: Lower | None = None

  @property
  def checked(self) -> 'Part':
    """Without projections, which agree with any signs of the ReLUs above."""
    return self._replace(facts=tuple(
        fact for fact in self.facts if isinstance(fact, facts_lib.Outputs)))


def recover(
    graph: LayerGraph, num_clips: int, parts: Sequence[Part],
    options: gauss_newton.Options | None = None,
    tell: Callable[[gauss_newton.Progress], None] | None = None, *,
    start: np.ndarray | None = None, smooth: float | None = None,
    blank: np.ndarray | None = None, channel_axis: int = -1, key: Hashable,
) -> gauss_newton.Result:
  """Returns the clips [B, T, H, W, C] of which the facts are true.

  Args:
    graph: the network.
    num_clips: B.
    parts: facts about its nodes; one for each round, in which the parameters
      differ.
    options: of Gauss-Newton.
    tell: called after each step.
    start: [B, T, H, W, C]; None: grey.
    smooth: weight of a prior of total variation; None: no prior.
    blank: of `contrast.unseen`: contrast is held.
    channel_axis: of the outputs of the nodes that facts are about.
    key: of the network, `Victim.key`: equal networks share their programs.
  """
  kinds, belows = structure(graph, parts)
  prior = variation.Prior()

  def residual(clips, data):
    rows = [misses(each, below, kind, clips, channel_axis)
            for below, kind, each in zip(belows, kinds, data[1])]
    if smooth is not None:
      rows += [data[0] * row for row in variation.rows(prior, clips)]
    if blank is not None:
      rows.append(contrast.row(clips, blank))
    return rows

  if start is None:
    shape = num_clips, *graph.clip_shape
    start = (np.full(shape, _GREY) if blank is None
             else contrast.start(shape, blank))
  return gauss_newton.minimize(
      residual, (np.sqrt(smooth or 0.0), numbers(parts, belows)), start,
      options, tell, key=(key, kinds, smooth is None, blank is None))


def structure(graph: LayerGraph, parts: Sequence[Part]
              ) -> tuple[tuple[tuple[facts_lib.Kind, ...], ...],
                         list[LayerGraph]]:
  """Returns (kinds of the facts, the graph below them) of each round."""
  kinds = tuple(facts_lib.kinds_of(part.facts) for part in parts)
  return kinds, [facts_lib.until(graph, {node for _, node in each})
                 for each in kinds]


def numbers(parts: Sequence[Part], belows: Sequence[LayerGraph]) -> list:
  """Returns what `misses` needs of each round besides the structure."""
  return [({path: part.leaves[path] for node in below.nodes
            for path in node.paths},
           jax.tree.map(jnp.asarray, tuple(
               fact.constants for fact in part.facts)))
          for part, below in zip(parts, belows)]


def misses(data, below: LayerGraph, kinds: tuple[facts_lib.Kind, ...],
           clips: jax.Array, channel_axis: int) -> list[jax.Array]:
  """Returns by how much clips miss the facts of one round, over their size."""
  leaves, constants = data
  return facts_lib.residuals(
      run(below, leaves, clips), kinds, constants, channel_axis)

"""From what is known of some layers to the pixels, by Gauss-Newton."""

from collections.abc import Callable, Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.attacks.analytic.peeling import facts as facts_lib
from vidleak_jax.attacks.analytic.peeling.units import Leaves
from vidleak_jax.attacks.matching import gauss_newton
from vidleak_jax.victims.introspection.graph import LayerGraph, run

_GREY = 0.5

Part = tuple[tuple[facts_lib.Fact, ...], Leaves]  # with the weights they are of


def recover(
    graph: LayerGraph, num_clips: int, parts: Sequence[Part],
    options: gauss_newton.Options | None = None,
    tell: Callable[[gauss_newton.Progress], None] | None = None, *,
    channel_axis: int = -1, key: Hashable,
) -> gauss_newton.Result:
  """Returns the clips [B, T, H, W, C] of which the facts are true.

  Args:
    graph: the network.
    num_clips: B.
    parts: facts about its nodes, and the parameters by path, float64; one for
      each round, in which the parameters differ.
    options: of Gauss-Newton.
    tell: called after each step.
    channel_axis: of the outputs of the nodes that facts are about.
    key: of the network, `Victim.key`: equal networks share their programs.
  """
  kinds = tuple(facts_lib.kinds_of(facts) for facts, _ in parts)
  belows = [facts_lib.until(graph, {node for _, node in each})
            for each in kinds]
  data = []
  for below, (facts, leaves) in zip(belows, parts):
    used = {path for node in below.nodes for path in node.paths}
    data.append(({path: leaves[path] for path in used}, jax.tree.map(
        jnp.asarray, tuple(fact.constants for fact in facts))))

  def residual(clips, data):
    return [facts_lib.residuals(run(below, leaves, clips), each, constants,
                                channel_axis)
            for below, each, (leaves, constants) in zip(belows, kinds, data)]

  grey = np.full((num_clips, *graph.clip_shape), _GREY)
  return gauss_newton.minimize(
      residual, data, grey, options, tell, key=(key, kinds))

"""From what is known of some layers to the pixels, by Gauss-Newton."""

from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
import numpy as np

from vidleak_jax.attacks.analytic.peeling import facts as facts_lib
from vidleak_jax.attacks.analytic.peeling.blocks import Leaves
from vidleak_jax.attacks.matching import gauss_newton
from vidleak_jax.victims.introspection.graph import LayerGraph, run

_GREY = 0.5


def recover(
    graph: LayerGraph, num_clips: int, facts: tuple[facts_lib.Fact, ...],
    leaves: Leaves,
    options: gauss_newton.Options | None = None,
    tell: Callable[[gauss_newton.Progress], None] | None = None, *,
    key: Hashable,
) -> gauss_newton.Result:
  """Returns the clips [B, T, H, W, C] of which the facts are true.

  Args:
    graph: the network.
    num_clips: B.
    facts: about its nodes.
    leaves: the parameters by path, float64.
    options: of Gauss-Newton.
    tell: called after each step.
    key: of the network, `Victim.key`: equal networks share their programs.
  """
  below = facts_lib.until(graph, {fact.node for fact in facts})
  used = {path for node in below.nodes for path in node.paths}
  kinds = facts_lib.kinds_of(facts)
  constants = jax.tree.map(
      jnp.asarray, tuple(fact.constants for fact in facts))

  def residual(clips, data):
    leaves, constants = data
    return facts_lib.residuals(run(below, leaves, clips), kinds, constants)

  data = {path: leaves[path] for path in used}, constants
  grey = np.full((num_clips, *graph.clip_shape), _GREY)
  return gauss_newton.minimize(
      residual, data, grey, options, tell, key=(key, kinds))

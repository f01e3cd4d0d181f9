"""From a known layer to the pixels, by Gauss-Newton."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vidleak_jax.attacks.analytic.peeling.blocks import Leaves, Network
from vidleak_jax.attacks.analytic.peeling.walk import Known
from vidleak_jax.attacks.matching import gauss_newton
from vidleak_jax.types import Array
from vidleak_jax.victims.introspection.graph import LayerGraph, run

_DOUBT = 1e-3  # of the largest output: below it values are no equalities
_GREY = 0.5


class Target(NamedTuple):
  """What is known of a layer, as arguments of the residual."""
  leaves: Leaves
  value: Array  # [..., C] outputs of the ReLU
  on: Array     # bool: known to be this value; else at most `doubt`
  doubt: Array  # []
  size: Array   # [] root mean square of the outputs


def recover(
    network: Network, known: Known, leaves: Leaves,
    options: gauss_newton.Options | None = None,
    tell: Callable[[gauss_newton.Progress], None] | None = None,
) -> gauss_newton.Result:
  """Returns the clip whose output at `network.bottom` is what is known.

  Small outputs are no equalities: a unit that is off can come out as a little
  above 0, though what it saw is far below.
  """
  below = until(network.graph, network.bottom)
  value = known.value.reshape(network.graph.by_name[network.bottom].shape)
  doubt = _DOUBT * value.max()
  used = {path for node in below.nodes for path in node.paths}
  target = Target({path: leaves[path] for path in used}, value, value > doubt,
                  np.asarray(doubt), np.sqrt(np.mean(value ** 2)))
  target = Target(target.leaves, *map(jnp.asarray, target[1:]))

  def residual(clip, target):
    before = run(below, target.leaves, clip[None])[below.output][0]
    rest = jnp.where(target.on, before - target.value,
                     jnp.maximum(before - target.doubt, 0.0))
    return rest / target.size

  grey = np.full(network.graph.clip_shape, _GREY)
  return gauss_newton.minimize(residual, target, grey, options, tell)


def until(graph: LayerGraph, name: str) -> LayerGraph:
  """Returns the part of a graph that computes what an activation reads."""
  output = graph.by_name[name].inputs[0]
  needed, pending = set(), [output]
  while pending:
    node = graph.by_name[pending.pop()]
    if node.name not in needed:
      needed.add(node.name)
      pending.extend(node.inputs)
  nodes = tuple(node for node in graph.nodes if node.name in needed)
  return dataclasses.replace(graph, nodes=nodes, output=output)

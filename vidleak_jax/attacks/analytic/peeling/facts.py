"""What is known of a network's layers, as residuals of a clip."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vidleak_jax.types import Array
from vidleak_jax.victims.introspection.graph import LayerGraph

DOUBT = 1e-3  # of the largest output: below it values are no equalities


class Outputs(NamedTuple):
  """Values of a node where it is known, upper bounds elsewhere."""
  node: str
  value: np.ndarray  # [P, C] the values, or the bounds
  known: np.ndarray  # [P, C] bool

  @property
  def constants(self) -> dict[str, np.ndarray]:
    size = np.sqrt(np.mean(self.value[self.known] ** 2))
    return {'value': self.value, 'known': self.known, 'size': size}

  @staticmethod
  def residual(z: Array, value: Array, known: Array, size: Array) -> Array:
    """Equality where known, hinge elsewhere, over their size."""
    rest = z - value
    return jnp.where(known, rest, jnp.maximum(rest, 0.0)) / size


class Shown(NamedTuple):
  """Projections of a node: basis^T x = value."""
  node: str
  basis: np.ndarray  # [P, R] orthonormal
  value: np.ndarray  # [R, C]

  @property
  def constants(self) -> dict[str, np.ndarray]:
    size = np.sqrt(np.mean(self.value ** 2))
    return {'basis': self.basis, 'value': self.value, 'size': size}

  @staticmethod
  def residual(x: Array, basis: Array, value: Array, size: Array) -> Array:
    """The projections' errors over their size."""
    return (basis.T @ x - value) / size


Fact = Outputs | Shown
Kind = tuple[type[Fact], str]  # of a fact, and its node


def of_relu(graph: LayerGraph, name: str, value: np.ndarray, on: np.ndarray,
            certain: np.ndarray) -> Outputs:
  """Returns what a ReLU's output says of its input.

  Small outputs are no equalities: a unit that is off can come out as a little
  above 0, though what it saw is far below.

  Args:
    graph: the network.
    name: of the ReLU.
    value: [P, C] its output.
    on: [P, C] where it is on.
    certain: [P, C] where the value is known as well.
  """
  return of_sum(graph.by_name[name].inputs[0], value, on, certain,
                np.zeros_like(value))


def clear(value: np.ndarray, on: np.ndarray) -> np.ndarray:
  """Returns where a ReLU's output [P, C] is surely what it saw."""
  return on & (value > DOUBT * value.max())


def of_sum(name: str, value: np.ndarray, on: np.ndarray, certain: np.ndarray,
           other: np.ndarray) -> Outputs:
  """Returns what `value = relu(x + other)` says of x.

  Args:
    name: of the node that answers x.
    value: [P, C] the ReLU's output.
    on: [P, C] where it is on.
    certain: [P, C] where the value is known as well.
    other: [P, C] the other branch.
  """
  known = clear(value, certain)
  bound = np.where(on & ~certain, np.inf, DOUBT * value.max())
  return Outputs(name, np.where(known, value, bound) - other, known)


def until(graph: LayerGraph, names: set[str]) -> LayerGraph:
  """Returns the part of a graph that computes the nodes of these names."""
  needed, pending = set(), list(names)
  while pending:
    node = graph.by_name[pending.pop()]
    if node.name not in needed:
      needed.add(node.name)
      pending.extend(node.inputs)
  nodes = tuple(node for node in graph.nodes if node.name in needed)
  return dataclasses.replace(graph, nodes=nodes, output=nodes[-1].name)


def kinds_of(facts: tuple[Fact, ...]) -> tuple[Kind, ...]:
  """Returns what of facts a compiled program depends on."""
  return tuple((type(fact), fact.node) for fact in facts)


def residuals(values: dict[str, Array], kinds: tuple[Kind, ...],
              constants: tuple[dict[str, Array], ...],
              channel_axis: int = -1) -> list[Array]:
  """Returns one array for each fact.

  Args:
    values: outputs of nodes, [B, ..., C].
    kinds: of the facts, see `kinds_of`.
    constants: their numbers, as arguments of a compiled program.
    channel_axis: where C stands instead.
  """
  found = []
  for (kind, node), numbers in zip(kinds, constants, strict=True):
    value = jnp.moveaxis(values[node], channel_axis, -1)
    found.append(kind.residual(
        value.reshape(-1, value.shape[-1]), **numbers))
  return found

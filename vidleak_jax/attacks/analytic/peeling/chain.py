"""Chains of convolutions with ReLUs and max pooling, as in C3D.

The gradient of the last kernel, tap by tap, tells its positions apart (`top`):
its input X and its cotangent dZ come without masks, but for a scalar, which the
gradient of its bias tells. So nothing of the layers above is needed. Below it
convolutions follow as in a residual block, through poolings as well
(`pooling`), until kernels show fewer directions than there are positions.
"""

import dataclasses
import functools
import math

import numpy as np

from vidleak_jax.attacks.analytic.peeling import (
    branch,
    equations,
    facts,
    inputs,
    needs,
    pooling,
    reading,
    storage,
    top,
)
from vidleak_jax.attacks.analytic.peeling.blocks import Network, rank_of
from vidleak_jax.attacks.analytic.peeling.pixels import Part
from vidleak_jax.attacks.analytic.peeling.readers import Known, Reader
from vidleak_jax.attacks.analytic.peeling.units import Leaves, Unit
from vidleak_jax.runtime.session import Session
from vidleak_jax.types import UserError
from vidleak_jax.victims.introspection import operations as ops
from vidleak_jax.victims.introspection import structure
from vidleak_jax.victims.introspection.graph import Head, LayerGraph, Node


@dataclasses.dataclass(frozen=True, eq=False)
class Link:
  """A convolution whose input is found.

  Attributes:
    unit: the convolution and its norm.
    windows: of the max pooling behind its ReLU, see `pooling.windows_of`; None
      where the next convolution reads the ReLU.
    below: the unit whose ReLU answers its input, through a pooling or not.
  """
  unit: Unit
  windows: np.ndarray | None
  below: Unit | None


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
  """The convolutions of a chain whose inputs are found, one by one.

  Attributes:
    graph: all layers.
    links: the last convolution first.
    head: the last dense layer.
    channel_axis: of the outputs of its nodes; negative.
    num_clips: in the update.
  """
  graph: LayerGraph
  links: tuple[Link, ...]
  head: Head
  channel_axis: int = -1
  num_clips: int = 1

  @property
  def bottom(self) -> str:
    """Name of the node that is known in the end."""
    return self.links[-1].unit.source

  @property
  def num_known(self) -> int:
    """Numbers of it that are known, about: half of a ReLU's are on."""
    node = self.graph.by_name[self.bottom]
    on = 1 / 2 if reading.is_relu(node) else 2 / 3
    return int(math.prod(node.shape) * on)


def read(graph: LayerGraph | None, num_clips: int) -> Network | Chain:
  """Returns the network as residual blocks, or as a chain.

  Raises:
    UserError: it is neither, or a chain for more than one clip; says why.
  """
  if graph is None or structure.blocks(graph):
    return reading.blocks_of(graph, num_clips)
  if num_clips > 1:
    raise UserError('the network has no residual blocks, and a chain of '
                    'convolutions is read of one clip alone')
  return chain_of(graph)


def chain_of(graph: LayerGraph) -> Chain:
  """Returns the part of a chain that is solved.

  Raises:
    UserError: the network is no such chain; says why.
  """
  found = [unit for unit in structure.chain(graph)
           if unit.linear is not None and isinstance(unit.linear.op, ops.Conv)]
  if not found or graph.head is None or graph.head.bias is None:
    raise UserError('the network has neither residual blocks nor convolutions '
                    'before a dense layer with a bias')
  units = [reading.unit_of(graph, each, 1, alone=False) for each in found]
  last = units[-1]
  reasons = top.shortages(last)
  if top.max_mixed(last.geometry) > 1:
    reasons.append(f'no tap of {last.name} tells frames apart')
  if last.sums_path is None or not last.is_affine:
    reasons.append(f'{last.name} has no bias, or a norm of the data')
  if reasons:
    raise UserError('; '.join(reasons))
  links, windows = [], None
  for i in range(len(units) - 1, -1, -1):
    joint = _joint(units[i - 1], found[i - 1], found[i].before) if i else None
    links.append(Link(units[i], windows, units[i - 1] if joint else None))
    if not joint or not _follows(*joint):
      break
    windows = joint[1]
  return Chain(graph, tuple(links), graph.head, reading.axis_of(last.conv))


def shortages(chain: Chain) -> list[str]:
  """Returns why the pixels do not follow, by count.

  A prior does not help here: from 0.9 numbers of a max pooling for each pixel
  the search for likely clips goes astray.
  """
  pixels = math.prod(chain.graph.clip_shape)
  if chain.num_known >= needs.MARGIN * pixels:
    return []
  return [f'the {pixels} pixels must be found from about {chain.num_known} '
          f'outputs of {chain.bottom}: too few; a wider network or a smaller '
          'clip would do']


def _joint(unit: Unit, found: structure.Unit, between: tuple[Node, ...]
           ) -> tuple[Unit, np.ndarray | None] | None:
  """A unit and the pooling behind its ReLU; None: something else is there."""
  if found.activation is None or not reading.is_relu(found.activation):
    return None
  if not between:
    return unit, None
  windows = pooling.windows_of(between[0].op, unit.geometry,
                               reading.axis_of(unit.conv))
  return None if len(between) > 1 or windows is None else (unit, windows)


def _follows(unit: Unit, windows: np.ndarray | None) -> bool:
  """Whether a unit's input follows from its output, by count."""
  positions = unit.geometry.num_in
  if not unit.is_affine or rank_of((unit,)) < positions:
    return False
  return windows is None or pooling.suffices(unit)


def peel(session: Session, chain: Chain, leaves: Leaves, update: Leaves,
         name: str) -> tuple[Part, list[branch.Row]]:
  """Returns what is known of the lowest input, and the report.

  Args:
    session: layers that its folder holds are not solved again.
    chain: the network.
    leaves: the parameters by path, float64.
    update: one clip's gradient by path, float64.
    name: of the update's folder.

  Raises:
    UserError: the equations disagree, or positions look alike.
  """
  folder, known, rows = storage.folder(session, name), None, []
  for done, link in enumerate(chain.links, 1):
    known, found = storage.once(
        folder and folder / f'layer{done}.npz',
        functools.partial(_solve, link, known, leaves, update))
    rows += found
    session.tell('layer peeling', done, len(chain.links) + 1,
                 residual=found[-1].residual)
  return Part((_fact(chain, known),), leaves), rows


def _solve(link: Link, known: Known | None, leaves: Leaves, update: Leaves
           ) -> tuple[Known, list[branch.Row]]:
  """(what is known of a unit's input from what is behind it, the report)."""
  unit, sums = link.unit, link.below and link.below.sums(update)
  if known is not None and link.windows is None:
    _, solved, slope = inputs.solve(
        [Reader(unit, known, True)], sums, leaves, update)
  else:
    dz = (_top(unit, leaves, update) if known is None else
          pooling.cross(unit, link.windows, known, leaves, update,
                        0.0 if link.below else -np.inf))
    solved = equations.solve(
        [equations.Source(unit.geometry, dz, unit.kernel(update))])
    slope = unit.geometry.pull_back(dz, unit.kernel(leaves))
  known, found = inputs.settled(solved, slope, sums)
  if link.below is None:
    known = known._replace(value=solved.x, on=np.ones(solved.x.shape, bool))
  return known, [branch.row_of(unit.name, [unit], solved, found)]


def _top(unit: Unit, leaves: Leaves, update: Leaves) -> np.ndarray:
  """The cotangent [P, C] of the last convolution."""
  _, dz = top.factors(unit.kernel(update), unit.geometry)
  sums, shown = unit.sums(update), (dz / unit.affine(leaves)[0]).sum(0)
  return dz * (sums @ shown) / (shown @ shown)


def _fact(chain: Chain, known: Known) -> facts.Fact:
  """What the lowest input says of the network below."""
  node, below = chain.graph.by_name[chain.bottom], chain.links[-1].below
  if below is None:
    return facts.Outputs(node.name, known.value, known.on)
  if reading.is_relu(node):
    return facts.of_relu(chain.graph, node.name, known.value, known.on,
                         known.certain)
  return facts.of_sum(node.name, known.value, known.on, known.certain,
                      np.zeros_like(known.value))

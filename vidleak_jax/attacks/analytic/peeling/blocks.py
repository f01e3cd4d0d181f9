"""Residual blocks of known units, and how much of them is determined."""

import dataclasses

from vidleak_jax.attacks.analytic.peeling.equations import SURPLUS
from vidleak_jax.attacks.analytic.peeling.geometry import rank_bound
from vidleak_jax.attacks.analytic.peeling.units import Entry, Unit
from vidleak_jax.victims.introspection.graph import Head, LayerGraph


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
  """A residual block; a ReLU between the units of `main`.

  It computes `relu(main(x) + shortcut(x))`. A pre-activation block computes
  `main(a) + shortcut(x)` or `main(a) + shortcut(a)` with `a = entry(x)`.

  Attributes:
    source: name of the node that answers x.
    main: its units in order.
    shortcut: its unit; None where it is the identity.
    output: name of the node that answers the block's output.
    entry: the norm and the ReLU in front of a pre-activation block.
    activated: whether the shortcut reads what `entry` answers.
  """
  source: str
  main: tuple[Unit, ...]
  shortcut: Unit | None
  output: str
  entry: Entry | None = None
  activated: bool = False

  @property
  def name(self) -> str:
    return self.main[0].name.split('/')[0]

  @property
  def units(self) -> tuple[Unit, ...]:
    """All its units."""
    return self.main + ((self.shortcut,) if self.shortcut else ())

  @property
  def first_units(self) -> tuple[Unit, ...]:
    """The units that read what the first one reads."""
    if self.entry and not self.activated:
      return self.main[:1]
    return self.main[:1] + self.units[len(self.main):]

  @property
  def num_solvable(self) -> int:
    """Units, from the last, whose inputs are determined, by count."""
    for count, unit in enumerate(self.main[:0:-1]):
      # Of the last unit's output only the sum with the shortcut's is known.
      if not _is_determined((unit,), has_outputs=count > 0):
        return count
    return len(self.main) - (not _is_determined(
        self.first_units, has_outputs=len(self.main) > 1))

  @property
  def solvable(self) -> bool:
    """Whether all of the block's unknowns are determined, by count."""
    return self.num_solvable == len(self.main)

  @property
  def num_shown(self) -> int:
    """Equations that a block that is not solvable has, by count."""
    count = self.num_solvable
    next_one = (self.main[-1 - count],) if count < len(self.main) - 1 else (
        self.first_units)
    known = self.main[-1:] + (self.main[-1 - count:-count] if count else ())
    outputs = sum(unit.geometry.num_out * unit.width for unit in known)
    return outputs // 2 + rank_of(next_one) * next_one[0].width_in


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """A stem, residual blocks, the mean over all positions, a dense head.

  Attributes:
    graph: all its layers.
    blocks: first to last.
    num_peeled: blocks, counted from the last, that are solved one by one.
    stem: the last unit before the first block, or None.
    head: its kernel [F, K] and bias [K].
    num_clips: in the batch; the first axis of all geometries.
    closing: the norm and the ReLU behind the last pre-activation block.
    channel_axis: of the outputs of its nodes; negative.
  """
  graph: LayerGraph
  blocks: tuple[Block, ...]
  num_peeled: int
  stem: Unit | None
  head: Head
  num_clips: int = 1
  closing: Entry | None = None
  channel_axis: int = -1

  @property
  def bottom(self) -> str:
    """Name of the node whose output the solved blocks end with."""
    return self.blocks[-self.num_peeled].source

  @property
  def top(self) -> Unit:
    """The last convolution, with the norm that its output passes last."""
    unit = self.blocks[-1].main[-1]
    return unit if self.closing is None else dataclasses.replace(
        unit, norm=self.closing.norm)

  @property
  def num_frames(self) -> int:
    """Frames that the last block still tells apart, 1 where it has none."""
    shape = self.top.geometry.in_shape
    return shape[1] if len(shape) > 3 else 1

  @property
  def num_loose(self) -> int:
    """Blocks, counted from the last, in which no frame sees another.

    They answer the same for frames in any order, in that order.
    """
    if self.num_frames == 1:
      return 0
    count = 0
    while count < len(self.blocks) and all(
        unit.geometry.window[1] == unit.geometry.strides[1] == 1
        for unit in self.blocks[-1 - count].units):
      count += 1
    return count

  @property
  def crosses_frames(self) -> bool:
    """Whether any convolution or pooling sees several frames at once."""
    return any(
        (node.kind == 'conv' and len(node.op.window) > 2
         and node.op.window[0] > 1)
        or (node.kind == 'pool' and len(node.op.window) > 4
            and node.op.window[1 if self.channel_axis == -1 else 2] > 1)
        for node in self.graph.nodes)


def rank_of(units: tuple[Unit, ...]) -> int:
  """Returns what the rank of kernels that read one input is at most."""
  return rank_bound([(unit.geometry, unit.width) for unit in units])


def below(network: Network, index: int) -> Unit | None:
  """Returns the unit whose ReLU answers the input of a block."""
  return network.blocks[index - 1].main[-1] if index else network.stem


def _is_determined(units: tuple[Unit, ...], has_outputs: bool) -> bool:
  """Whether kernels and known outputs suffice; half of the ReLUs are on."""
  first = units[0]
  left = (first.geometry.num_in - rank_of(units)) * first.width_in
  outputs = sum(unit.geometry.num_out * unit.width for unit in units)
  return SURPLUS * left <= has_outputs * outputs / 2

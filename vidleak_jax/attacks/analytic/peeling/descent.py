"""From the head down, block by block, as far as blocks can be solved."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from vidleak_jax.attacks.analytic.peeling import equations, storage, walk
from vidleak_jax.attacks.analytic.peeling.blocks import Network
from vidleak_jax.attacks.analytic.peeling.needs import MARGIN
from vidleak_jax.attacks.analytic.peeling.pixels import Part
from vidleak_jax.attacks.analytic.peeling.units import Leaves
from vidleak_jax.runtime.session import Session
from vidleak_jax.types import UserError

Shown = tuple[Part, list[walk.Row]]  # of one round, and the report's rows


class Walked(NamedTuple):
  """One round of one update, down to its lowest solved block."""
  network: Network  # `num_peeled`: as many as can be solved
  params: Leaves
  update: Leaves
  known: walk.Known | None = None  # the input of the lowest
  rows: tuple[walk.Row, ...] = ()
  depth: int = 0  # blocks that are solved

  @property
  def positions(self) -> tuple[int, ...]:
    """(B, T, ...) of the input of the lowest block that is solved."""
    return self.network.blocks[-self.depth].main[0].geometry.in_shape

  @property
  def below(self) -> int:
    """The index of the block below the solvable ones; -1 where none is."""
    return len(self.network.blocks) - self.network.num_peeled - 1


def descend(session: Session, walked: Walked, stop: int, name: str) -> Walked:
  """Solves blocks until so many are, or no more can be.

  Args:
    session: blocks that its folder holds are not solved again.
    walked: where to begin.
    stop: blocks to solve, counted from the last.
    name: of this round's folder.

  Raises:
    UserError: the equations disagree, or not even the last block is solvable.
  """
  folder = storage.folder(session, name)
  network, params, update, known, rows, depth = walked
  last, total = len(network.blocks) - 1, network.num_peeled + 1
  for i in range(depth, min(stop, network.num_peeled)):
    solve = (functools.partial(walk.peel, network, last - i, known, params,
                               update) if known else
             functools.partial(walk.peel_top, network, params, update))
    try:
      known, found = storage.once(
          folder and folder / f'block{last - i}.npz', solve)
    except equations.Undetermined:
      if not known:
        raise
      network = dataclasses.replace(network, num_peeled=i)
      break
    rows, depth = (*rows, *found), i + 1
    session.tell('layer peeling', depth, total,
                 residual=max(row.residual for row in found))
  return Walked(network, params, update, known, rows, depth)


def known_facts(walks: list[Walked], partly: Callable[[], list[Shown]]
                ) -> Iterator[tuple[list[Part], list[walk.Row]]]:
  """Yields (facts about the clip by round, rows of the report), surest first.

  The output of the lowest block that is solved has been checked layer by layer.
  What the block below shows has not: fewer equations than unknowns agree with
  any signs, wrong ones too. It is used where the outputs do not suffice.

  Args:
    walks: of each round.
    partly: what the function of that name says of each.
  """
  unknowns = math.prod(walks[0].network.graph.clip_shape)
  count = sum(_num_outputs(each.network) for each in walks)
  bottom = all(each.below < 0 for each in walks)
  suffices = bottom or count >= MARGIN * unknowns
  if suffices:
    yield [outputs(each) for each in walks], []
  if not bottom:
    with contextlib.suppress(UserError):
      parts, rows = zip(*partly())
      yield list(parts), [row for each in rows for row in each]


def outputs(walked: Walked) -> Part:
  """Returns what the lowest solved block's input says."""
  return walk.outputs(walked.network, walked.known, walked.params,
                      walked.update)


def partly(walked: Walked) -> Shown:
  """Returns what the block below says too, and the report's rows.

  Raises:
    UserError: its equations disagree.
  """
  if walked.below < 0:
    return outputs(walked), []
  return walk.peel_partly(walked.network, walked.below, walked.known,
                          walked.params, walked.update)


def _num_outputs(network: Network) -> float:
  """How many outputs of the lowest solved block are on, about."""
  return math.prod(network.graph.by_name[network.bottom].shape) / 2

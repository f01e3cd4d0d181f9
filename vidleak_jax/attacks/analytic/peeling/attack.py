"""Layer peeling: the clip from one gradient, exactly, layer by layer."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np

from vidleak_jax import trees
from vidleak_jax.attacks.analytic.peeling import (
    chain,
    completion,
    contrast,
    descent,
    frames,
    pixels,
    walk,
)
from vidleak_jax.attacks.analytic.peeling import found as found_lib
from vidleak_jax.attacks.analytic.peeling.blocks import Network
from vidleak_jax.attacks.analytic.peeling.chain import Chain
from vidleak_jax.attacks.analytic.peeling.descent import Shown, Walked
from vidleak_jax.attacks.analytic.peeling.found import EXACT, Found
from vidleak_jax.attacks.analytic.peeling.needs import (
    LARGEST,
    block_suffices,
    kernels_suffice,
    outputs_suffice,
    rounds_used,
    shortages,
    too_few,
)
from vidleak_jax.attacks.analytic.peeling.units import Leaves
from vidleak_jax.attacks.analytic.solver import Analytic, Solution
from vidleak_jax.attacks.base import Problem, needs_fedsgd
from vidleak_jax.attacks.matching import gauss_newton
from vidleak_jax.errors import OutOfTime
from vidleak_jax.options import option
from vidleak_jax.runtime import backend
from vidleak_jax.types import Leak, UserError, Victim
from vidleak_jax.victims.introspection.tracing import leaves_of

_LOST = 1e-2   # error of likely pixels' known layer: the search went astray
# From one colour a frame: a clip of high contrast is far from grey.
_COARSE_STEPS = (4,) * 5
_MAX_ORDERS = 16  # of loose frames whose few colours are fitted,
_MAX_TRIED = 4    # and, of the best of these, whose pixels are
_ORDER_STEPS = (3, 0, 0, 0, 0, 0)  # on the coarsest grid alone


@dataclasses.dataclass(frozen=True)
class Peeling(Analytic):
  """Networks of ReLUs: layers by least squares, then Gauss-Newton.

  >>> Peeling().name
  'peeling'
  """
  name: ClassVar[str] = 'peeling'
  cost: ClassVar[int] = 50
  polish_steps: int = option(0, 'of Gauss-Newton in float64 on the whole '
                             'gradient; hours for a wide network', low=0,
                             high=1000)
  pixel_steps: int = option(24, 'of Gauss-Newton on the pixels', low=1)
  inner_steps: int = option(
      60, 'conjugate gradients in each, sevenfold where the kernels below '
      'solved blocks are read', low=1)
  errors: tuple[float, ...] = option(
      (0.1, 0.05, 0.03, 0.02, 0.01, 0.003, 0.001), 'assumed, stage by stage, '
      'where equations are fewer than pixels', low=1e-6, high=1.0)
  stage_steps: int = option(8, 'of Gauss-Newton in each of these', low=1)
  largest: int = option(LARGEST, 'numbers of the clips up to which the '
                        'kernels below solved blocks are read: more take hours',
                        low=1)

  def requires(self, victim: Victim, leak: Leak) -> list[str]:
    """See `Attack.requires`; counts the equations below the blocks too."""
    reasons = needs_fedsgd(leak)
    if victim.graph is None:
      return [*reasons, 'it needs the logits, and only a loss is known']
    try:
      network = chain.read(victim.graph, leak.public.batch_size)
    except UserError as error:
      return [*reasons, str(error).rstrip('.')]
    if isinstance(network, Chain):
      return reasons + chain.shortages(network)
    return reasons + shortages(
        network, len(rounds_used(leak, network)), self.largest)

  def solve(self, problem: Problem) -> Solution:
    """See `Analytic.solve`."""
    network = chain.read(problem.victim.graph, problem.leak.public.batch_size)
    rounds = [(trees.to_float64(leaves_of(each.params)),
               trees.to_float64(leaves_of(each.update)))
              for each in rounds_used(problem.leak, network)]
    found = []
    with backend.float64():
      for m in range(problem.leak.num_updates):
        own = [(params, {path: leaf[m] for path, leaf in update.items()})
               for params, update in rounds]
        one = self._of_chain if isinstance(network, Chain) else self._of_blocks
        found.append(one(problem, network, own, f'update{m}'))
    rows = [dataclasses.asdict(row) | {'update': m}
            for m, each in enumerate(found) for row in each.rows]
    return Solution(np.stack([each.clips for each in found]),
                    np.stack([each.labels for each in found]), rows,
                    found_lib.note_of(found))

  def _of_chain(self, problem: Problem, network: Chain,
                rounds: list[tuple[Leaves, Leaves]], name: str) -> Found:
    """One update's clip, from the lowest input that is found."""
    (leaves, update), = rounds
    labels = walk.read_head(network, leaves, update).labels
    part, rows = chain.peel(problem.session, network, leaves, update, name)
    result = self._pixels(problem, network, [part],
                          (*_COARSE_STEPS, self.pixel_steps))
    total = len(rows) + 1
    problem.session.tell('layer peeling', total, total)
    return Found(result.pixels, labels, rows,
                 found_lib.misfit_of(result, [part]))

  def _of_blocks(self, problem: Problem, network: Network,
                 rounds: list[tuple[Leaves, Leaves]], name: str) -> Found:
    """One update's clips, in the order of their frames that explains most."""
    walks = [Walked(network, *each) for each in rounds]
    planned = walks[0].network
    loose = planned.num_loose
    walks = _descend(problem, walks, loose, name)
    best, wrong, tried = None, None, 0
    for start in itertools.islice(self._ordered(problem, walks), _MAX_TRIED):
      folder = name + f'_order{tried}' * (loose > 0)
      tried += 1
      try:
        found = self._search(problem, _descend(
            problem, start, len(planned.blocks), folder), planned, folder)
      except OutOfTime as error:
        wrong = error
        break
      except UserError as error:  # the equations disagree, in this order
        wrong = error
        continue
      if best is None or found.misfit < best.misfit:
        best = found
      if best.misfit <= EXACT:
        break
    if best is None:
      raise wrong
    return best._replace(note='; '.join(filter(None, (
        found_lib.about_frames(walks[0], best.misfit, tried), best.note))))

  def _ordered(self, problem: Problem, walks: list[Walked]
               ) -> Iterator[list[Walked]]:
    """Yields the walks with their frames in each likely order.

    The layers that do cross frames see zeros beside the first and the last one,
    so one colour a frame explains the known layer far better in the order that
    is right.
    """
    walked, *others = walks
    network, known = walked.network, walked.known
    if not network.num_loose:
      yield walks
      return
    assert not others  # see `rounds_used`
    candidates = []
    for order in itertools.islice(
        frames.orders(known.value, walked.positions), _MAX_ORDERS):
      start = walked._replace(known=walk.Known(*(
          field if field is None else field[order] for field in known)))
      cost = self._pixels(problem, network, [descent.outputs(start)],
                          _ORDER_STEPS).cost if network.crosses_frames else 0
      candidates.append((cost, start))
      problem.session.tell('orders of frames', len(candidates), _MAX_ORDERS,
                           cost=cost)
    for _, start in sorted(candidates, key=lambda candidate: candidate[0]):
      yield [start]

  def _pixels(self, problem: Problem, network: Network | Chain,
              parts: list[pixels.Part], steps: tuple[int, ...]
              ) -> gauss_newton.Result:
    return pixels.recover(
        network.graph, network.num_clips, parts,
        gauss_newton.Options(steps=steps, inner_steps=self.inner_steps),
        lambda p: problem.session.tell('pixels', p.step + 1,
                                       self.pixel_steps, cost=p.cost),
        channel_axis=network.channel_axis, key=problem.victim.key)

  def _search(self, problem: Problem, walks: list[Walked], planned: Network,
              name: str) -> Found:
    """The pixels from what the solved blocks, and the one below, show.

    Args:
      problem: what the attacker has.
      walks: of each round.
      planned: the network, with as many blocks solved as counts promise.
      name: of the files from which it resumes.
    """
    network, leaves = walks[0].network, walks[0].params
    labels = walk.read_head(network, leaves, walks[0].update).labels
    blank = contrast.unseen(network, leaves)
    partly = functools.cache(lambda: [descent.partly(each) for each in walks])
    best, known = None, iter(())
    if not too_few(planned, len(walks)):
      known = descent.known_facts(walks, partly)
    for parts, rows in known:
      result = self._pixels(problem, network, parts,
                            (*_COARSE_STEPS, self.pixel_steps))
      found = Found(result.pixels, labels,
                    [row for each in walks for row in each.rows] + rows,
                    found_lib.misfit_of(result, parts))
      if best is None or found.misfit < best.misfit:
        best = found
      if best.misfit <= EXACT:
        break
    total = network.num_peeled + 1
    problem.session.tell('layer peeling', total, total)
    if best is None or best.misfit > EXACT:
      shown = self._to_complete(walks, planned, partly)
      if shown:
        best = self._complete(problem, walks, labels, shown, blank, name)
    if best is None:
      raise UserError(
          f'Of {len(network.blocks)} blocks {walks[0].depth} were solved, as '
          'far as the equations go, and what they show does not suffice for '
          'the pixels. Choose attack.name=ig.')
    return best if blank is None else found_lib.with_contrast(
        best, blank, problem.leak.public.eight_bit)

  def _to_complete(self, walks: list[Walked], planned: Network,
                   partly: Callable[[], list[Shown]]) -> list[Shown]:
    """What each round shows a prior; []: too little."""
    network, count = walks[0].network, len(walks)
    if too_few(planned, count) and kernels_suffice(
        planned, count, self.largest):
      return partly()
    outputs = outputs_suffice(network, count)
    if not outputs and not block_suffices(network, count):
      return []
    try:
      shown = partly()
    except UserError:
      if not outputs:
        raise
      shown = [(descent.outputs(each), []) for each in walks]
    if outputs:  # enough without what fewer equations than unknowns show
      shown = [(part.checked, rows) for part, rows in shown]
    return [(part._replace(lower=None), rows) for part, rows in shown]

  def _complete(self, problem: Problem, walks: list[Walked],
                labels: np.ndarray, shown: list[Shown],
                blank: np.ndarray | None, name: str) -> Found:
    """Likely pixels where the equations do not lead to exact ones.

    Raises:
      UserError: the search went astray.
    """
    network = walks[0].network
    parts, rows = zip(*shown)
    folder = problem.session.folder
    clips, misfit = completion.complete(
        network.graph, network.num_clips, parts, self.errors, self.stage_steps,
        self.inner_steps, lambda p: problem.session.tell(
            'pixels', p.num_done, p.num_stages, cost=p.cost),
        blank=blank, place=folder and folder / f'{name}_pixels.npz',
        channel_axis=network.channel_axis, key=problem.victim.key)
    problem.session.tell('pixels', 1, 1)
    if not misfit < _LOST:
      raise UserError(
          f'What was found leaves {misfit:.0e} of the known layer unexplained: '
          'the equations are fewer than the pixels, and the search for likely '
          'ones went astray. Choose attack.name=ig, or a client seen in more '
          'rounds.')
    return Found(clips, labels, [
        row for each, partly in zip(walks, rows) for row in (
            *each.rows, *partly)], misfit, completed=True)


def _descend(problem: Problem, walks: list[Walked], stop: int, name: str
             ) -> list[Walked]:
  """The walks of all rounds, each in a folder of its own."""
  return [descent.descend(problem.session, each, stop,
                          name + f'_round{i}' * (i > 0))
          for i, each in enumerate(walks)]

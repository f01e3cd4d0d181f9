"""What layer peeling needs of a network and a leak, by count."""

import math

from vidleak_jax.attacks.analytic.peeling import top
from vidleak_jax.attacks.analytic.peeling.blocks import Network
from vidleak_jax.types import Leak, Round

MARGIN = 1.2  # known outputs for each pixel, at least


def rounds_used(leak: Leak, network: Network) -> tuple[Round, ...]:
  """The rounds that are used; which clip is which is known of one alone.

  So is which frame is which, where the walk finds frames in any order.
  """
  alone = leak.public.batch_size == 1 and not network.num_loose
  return leak.rounds() if alone else leak.rounds()[:1]


def shortages(network: Network, num_rounds: int = 1) -> list[str]:
  """Returns what is not determined, by count, in so many rounds."""
  reasons = []
  unit = network.top
  mixed, positions = top.max_mixed(unit.geometry), unit.geometry.num_out
  if mixed > top.MAX_MIXED:
    reasons.append(f'no tap of {unit.name} tells {mixed} positions apart, and '
                   f'up to {top.MAX_MIXED} can be separated')
  if positions > min(unit.width_in, unit.width):
    reasons.append(f'{unit.name} has {positions} positions, and the ReLUs of '
                   f'up to {min(unit.width_in, unit.width)} can be told apart')
  count = network.num_clips
  if not unit.is_affine and mixed > 1:
    reasons.append(f'{unit.norm.form} norms mix {mixed} positions that no tap '
                   f'of {unit.name} tells apart')
  classes = network.graph.leaf_shapes[network.head.kernel][-1]
  if count > 1 and count > classes - 1:
    reasons.append(f'{count} clips of an update cannot be separated by a head '
                   f'of {classes} classes')
  unknowns = count * math.prod(network.graph.clip_shape)
  graph, left = network.graph, network.blocks[:-network.num_peeled]
  names = [block.source for block in left] or [network.bottom]
  outputs, name = min(
      (num_rounds * count * math.prod(graph.by_name[name].shape), name)
      for name in names)
  if outputs / 2 < MARGIN * unknowns:  # about half of them are on
    reasons.append(
        f'the {unknowns} pixels must be found from about half of the {outputs} '
        f'outputs of {name}: too few; a wider network, a smaller clip or '
        'more rounds would do')
  elif left and num_rounds * left[-1].num_shown < MARGIN * unknowns:
    reasons.append(
        f'the {unknowns} pixels must be found from '
        f'{num_rounds * left[-1].num_shown} '
        f'equations that {left[-1].name} has: too few; a wider network, a '
        'smaller clip or more rounds would do')
  return reasons

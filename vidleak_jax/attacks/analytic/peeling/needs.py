"""What layer peeling needs of a network and a leak, by count."""

import math

from vidleak_jax.attacks.analytic.peeling import facts, lower, top
from vidleak_jax.attacks.analytic.peeling.blocks import Network
from vidleak_jax.types import Leak, Round, UserError
from vidleak_jax.victims.introspection import identifiability

MARGIN = 1.2  # known outputs for each pixel, at least
LIKELY = 0.5  # the same where a prior completes them
_FEWEST = 3   # numbers of a channel whose norm tells one clip from another
LARGEST = 2 ** 16  # numbers of clips to which kernels add; more take hours


def rounds_used(leak: Leak, network: object) -> tuple[Round, ...]:
  """The rounds that are used; which clip is which is known of one alone.

  So is which frame is which, where the walk finds frames in any order; a chain
  is read of one round too.

  Args:
    leak: the client's updates.
    network: its residual blocks, or a chain.
  """
  alone = leak.public.batch_size == 1 and isinstance(
      network, Network) and not network.num_loose
  return leak.rounds() if alone else leak.rounds()[:1]


def shortages(network: Network, num_rounds: int = 1, largest: int = LARGEST
              ) -> list[str]:
  """Returns what is not determined, by count, in so many rounds.

  Args:
    network: the victim.
    num_rounds: of the client.
    largest: numbers of the clips up to which kernels below the solved blocks
      are read.
  """
  reasons, missing = _at_the_top(network), too_few(network, num_rounds)
  if (not missing or outputs_suffice(network, num_rounds)
      or block_suffices(network, num_rounds)):
    return reasons
  more = _of_kernels(network, num_rounds, largest)
  return [*reasons, '; '.join([missing, *more])] if more else reasons


def too_few(network: Network, num_rounds: int = 1) -> str:
  """Returns why the pixels do not follow exactly; '' where they do."""
  count = network.num_clips
  unknowns = count * math.prod(network.graph.clip_shape)
  graph, left = network.graph, network.blocks[:-network.num_peeled]
  names = [block.source for block in left] or [network.bottom]
  outputs, name = min(
      (num_rounds * count * math.prod(graph.by_name[name].shape), name)
      for name in names)
  cure = 'too few; a wider network, a smaller clip or more rounds would do'
  if outputs / 2 < MARGIN * unknowns:  # about half of them are on
    return (f'the {unknowns} pixels must be found from about half of the '
            f'{outputs} outputs of {name}: {cure}')
  if left and num_rounds * left[-1].num_shown < MARGIN * unknowns:
    return (f'the {unknowns} pixels must be found from '
            f'{num_rounds * left[-1].num_shown} equations that {left[-1].name} '
            f'has: {cure}')
  return ''


def outputs_suffice(network: Network, num_rounds: int = 1) -> bool:
  """Whether a prior can complete what is known of the lowest solved block."""
  count = num_rounds * math.prod(network.graph.by_name[network.bottom].shape)
  return count / 2 >= LIKELY * math.prod(network.graph.clip_shape)


def block_suffices(network: Network, num_rounds: int = 1) -> bool:
  """Whether it can complete what the block below the solved ones shows."""
  left = network.blocks[:-network.num_peeled]
  unknowns = network.num_clips * math.prod(network.graph.clip_shape)
  return bool(left) and (
      num_rounds * left[-1].num_shown >= LIKELY * unknowns)


def kernels_suffice(network: Network, num_rounds: int = 1,
                    largest: int = LARGEST) -> bool:
  """Whether it can with what the kernels below say too."""
  return not _of_kernels(network, num_rounds, largest)


def _of_kernels(network, num_rounds, largest):
  """Why they do not suffice."""
  unknowns = network.num_clips * math.prod(network.graph.clip_shape)
  if unknowns > largest:
    return [f'for more than {largest} numbers kernels below the solved blocks '
            'are not read']
  try:
    shown = num_rounds * _below(network)
  except UserError as error:
    return [str(error).rstrip('.')]
  return [f'the kernels below the solved blocks show {shown} more numbers, '
          'which do not suffice either'] * (shown < MARGIN * unknowns)


def _below(network: Network) -> int:
  """Numbers that a round shows below the lowest block that is solved.

  Raises:
    UserError: gradients there are not read.
  """
  left = network.blocks[:-network.num_peeled]
  if network.blocks[-1].entry:
    raise UserError('kernels below blocks of pre-activation are not read')
  source = left[-1].source if left else network.bottom
  part = facts.until(network.graph, {source})
  lower.check(part)
  own = left[-1].num_shown if left else network.num_clips * math.prod(
      network.graph.by_name[source].shape) // 2  # outputs that are on
  return own + sum(
      count.shown for count in identifiability(part, network.num_clips))


def _at_the_top(network: Network) -> list[str]:
  """Why the ReLUs of the last block do not separate."""
  unit = network.top
  reasons = top.shortages(unit)
  mixed, positions = top.max_mixed(unit.geometry), unit.geometry.num_out
  count = network.num_clips
  if not unit.is_affine and mixed > 1:
    reasons.append(f'{unit.norm.form} norms mix {mixed} positions that no tap '
                   f'of {unit.name} tells apart')
  if unit.is_centred and positions < _FEWEST:
    reasons.append(f'{unit.norm.form} norms of {positions} numbers answer the '
                   'same for nearly all clips')
  classes = network.graph.leaf_shapes[network.head.kernel][-1]
  if count > 1 and count > classes - 1:
    reasons.append(f'{count} clips of an update cannot be separated by a head '
                   f'of {classes} classes')
  return reasons

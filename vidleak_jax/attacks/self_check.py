"""Whether a leak and a network belong together, before any attack is run.

Most attacks that find nothing fail for a plain reason: the network was in
another mode, the update has another scale, two layers were mapped the wrong way
round. The update itself shows that, without any knowledge of the clip.
"""

import jax
import numpy as np

from vidleak_jax import trees
from vidleak_jax.attacks.checks import defense, head, inputs, layers
from vidleak_jax.attacks.checks.view import STATISTICS, Finding, View
from vidleak_jax.clients import defenses
from vidleak_jax.types import Leak, Victim

__all__ = ['Finding', 'self_check']

_MAX_UPDATES = 4  # of a leak, that are looked at
_ORDER = ('ok', 'unknown', 'warn', 'mismatch')  # the worst last


def self_check(victim: Victim, leak: Leak) -> tuple[Finding, ...]:
  """Returns what fits and what does not, in plain words.

  Nothing but the victim and the leak is looked at: the clips are unknown. Of a
  leak of many updates the first few are checked; each finding is of the worst.

  Args:
    victim: the network that the leak is said to belong to.
    leak: what the server saw.

  >>> import jax, vidleak_jax as vl
  >>> victim = vl.victims.c3d((4, 16, 16, 3), 7, preset='tiny')
  >>> clips = jax.random.uniform(jax.random.key(0), (1, 4, 16, 16, 3))
  >>> leak = vl.observe(victim, victim.init(jax.random.key(1)), clips, [5])
  >>> {each.status for each in vl.self_check(victim, leak)}
  {'ok'}
  """
  parameters = _parameters(victim, leak)
  if parameters.status == 'mismatch':
    return (parameters,)
  findings = [parameters, _values(leak)]
  worst: dict[str, Finding] = {}
  for index in range(min(leak.num_updates, _MAX_UPDATES)):
    view = View(victim, leak, index)
    for each in (*layers.check(view), *head.check(view), inputs.check(view),
                 defense.check(view)):
      before = worst.get(each.name)
      if before is None or (
          _ORDER.index(each.status) > _ORDER.index(before.status)):
        worst[each.name] = each
  return (*findings, *worst.values())


def _parameters(victim: Victim, leak: Leak) -> Finding:
  """Leaves and shapes of the network against those of the leak."""
  shapes = jax.eval_shape(victim.init, jax.random.key(0))
  expected = {k: tuple(v.shape) for k, v in trees.flatten(shapes).items()}
  found = {k: tuple(np.shape(v))
           for k, v in trees.flatten(leak.params).items()}
  wrong = [f'{name}: leak {found.get(name, "absent")}, victim '
           f'{expected.get(name, "absent")}'
           for name in sorted(expected.keys() | found.keys())
           if expected.get(name) != found.get(name)]
  if wrong:
    more = f' and {len(wrong) - 6} more' * (len(wrong) > 6)
    return Finding('parameters', 'mismatch', f'{len(wrong)} leaves do not fit: '
                   f'{"; ".join(wrong[:6])}{more}. Choose the network, preset '
                   'and number of classes of the client.')
  if tuple(leak.public.clip_shape) != tuple(victim.clip_shape):
    return Finding('parameters', 'mismatch', 'The leak is of clips '
                   f'{leak.public.clip_shape}, the victim takes '
                   f'{victim.clip_shape}.')
  return Finding('parameters', 'ok',
                 f'All {len(expected)} leaves have the shapes of the network.')


def _values(leak: Leak) -> Finding:
  """Leaves that say nothing, and statistics that should have no gradient."""
  leaves = trees.flatten(leak.update)
  moved = [name for name, leaf in leaves.items()
           if name.startswith(STATISTICS) and np.any(leaf)]
  noise = leak.public.defense and defenses.noise_std_of(
      leak.public.defense, leak.public.batch_size)
  if moved and not noise:
    return Finding('update', 'mismatch', f'{len(moved)} running statistics of '
                   'BatchNorm moved: the client was in training mode. Use a '
                   'victim with norm=batch, and leave them out of the update.')
  empty = [name for name, leaf in leaves.items()
           if not name.startswith(STATISTICS) and not np.any(leaf)]
  if empty:
    more = ' ...' * (len(empty) > 4)
    return Finding('update', 'warn', f'{len(empty)} of {len(leaves)} leaves '
                   f'are 0 throughout: {", ".join(empty[:4])}{more}. They were '
                   'frozen, left out, or never reached by the gradient.')
  return Finding('update', 'ok', 'Every leaf carries numbers.')

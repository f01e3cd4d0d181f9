"""A user's own network, named by where its code is."""

import inspect

from vidleak_jax import user_code
from vidleak_jax.types import UserError, Victim
from vidleak_jax.victims import base


def from_factory(
    name: str, clip_shape: tuple[int, ...], num_classes: int
) -> Victim:
  """Returns the victim that a user's function makes.

  This runs the user's code, so the name must never come from a foreign leak.

  Args:
    name: `path/to/file.py:make` or `package.module:make`. The function returns
      a Flax module or a `Victim`; where it takes `clip_shape` or
      `num_classes`, it gets them.
    clip_shape: (T, H, W, C).
    num_classes: K.

  Raises:
    UserError: where there is no such file, module or function, or it returns
      something else.
  """
  make = user_code.load(name, 'victim.factory')
  wanted = {'clip_shape': tuple(clip_shape), 'num_classes': num_classes}
  taken = inspect.signature(make).parameters
  if not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
    wanted = {k: v for k, v in wanted.items() if k in taken}
  made = make(**wanted)
  if isinstance(made, Victim):
    if made.clip_shape != tuple(clip_shape):
      raise UserError(f'{name} made a victim for clips {made.clip_shape}, but '
                      f'the run has {tuple(clip_shape)}. Set data.num_frames '
                      'and data.image_size to match.')
    return made
  return base.from_flax(made, clip_shape, num_classes)

"""The client's networks: one a file, each behind `types.Victim`."""

from vidleak_jax.types import Victim, pick
from vidleak_jax.victims.c3d import c3d
from vidleak_jax.victims.layers import ACTIVATIONS
from vidleak_jax.victims.lenet import lenet

VICTIMS = {
    'c3d': c3d,
    'lenet': lenet,
}


def build(
    name: str,
    clip_shape: tuple[int, ...],
    num_classes: int,
    *,
    activation: str | None = None,
    **options,
) -> Victim:
  """The victim called `name`; options left None keep the network's own.

  Raises:
    UserError: for an unknown name, preset or activation.
  """
  factory = pick(VICTIMS, name, 'victim')
  if activation is not None:
    pick(ACTIVATIONS, activation, 'activation')
    options['activation'] = activation
  options = {k: v for k, v in options.items() if v is not None}
  return factory(tuple(clip_shape), num_classes, **options)

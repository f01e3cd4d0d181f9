"""The client's networks: one a file, each behind `types.Victim`."""

import inspect
import os

from vidleak_jax.models import weights
from vidleak_jax.models.c3d_full import NAMES as C3D_NAMES
from vidleak_jax.models.heads import HEADS
from vidleak_jax.models.layers import ACTIVATIONS, LOWERINGS
from vidleak_jax.models.norms import NORMS
from vidleak_jax.types import Params, UserError, Victim, pick
from vidleak_jax.victims.c3d import c3d
from vidleak_jax.victims.cnn_gru import NAMES as CNN_GRU_NAMES
from vidleak_jax.victims.cnn_gru import cnn_gru
from vidleak_jax.victims.frozen import frozen
from vidleak_jax.victims.lenet import lenet
from vidleak_jax.victims.resnet3d import (
  R2PLUS1D18_NAMES,
  R3D18_NAMES,
  r2plus1d18,
  r3d18,
)
from vidleak_jax.victims.timesformer import NAMES as TIMESFORMER_NAMES
from vidleak_jax.victims.timesformer import timesformer
from vidleak_jax.victims.videomae import NAMES as VIDEOMAE_NAMES
from vidleak_jax.victims.videomae import videomae
from vidleak_jax.victims.vivit import NAMES as VIVIT_NAMES
from vidleak_jax.victims.vivit import vivit

VICTIMS = {
    'c3d': c3d,
    'cnn_gru': cnn_gru,
    'frozen': frozen,
    'lenet': lenet,
    'r2plus1d18': r2plus1d18,
    'r3d18': r3d18,
    'timesformer': timesformer,
    'videomae': videomae,
    'vivit': vivit,
}
# How the keys of published weights become paths in params, for `weights.load`.
NAME_MAPS = {
    'c3d': C3D_NAMES,
    'cnn_gru': CNN_GRU_NAMES,
    'frozen': (),  # its extractor is read by the victim itself
    'lenet': (),
    'r2plus1d18': R2PLUS1D18_NAMES,
    'r3d18': R3D18_NAMES,
    'timesformer': TIMESFORMER_NAMES,
    'videomae': VIDEOMAE_NAMES,
    'vivit': VIVIT_NAMES,
}


def build(
    name: str,
    clip_shape: tuple[int, ...],
    num_classes: int,
    *,
    activation: str | None = None,
    norm: str | None = None,
    lowering: str = 'matmul',
    **options,
) -> Victim:
  """The victim called `name`; options left None keep the network's own.

  Raises:
    UserError: for an unknown name, preset, activation, norm or option.
  """
  factory = pick(VICTIMS, name, 'victim')
  if activation is not None:
    pick(ACTIVATIONS, activation, 'activation')
  if norm is not None:
    pick(NORMS, norm, 'norm')
  pick(LOWERINGS, lowering, 'convolution lowering')
  options |= {'activation': activation, 'norm': norm}
  options = {k: v for k, v in options.items() if v is not None}
  allowed = inspect.signature(factory).parameters
  for option in options:
    if option not in allowed:
      raise UserError(
          f'The victim {name} has no option {option!r}. It takes: '
          f'{", ".join(list(allowed)[2:])}. Leave victim.{option} at None.')
  if 'lowering' in allowed:  # a network without convolutions takes none
    options['lowering'] = lowering
  return factory(tuple(clip_shape), num_classes, **options)


def natural_message(name: str, head: str | None = None, **_: object) -> str:
  """What one gradient should cover for a closed form: a frame or a clip."""
  single = name == 'lenet'
  if name == 'frozen':
    single = pick(HEADS, head or 'classifier1', 'head').takes_mean
  return 'frame' if single else 'clip'


def resolve(name: str, num_classes: int, **options) -> dict[str, object]:
  """What `build` will be asked, with each option that is None spelled out.

  Args:
    name: of the victim.
    num_classes: K.
    **options: some may be None, or not apply to this victim while None.
  """
  defaults = {
      option: parameter.default for option, parameter
      in inspect.signature(pick(VICTIMS, name, 'victim')).parameters.items()
      if parameter.default is not inspect.Parameter.empty}
  defaults.pop('lowering', None)  # the attacker's own choice
  given = {k: v for k, v in options.items() if v is not None}
  return {'name': name, 'num_classes': num_classes, **defaults, **given}


def load(name: str, params: Params, path: str | os.PathLike) -> Params:
  """The params of the victim `name` with the weights of a file.

  Args:
    name: of the victim.
    params: of its `init`.
    path: what `launch/train_victim.py` wrote, or published weights.

  Raises:
    UserError: for a file that cannot be read, that lacks weights of this
      victim, or has one of another shape.
  """
  params, report = weights.load(params, path, NAME_MAPS[name])
  weights.require_all(report, path)
  return params

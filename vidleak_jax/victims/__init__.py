"""The client's networks: your own, or published ones, one a file.

To add a published network: its file, and its line in `NETWORKS`.
"""

import functools
import inspect
import os
from collections.abc import Callable
from typing import NamedTuple

from vidleak_jax.models import weights
from vidleak_jax.models.c3d_full import NAMES as C3D_NAMES
from vidleak_jax.models.heads import HEADS
from vidleak_jax.models.layers import ACTIVATIONS, LOWERINGS
from vidleak_jax.models.norms import NORMS
from vidleak_jax.models.weights import Names
from vidleak_jax.specs import VictimSpec
from vidleak_jax.types import Params, UserError, Victim, pick
from vidleak_jax.victims import c3d as c3d_file
from vidleak_jax.victims import (
  cnn_gru,
  frozen,
  lenet,
  resnet3d,
  timesformer,
  videomae,
  vivit,
)
from vidleak_jax.victims.base import from_flax, from_loss
from vidleak_jax.victims.factory import from_factory
from vidleak_jax.victims.losses import cross_entropy

__all__ = ['NETWORKS', 'build', 'cross_entropy', 'from_factory', 'from_flax',
           'from_loss', 'from_spec', 'load', 'natural_message', 'resolve']


class Network(NamedTuple):
  """A published network."""
  make: Callable[..., Victim]  # (clip_shape, num_classes, **options)
  names: Names = ()  # how keys of published weights become paths in params


NETWORKS = {
    'c3d': Network(c3d_file.c3d, C3D_NAMES),
    'cnn_gru': Network(cnn_gru.cnn_gru, cnn_gru.NAMES),
    'frozen': Network(frozen.frozen),  # reads its extractor's weights itself
    'lenet': Network(lenet.lenet),
    'r2plus1d18': Network(resnet3d.r2plus1d18, resnet3d.R2PLUS1D18_NAMES),
    'r3d18': Network(resnet3d.r3d18, resnet3d.R3D18_NAMES),
    'timesformer': Network(timesformer.timesformer, timesformer.NAMES),
    'videomae': Network(videomae.videomae, videomae.NAMES),
    'vivit': Network(vivit.vivit, vivit.NAMES),
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
  """Returns the published network of that name.

  Options left None keep the network's own; `vl.victims.NAME(...)` is the same.

  Raises:
    UserError: for an unknown name, preset, activation, norm or option.

  >>> import vidleak_jax as vl
  >>> vl.victims.build('c3d', (4, 16, 16, 3), 7, preset='tiny').num_classes
  7
  """
  make = pick(NETWORKS, name, 'victim').make
  if activation is not None:
    pick(ACTIVATIONS, activation, 'activation')
  if norm is not None:
    pick(NORMS, norm, 'norm')
  pick(LOWERINGS, lowering, 'convolution lowering')
  options |= {'activation': activation, 'norm': norm}
  options = {k: v for k, v in options.items() if v is not None}
  allowed = inspect.signature(make).parameters
  for option in options:
    if option not in allowed:
      raise UserError(
          f'The victim {name} has no option {option!r}. It takes: '
          f'{", ".join(list(allowed)[2:])}. Leave victim.{option} at None.')
  chosen = resolve(name, num_classes, **options)
  if 'lowering' in allowed:  # a network without convolutions takes none
    options['lowering'] = lowering
  victim = make(tuple(clip_shape), num_classes, **options)
  return victim.replace(spec=VictimSpec(**chosen), lowering=lowering)


def from_spec(
    spec: VictimSpec, clip_shape: tuple[int, ...], lowering: str = 'matmul'
) -> Victim:
  """Returns the victim that a spec describes; a factory's code is run.

  Raises:
    UserError: as `build` or `from_factory`.
  """
  if spec.factory:
    made = from_factory(spec.factory, clip_shape, spec.num_classes)
    return made.replace(spec=spec)
  return build(spec.name, clip_shape, spec.num_classes, lowering=lowering,
               **spec.network_options())


def natural_message(spec: VictimSpec) -> str:
  """Returns what one update should cover for an analytic attack."""
  if spec.factory:
    return 'clip'
  single = spec.name == 'lenet'
  if spec.name == 'frozen':
    single = pick(HEADS, spec.head or 'classifier1', 'head').takes_mean
  return 'frame' if single else 'clip'


def resolve(name: str, num_classes: int, **options) -> dict[str, object]:
  """Returns what `build` will be asked, the network's own defaults spelled out.

  Args:
    name: of the victim.
    num_classes: K.
    **options: some may be None, or not apply to this victim while None.
  """
  make = pick(NETWORKS, name, 'victim').make
  defaults = {option: parameter.default for option, parameter
              in inspect.signature(make).parameters.items()
              if parameter.default is not inspect.Parameter.empty}
  defaults.pop('lowering', None)  # the attacker's own choice
  given = {k: v for k, v in options.items() if v is not None}
  return {'name': name, 'num_classes': num_classes, **defaults, **given}


def load(name: str, params: Params, path: str | os.PathLike) -> Params:
  """Returns the params of the victim `name` with the weights of a file.

  Args:
    name: of the victim.
    params: of its `init`.
    path: what `launch/train_victim.py` wrote, or published weights.

  Raises:
    UserError: for a file that cannot be read, that lacks weights of this
      victim, or has one of another shape.
  """
  names = NETWORKS[name].names if name in NETWORKS else ()
  params, report = weights.load(params, path, names)
  weights.require_all(report, path)
  return params


def _public(name):
  """`build` for one network, with the documentation of its own function."""
  @functools.wraps(NETWORKS[name].make)
  def make(clip_shape, num_classes, **options):
    return build(name, clip_shape, num_classes, **options)
  return make


# vl.victims.c3d(...) and its like: one function a network.
for _name in NETWORKS:
  globals()[_name] = _public(_name)

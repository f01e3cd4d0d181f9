"""Whether attacks find as much in less precision: PSNR on a made-up clip."""

import functools
from collections.abc import Iterator

import jax
import numpy as np

from probes import Probe, Size
from vidleak_jax import attacks, victims
from vidleak_jax.clients import observe
from vidleak_jax.evaluation import metrics
from vidleak_jax.models.resnet import ResNet, Style
from vidleak_jax.models.resnet import Size as Widths
from vidleak_jax.runtime import backend
from vidleak_jax.runtime.session import session
from vidleak_jax.types import UserError, Victim

PRECISIONS = {'float32': 'highest', 'default (TF32 on a GPU)': 'default',
              'bfloat16 products': 'BF16_BF16_F32'}
_CLASSES, _LABEL = 10, 3
_PEELED = Widths((3, 3, 3), (1, 2, 2), 48, (48, 64), (1, 1))
_PEELED_SHAPE = (4, 8, 8, 3)


def plan(size: Size) -> Iterator[Probe]:
  """Yields two attacks in each precision, then layer peeling in float64."""
  for name in ('feature_matching', 'ig'):
    for kind in PRECISIONS:
      label = {'name': 'psnr', 'attack': name, 'precision': kind,
               'victim': f'c3d/{size.preset}', 'shape': list(size.clip),
               'steps': size.steps}
      yield Probe('psnr', label, 60, functools.partial(
          recover, name, kind, size))
  yield Probe('psnr', {'name': 'peeling', 'shape': list(_PEELED_SHAPE)}, 90,
              peel)


def moving_shapes(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
  """Returns a made-up clip [T, H, W, C] in [0, 1] of 256 levels.

  Discs with soft edges cross a background of waves; nothing of it comes from a
  data set.
  """
  rng = np.random.default_rng(seed)
  frames, height, width, colours = shape
  y, x = np.mgrid[:height, :width] / (height, width)[0]
  clip = np.empty(shape)
  waves = rng.uniform(1, 4, (colours, 2))
  discs = [(rng.uniform(0.2, 0.8, 2), rng.uniform(-0.3, 0.3, 2),
            rng.uniform(0.1, 0.3), rng.uniform(size=colours)) for _ in range(4)]
  for t in range(frames):
    angles = 2 * np.pi * (waves[:, 0] * x[..., None] + waves[:, 1]
                          * y[..., None] + t / (2 * frames))
    frame = 0.5 + 0.25 * np.sin(angles)
    for centre, speed, radius, colour in discs:
      row, column = centre + speed * t / frames
      distance = np.hypot(y - row, x - column)
      inside = 1 / (1 + np.exp((distance - radius) * 40))[..., None]
      frame = (1 - inside) * frame + inside * colour
    clip[t] = frame
  return np.round(255 * clip.clip(0, 1)).astype(np.float32) / 255


def recover(name: str, kind: str, size: Size) -> dict:
  """Returns the PSNR of an attack whose products are less precise.

  The leak itself is a client's in float32.
  """
  choices = backend.choose(jax.devices()[0].platform)
  victim = victims.build('c3d', size.clip, _CLASSES, preset=size.preset,
                         lowering=choices.lowering, activation='gelu')
  attack = attacks.ATTACKS[name](num_steps=size.steps)
  return _run(victim, moving_shapes(size.clip), attack,
              choices._replace(precision=PRECISIONS[kind]))


def peel() -> dict:
  """Returns the PSNR of layer peeling, and where float64 was computed."""
  module = ResNet(_PEELED, Style('relu', 'fixed', 'lax'), _CLASSES)
  victim = Victim.from_flax(module, _PEELED_SHAPE, _CLASSES)
  with backend.float64() as device:
    where = device.platform
  return {'float64_on': where, **_run(
      victim, moving_shapes(_PEELED_SHAPE), attacks.ATTACKS['peeling'](),
      backend.choose(jax.devices()[0].platform))}


def _run(victim, clip, attack, choices) -> dict:
  with backend.settings(choices._replace(precision='highest')):
    leak = observe(victim, victim.init(jax.random.key(0)), clip[None],
                   [_LABEL])
  problem = attacks.Problem(victim, leak, jax.random.key(1), session(
      jax.devices()[:1], **choices._asdict()))
  with backend.settings(choices):
    outcome, = attacks.solve([problem], [attack], attacks.Effort())
  if isinstance(outcome, UserError):
    raise outcome
  found = outcome.recovery
  mean = np.broadcast_to(clip.mean((0, 1, 2)), clip.shape)
  return {'psnr': float(metrics.psnr(found.clips[0, 0], clip).mean()),
          'psnr_mean_colour': float(metrics.psnr(mean, clip).mean()),
          'gradient_residual': float(found.gradient_residual[0]),
          'seconds_compile': outcome.cost.seconds_compile,
          'seconds_attack': outcome.cost.seconds_attack}

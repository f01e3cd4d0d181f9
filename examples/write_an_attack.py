"""An attack in 30 lines: a first dense layer gives the clip by a division.

  python examples/write_an_attack.py

For one clip x the layer `x @ kernel + bias` has the gradients x e^T and e, with
the errors e of its outputs; their quotient is x. From the command line the same
class is tried beside the shipped attacks, on a network with such a layer:

  vidleak attack --config=quickstart --workdir=runs/division \
      --config.victim.factory=examples/write_an_attack.py:make \
      --config.attack.factory=examples/write_an_attack.py:Division
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import numpy as np

import vidleak_jax as vl
from vidleak_jax import data
from vidleak_jax.attacks.base import Attack, Cost, Outcome, needs_one_clip
from vidleak_jax.options import option
from vidleak_jax.types import Recovery


@dataclasses.dataclass(frozen=True)
class Division(Attack):
  """Divides the two gradients of a first dense layer."""
  name: ClassVar[str] = 'division'
  cost: ClassVar[int] = 1  # auto tries the cheaper first
  layer: str = option('Dense_0', 'which layer sees the clip')

  def requires(self, victim, leak):
    """Returns the reasons why it does not apply."""
    found = leak.update.get(self.layer, {})
    if np.ndim(found.get('kernel')) != 3 or 'bias' not in found:  # [M, in, out]
      return [f'{self.layer} is no dense layer with a bias']
    if found['kernel'].shape[1] != np.prod(leak.public.clip_shape):
      return [f'{self.layer} does not see every pixel']
    return needs_one_clip(leak)

  def run(self, problem, effort):
    """Returns what the attack recovers."""
    found = problem.leak.update[self.layer]
    kernel, bias = np.asarray(found['kernel']), np.asarray(found['bias'])
    rows, best = np.arange(len(bias)), np.argmax(np.abs(bias), axis=1)
    clips = kernel[rows, :, best] / bias[rows, best][:, None]
    shape = len(bias), 1, *problem.leak.public.clip_shape
    return Outcome(Recovery(np.clip(clips, 0, 1).reshape(shape),
                            np.zeros(shape[:2], np.int32),
                            np.full(len(bias), np.nan)), Cost(), {})


class Net(nn.Module):
  """Dense layers alone: clips [B, T, H, W, C] in [0, 1] to logits [B, K]."""
  num_classes: int

  @nn.compact
  def __call__(self, clips):
    x = nn.relu(nn.Dense(64)(clips.reshape(len(clips), -1)))
    return nn.Dense(self.num_classes)(x)


def make(num_classes):
  """Returns the network; the command line calls it."""
  return Net(num_classes)


def main(num_frames=8, image_size=32):
  """Attacks one clip in memory; returns the scores."""
  sample = data.load('photo_motion', num_clips=1, num_frames=num_frames,
                     frame_stride=2, image_size=image_size,
                     original_size=image_size, seed=0)
  clips, labels = sample.batch
  victim = vl.Victim.from_flax(make(10), clips.shape[1:], num_classes=10)
  leak = vl.observe(victim, victim.init(jax.random.key(0)), clips, labels % 10)
  found = vl.attack(victim, leak, Division(), key=jax.random.key(1))
  scores = vl.evaluate(found, clips, unrelated=sample.unrelated)
  print(f'{scores.psnr[0]:.1f} dB, {scores.num_exact} exact (mean colour '
        f'{scores.psnr_mean_frame[0]:.1f} dB); gradient residual '
        f'{found.gradient_residual[0]:.1e}')
  return scores


if __name__ == '__main__':
  main()

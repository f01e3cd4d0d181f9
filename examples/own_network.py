"""Audit your own network: a module that the package has never seen.

  python examples/own_network.py
  python launch/attack.py --config=configs/quickstart.py --workdir=runs/own \
      --config.victim.factory=examples/own_network.py:make
"""

import flax.linen as nn
import jax

import vidleak_jax as vl
from vidleak_jax import data


class Net(nn.Module):
  """A small 3-D CNN: clips [B, T, H, W, C] in [0, 1] to logits [B, K]."""
  num_classes: int

  @nn.compact
  def __call__(self, clips):
    x = nn.Conv(32, (3, 3, 3), strides=(1, 2, 2))(2 * clips - 1)
    x = nn.leaky_relu(x)
    x = nn.Conv(48, (3, 3, 3), strides=(2, 2, 2))(x)
    x = nn.leaky_relu(x)
    return nn.Dense(self.num_classes)(x.reshape(len(x), -1))


def make(num_classes):
  """Returns the network; the command line calls it."""
  return Net(num_classes)


def main():
  """Attacks one clip in memory; returns the scores."""
  victim = vl.Victim.from_flax(make(10), clip_shape=(8, 32, 32, 3),
                               num_classes=10)
  sample = data.load('photo_motion', num_clips=1, num_frames=8, frame_stride=2,
                     image_size=32, original_size=32, seed=0)
  clips, labels = sample.batch
  params = victim.init(jax.random.key(0))

  leak = vl.observe(victim, params, clips, labels % 10)
  for name, reasons in vl.applicable(victim, leak).items():
    print(f'{name:18}{"; ".join(reasons) or "applies"}')
  found = vl.attack(victim, leak, 'auto', key=jax.random.key(1))
  scores = vl.evaluate(found, clips, unrelated=sample.unrelated)
  print(f'{found.verdict} by {found.attack}: {scores.psnr[0]:.1f} dB '
        f'(mean colour {scores.psnr_mean_frame[0]:.1f}, unrelated clip '
        f'{scores.psnr_unrelated[0]:.1f})')
  return scores


if __name__ == '__main__':
  main()

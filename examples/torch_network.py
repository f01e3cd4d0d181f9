"""A torch module and its update: what a server sees of a torch client.

  pip install "vidleak_jax[torch]"
  python examples/torch_network.py

The client below is plain torch. The attacker makes the same module a JAX
function, by `Victim.from_torch`, and attacks the gradients that torch computed.
"""

import jax
import numpy as np
import torch

import vidleak_jax as vl
from vidleak_jax import data


def make(num_classes, clip_shape):
  """Returns the client's network, for clips [B, C, T, H, W]."""
  frames, rows, columns, colours = clip_shape
  return torch.nn.Sequential(
      torch.nn.Conv3d(colours, 24, 3, stride=(1, 2, 2), padding=1),
      torch.nn.LeakyReLU(),
      torch.nn.Conv3d(24, 32, 3, stride=(2, 2, 2), padding=1),
      torch.nn.LeakyReLU(),
      torch.nn.Flatten(),
      torch.nn.Linear(32 * (frames // 2) * (rows // 4) * (columns // 4),
                      num_classes))


def train(module, clips, labels):
  """Leaves the gradient of the mean loss in the module, as torch does."""
  inputs = torch.from_numpy(np.moveaxis(clips, -1, 1).copy())
  loss = torch.nn.functional.cross_entropy(
      module(inputs), torch.from_numpy(labels).long())
  loss.backward()


def main(num_frames=4, image_size=16, attack='auto'):
  """Attacks one clip of a torch client; returns the scores."""
  torch.manual_seed(0)
  sample = data.load('photo_motion', num_clips=1, num_frames=num_frames,
                     frame_stride=2, image_size=image_size,
                     original_size=image_size, seed=0)
  clips, labels = sample.batch
  module = make(10, clips.shape[1:]).eval()
  train(module, clips, labels % 10)

  victim = vl.Victim.from_torch(module, clips.shape[1:], num_classes=10)
  leak = vl.leaks.from_torch(victim, module, gradient=module)
  found = vl.attack(victim, leak, attack, key=jax.random.key(1))
  scores = vl.evaluate(found, clips, unrelated=sample.unrelated)
  print(f'{found.attack}: {scores.psnr[0]:.1f} dB (mean colour '
        f'{scores.psnr_mean_frame[0]:.1f}, unrelated clip '
        f'{scores.psnr_unrelated[0]:.1f})')
  return scores


if __name__ == '__main__':
  main()

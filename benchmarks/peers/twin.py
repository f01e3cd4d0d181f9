"""The victim once more, in torch: same weights, same objective."""

import numpy as np
import torch
from torch import nn

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
torch.backends.cudnn.allow_tf32 = False  # float32 means float32 for all


class Twin(nn.Module):
  """A `c3d` with GELU, channels first."""

  def __init__(self, problem):
    super().__init__()
    kernels = [problem.params[f'conv{i}']['kernel'].shape
               for i in range(len(problem.strides))]
    self.convs = nn.ModuleList(
        nn.Conv3d(inputs, outputs, window, strides, [k // 2 for k in window])
        for (*window, inputs, outputs), strides
        in zip(kernels, problem.strides))
    self.head = nn.Linear(*problem.params['head']['kernel'].shape)
    with torch.no_grad():
      given = tensors(problem, problem.params)
      for own, value in zip(self.parameters(), given):
        own.copy_(value)
    self.to(DEVICE)

  def forward(self, clips):
    for conv in self.convs:
      clips = nn.functional.gelu(conv(clips), approximate='tanh')
    return self.head(clips.flatten(1))


def tensors(problem, tree) -> list[torch.Tensor]:
  """A tree like the victim's params, in the order of `Twin.parameters()`."""
  out = []
  for i in range(len(problem.strides)):
    layer = tree[f'conv{i}']
    out += [np.moveaxis(layer['kernel'], (-1, -2), (0, 1)), layer['bias']]
  # Its inputs are flattened channels last there, and channels first here.
  kernel = tree['head']['kernel']
  kernel = kernel.reshape(*problem.victim.layers[-1].in_shape, -1)
  kernel = np.moveaxis(kernel, -2, 0).reshape(-1, kernel.shape[-1]).T
  out += [kernel, tree['head']['bias']]
  return [torch.tensor(np.ascontiguousarray(x), device=DEVICE) for x in out]


def to_clip(x: np.ndarray) -> torch.Tensor:
  """[T, H, W, C] to [1, C, T, H, W]."""
  clip = np.ascontiguousarray(np.moveaxis(x, -1, 0)[None])
  return torch.tensor(clip, device=DEVICE)


def from_clip(x: torch.Tensor) -> np.ndarray:
  """The inverse of `to_clip`."""
  return np.moveaxis(x.detach().cpu().numpy()[0], 0, -1)


def cosine(gradient, target) -> torch.Tensor:
  """1 - cosine over all parameters."""
  dot = sum((g * t).sum() for g, t in zip(gradient, target))
  square = sum((g * g).sum() for g in gradient)
  return 1 - dot / (square * sum((t * t).sum() for t in target)).sqrt()


def wait() -> None:
  """Until the device has done all its work."""
  if DEVICE.type == 'cuda':
    torch.cuda.synchronize()

"""The victim once more, in torch: same weights, same objective."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad

from peers import networks
from vidleak_jax.models.weights import rename
from vidleak_jax.types import pick

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
torch.backends.cudnn.allow_tf32 = False  # float32 means float32 for all


class Twin(nn.Module):
  """The victim of a problem, channels first: [B, C, T, H, W] to [B, K]."""

  def __init__(self, problem):
    super().__init__()
    make, self.names = pick(networks.NETWORKS, problem.network[0],
                            'victim of the peers')
    self.network = make(problem)
    layers = problem.victim.layers
    self.flattened = layers[-1].in_shape if layers else ()
    with torch.no_grad():
      given = self.tensors(problem.params)
      for own, value in zip(self.parameters(), given):
        own.copy_(value)
    self.to(DEVICE).eval()

  def forward(self, clips):
    return self.network(clips)

  def tensors(self, tree) -> list[torch.Tensor]:
    """A tree like the victim's params, in the order of `parameters()`."""
    out = []
    for key, own in self.network.named_parameters():
      path = rename(key, own.ndim, self.names).split('/')
      leaf = functools.reduce(dict.__getitem__, path, tree)
      if path == ['head', 'kernel'] and self.flattened:
        # Its inputs are flattened channels last there, channels first here.
        leaf = leaf.reshape(*self.flattened, -1)
        leaf = np.moveaxis(leaf, -2, 0).reshape(-1, leaf.shape[-1])
      if path[-1] == 'kernel':
        outputs, inputs, *window = own.shape
        leaf = leaf.reshape(*window, inputs, outputs)
        leaf = np.moveaxis(leaf, (-1, -2), (0, 1))
      out.append(torch.tensor(np.ascontiguousarray(leaf), device=DEVICE))
    return out


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


def matching(problem) -> Callable[[torch.Tensor], torch.Tensor]:
  """Returns clip -> objective; torch.func can take its gradient and vmap it."""
  model = Twin(problem)
  params = {name: p.detach() for name, p in model.named_parameters()}
  target = model.tensors(problem.update)
  label = torch.tensor([problem.label], device=DEVICE)

  def loss(params, clip):
    logits = functional_call(model, params, (clip,))
    return nn.functional.cross_entropy(logits, label)

  def match(clip):
    gradient = grad(loss)(params, clip)
    return cosine(list(gradient.values()), target)

  return match


def wait() -> None:
  """Until the device has done all its work."""
  if DEVICE.type == 'cuda':
    torch.cuda.synchronize()

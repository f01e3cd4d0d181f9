"""torch.compile over the whole gradient of the objective.

It cannot trace a double backward of autograd's, but it can one of torch.func's.
"""

import time

import torch
from torch.func import functional_call, grad

import peers
from peers import torch_eager, twin


def build(problem, restarts: int) -> peers.Runner:
  model = twin.Twin(problem)
  params = {name: p.detach() for name, p in model.named_parameters()}
  target = model.tensors(problem.update)
  label = torch.tensor([problem.label], device=twin.DEVICE)

  def loss(params, clip):
    logits = functional_call(model, params, (clip,))
    return torch.nn.functional.cross_entropy(logits, label)

  def match(clip):
    gradient = grad(loss)(params, clip)
    return twin.cosine(list(gradient.values()), target)

  compiled = torch.compile(grad(match))

  def slope(clip):
    return compiled(clip.detach())

  began = time.perf_counter()
  slope(twin.to_clip(problem.guess))
  twin.wait()
  seconds = time.perf_counter() - began
  return torch_eager.runner(problem, restarts, slope, seconds)

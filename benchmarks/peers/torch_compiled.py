"""torch.compile over the whole gradient of the objective.

It cannot trace a double backward of autograd's, but it can one of torch.func's.
"""

import time

import torch
from torch.func import grad

import peers
from peers import torch_eager, twin


def build(problem, restarts: int) -> peers.Runner:
  compiled = torch.compile(grad(twin.matching(problem)))

  def slope(clip):
    return compiled(clip.detach())

  began = time.perf_counter()
  slope(twin.to_clip(problem.guess))
  twin.wait()
  seconds = time.perf_counter() - began
  return torch_eager.runner(problem, restarts, slope, seconds)

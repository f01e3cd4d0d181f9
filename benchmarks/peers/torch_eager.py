"""Bare PyTorch: double backward and Adam, one restart after another."""

import torch

import peers
from peers import twin


def build(problem, restarts: int) -> peers.Runner:
  model = twin.Twin(problem)
  params = list(model.parameters())
  target = model.tensors(problem.update)
  label = torch.tensor([problem.label], device=twin.DEVICE)

  def slope(clip):
    loss = torch.nn.functional.cross_entropy(model(clip), label)
    gradient = torch.autograd.grad(loss, params, create_graph=True)
    return torch.autograd.grad(twin.cosine(gradient, target), clip)[0]

  return runner(problem, restarts, slope, None)


def runner(problem, restarts, slope, seconds_compile) -> peers.Runner:
  """Adam over `slope`, the gradient of the objective by the clip."""
  guess = twin.to_clip(problem.guess).requires_grad_()
  clips = [guess.detach().clone().requires_grad_() for _ in range(restarts)]
  optimizers = [torch.optim.Adam([clip], problem.learning_rate)
                for clip in clips]

  def run(num_steps):
    for clip, optimizer in zip(clips, optimizers):
      for _ in range(num_steps):
        clip.grad = slope(clip)
        optimizer.step()
    twin.wait()

  return peers.Runner(run, twin.from_clip(slope(guess)), seconds_compile,
                      torch.__version__)

"""breaching: its own attacker, objective and loop, fed with a clip.

It has no video, but nothing in it asks for images once the box and the total
variation are off. It runs restarts one after another.
"""

import contextlib
import importlib.metadata
import logging
import sys
from types import SimpleNamespace

import breaching
import torch

import peers
from peers import twin


def build(problem, restarts: int) -> peers.Runner:
  logging.getLogger('breaching').setLevel(logging.WARNING)
  with contextlib.redirect_stdout(sys.stderr):  # it announces the config
    config = breaching.get_attack_config('invertinggradients', [
        'optim.signed=null', 'optim.boxed=False',
        f'optim.step_size={problem.learning_rate}',
        'optim.step_size_decay=null', 'optim.callback=1000000',
        'regularization.total_variation.scale=0'])
  setup = {'device': twin.DEVICE, 'dtype': torch.float32}
  model = twin.Twin(problem)
  attacker = breaching.attacks.prepare_attack(
      model, torch.nn.CrossEntropyLoss(), config, setup)
  models, labels, stats = attacker.prepare_attack(
      *_messages(problem, model))
  leaks = _messages(problem, model)[1]

  def run(num_steps):
    attacker.cfg.optim.max_iterations = num_steps
    for trial in range(restarts):
      attacker._run_trial(models, leaks, labels, stats, trial)
    twin.wait()

  run(1)  # also binds the objective to the loss
  guess = twin.to_clip(problem.guess).requires_grad_()
  value = attacker.objective(models[0], leaks[0]['gradients'], guess, labels)[0]
  gradient = twin.from_clip(torch.autograd.grad(value, guess)[0])
  return peers.Runner(run, gradient, None,
                      importlib.metadata.version('breaching'))


def _messages(problem, model):
  """What its server knows and what its user sends."""
  shape = twin.to_clip(problem.clip).shape[1:]
  server = [{
      'parameters': model.tensors(problem.params), 'buffers': [],
      'metadata': SimpleNamespace(shape=shape, modality='vision')}]
  user = [{
      'gradients': model.tensors(problem.update), 'buffers': [],
      'metadata': {'num_data_points': 1, 'local_hyperparams': None,
                   'labels': torch.tensor([problem.label],
                                          device=twin.DEVICE)}}]
  return server, user

"""The engine's own step, as the attacks run it."""

import time

import jax
import numpy as np
import peers
import problem as problems

from vidleak_jax.attacks.matching import restarts
from vidleak_jax.runtime import parallel
from vidleak_jax.types import Guess, UserError


def build(problem, num_restarts, choices, devices) -> peers.Runner:
  """The engine's step, on all devices."""
  attack = problems.attack(problem)
  if num_restarts % len(devices):
    raise UserError(f'{num_restarts} restarts do not divide among '
                    f'{len(devices)} devices: change --cases or --num_devices.')
  clips = np.zeros((1, 1, *problem.clip.shape), np.float32)
  templates = Guess(clips[None], np.full((1, 1, 1), problem.label, np.int32))
  tries = restarts.plan(templates, num_restarts, num_restarts)
  trial = restarts.Trials(
      problem.target, {}, jax.random.key_data(jax.random.key(0)))
  trials = parallel.replicate(
      jax.tree.map(lambda leaf: leaf[None], trial), devices)
  tries = parallel.spread(tries, devices)
  start = parallel.on_devices(restarts.starter(lambda _: attack), devices)
  state = start(tries, trials)
  step = parallel.on_devices(
      restarts.runner(lambda _: attack, choices.restart_batch), devices,
      donate=(0,))

  def run(num_steps):
    nonlocal state
    steps = np.full(num_restarts, num_steps, np.int32)
    state, _ = jax.block_until_ready(
        step(state, tries, trials, parallel.spread(steps, devices)))

  began = time.perf_counter()
  run(0)  # compiles
  seconds = time.perf_counter() - began
  return peers.Runner(run, problems.gradient(problem), seconds, jax.__version__)

"""A tiny sweep, and an engine without processes."""

import contextlib
import json

import pytest

from vidleak_jax import recipes
from vidleak_jax.experiments import audit
from vidleak_jax.experiments.sweep import outcomes, worker
from vidleak_jax.experiments.sweep.engines import Finished
from vidleak_jax.recipes import sweeps


def config(**sweep):
  """configs/sweeps/tiny.py at its smallest, with another space."""
  config = recipes.load('sweeps/tiny')
  config.attack.num_steps, config.attack.chunk_steps = 20, 10
  config.sweep = sweeps.space(**sweep)
  return config.to_dict()


class Here:
  """An engine that runs groups in this process, one a poll."""

  def __init__(self, folder, token):
    self.folder, self.token, self.waiting = folder, token, []
    self.workers = 2

  def __enter__(self):
    return self

  def __exit__(self, *error):
    pass

  def submit(self, groups):
    self.waiting += groups

  def poll(self, seconds):
    del seconds
    group = self.waiting.pop(0)
    answer = worker.run_group(self.folder, group.name, self.token)
    return [Finished(group, disk_full=answer)]


@pytest.fixture
def audits(monkeypatch):
  """Puts a quick stand-in for the attack in place; the groups it was given.

  A trial of a learning rate above 1 fails, of one above 10 it crashes all.
  """
  calls = []

  def run_many(configs, folders, shared, *, log_fn):
    del shared, log_fn
    calls.append([folder.name for folder in folders])
    rates = [own['attack']['ig']['learning_rate'] for own in configs]
    if max(rates) > 10:
      raise FloatingPointError('the program crashed')
    return [_audit(*each) for each in zip(configs, folders, rates)]
  monkeypatch.setattr(audit, 'run_many', run_many)
  return calls


def _audit(config, folder, rate):
  folder.mkdir(parents=True, exist_ok=True)
  if rate > 1:
    return ValueError('learning_rate is too large')
  result = {'psnr': 10 + rate, 'match_loss': rate, 'seed': config['seed']}
  (folder / 'result.json').write_text(json.dumps(result))
  return result


def rows(folder):
  with contextlib.suppress(FileNotFoundError):
    return [json.loads(line) for line
            in (folder / 'results.jsonl').read_text().splitlines()]
  return []


def finish(folder, trial, **result):
  """Puts a result in a trial's folder."""
  own = outcomes.home(folder, trial.name)
  own.mkdir(parents=True, exist_ok=True)
  (own / 'result.json').write_text(json.dumps(result or {'psnr': 1.0}))

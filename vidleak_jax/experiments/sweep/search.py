"""Which trials come next: all of them, or what a search makes of the last.

A search sees how well recoveries match the leak, as an attacker does, and never
how near they come to the truth.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidleak_jax.experiments.sweep import outcomes, spaces
from vidleak_jax.experiments.sweep.spaces import Trial
from vidleak_jax.runtime import progress
from vidleak_jax.types import Row, UserError, pick


class Everything:
  """All trials of a sweep at once."""

  def __init__(self, config: Mapping[str, Any], folder: Path):
    del folder
    self._trials = spaces.trials(config)
    self.fields = spaces.split(config)[1].names
    self.total = len(self._trials)

  def ask(self) -> list[Trial]:
    """The next trials to finish; none at the end."""
    trials, self._trials = self._trials, []
    return trials

  def tell(self, rows: Sequence[Row]) -> None:
    """Takes the rows of all that were asked for."""


class Optuna:
  """TPE in rounds, about as many as a round has draws.

  A draw's value is the mean over the sweep's grid and overrides: seeds, say.
  The study stands in `search.log`; a round that was cut short is finished.
  """

  def __init__(self, config: Mapping[str, Any], folder: Path):
    base, space = spaces.split(config)
    if not space.random:
      raise UserError('A search needs sweep.random: what it may vary.')
    self._config, self._folder = config, folder
    self._num_draws = space.num_samples
    self._study, self._space = _open_study(base, space, folder)
    self._told = False
    self.fields = space.names
    self.total = self._num_draws * len(spaces.around(config, {}))

  def ask(self) -> list[Trial]:
    """The trials of the next round; at first, of all earlier ones."""
    earlier = self._study.trials
    count = min(math.isqrt(self._num_draws), self._num_draws - len(earlier))
    if self._told or not earlier:
      draws = [self._study.ask(self._space) for _ in range(count)]
    else:
      draws = earlier
    self._round = {draw.number: spaces.around(self._config, draw.params)
                   for draw in draws}
    return [trial for trials in self._round.values() for trial in trials]

  def tell(self, rows: Sequence[Row]) -> None:
    """Has the search learn from them."""
    by_trial = {row['trial']: row for row in rows}
    open_ones = {draw.number for draw in self._study.trials
                 if not draw.state.is_finished()}
    for number in self._round.keys() & open_ones:
      own = [by_trial[trial.name] for trial in self._round[number]]
      if all(row['status'] == outcomes.DONE for row in own):
        self._study.tell(number, float(np.mean(
            [match(self._folder, row) for row in own])))
      else:
        self._study.tell(number, state=_optuna().trial.TrialState.FAIL)
    self._told = True


_PLANS = {'': Everything, 'optuna': Optuna}


def plan(sampler: str, config: Mapping[str, Any],
         folder: Path) -> Everything | Optuna:
  """What chooses the trials, by the name of the sampler."""
  return pick(_PLANS, sampler, 'sampler')(config, folder)


def match(folder: Path, row: Row) -> float:
  """How badly a trial's recovery matches its leak.

  The match alone, where it was logged: with priors, whose weights may be what
  is searched, the objectives of two trials could not be compared.
  """
  log = outcomes.home(folder, row['trial']) / 'metrics.jsonl'
  logged = [each['match'] for each in progress.read_rows(log)
            if each.get('match') is not None]
  return logged[-1] if logged else row['match_loss']


def _open_study(base, space, folder):
  """The study of this space and this config, and what it may vary."""
  optuna = _optuna()
  asked = base | {'sweep': space._replace(num_samples=0)._asdict()}
  backend = optuna.storages.logger.JournalFileBackend(
      str(folder / 'search.log'))
  study = optuna.create_study(
      study_name=spaces.identity(asked), load_if_exists=True,
      storage=optuna.storages.JournalStorage(backend))
  study.sampler = optuna.samplers.TPESampler(
      seed=space.seed + len(study.trials), constant_liar=True)
  return study, {name: _distribution(optuna, how)
                 for name, how in space.random.items()}


def _distribution(optuna, how):
  kinds = {
      'uniform': optuna.distributions.FloatDistribution,
      'log_uniform': lambda low, high: optuna.distributions.FloatDistribution(
          low, high, log=True),
      'integers': optuna.distributions.IntDistribution,
      'choice': optuna.distributions.CategoricalDistribution,
  }
  return kinds[how.kind](*how.arguments)


def _optuna():
  try:
    import optuna
  except ImportError as error:
    raise UserError('--search=optuna needs Optuna: pip install '
                    '"vidleak_jax[optuna]".') from error
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  return optuna

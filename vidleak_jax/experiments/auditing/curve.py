"""Recovery against noise, clipping and batch size, about the present setting.

Only an honest client that is simulated can be asked for other settings, so the
truth is at hand. Each point is a client of its own, attacked by those who know
its defence.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from vidleak_jax import attacks
from vidleak_jax.attacks.attempts import explore, residuals
from vidleak_jax.attacks.auto import ADAPTIVE
from vidleak_jax.experiments.auditing import judging, limits, schedule
from vidleak_jax.experiments.leaking import (
    Audit,
    Door,
    load_data,
    obtain_leak,
    victim_of,
)
from vidleak_jax.runtime.session import Session
from vidleak_jax.types import Leak, Row, UserError

MULTIPLIER = 'defense.dp_sgd.noise_multiplier'
_MULTIPLIERS = 1.0, 0.1, 0.01  # of DP-SGD without noise
_OF_RMS = 0.1, 1.0, 0.01  # noise, of the root mean square of an entry
_OF_NOISE = 3.0, 10.0, 0.3  # of the present noise, or multiplier
_OF_NORM = 0.1, 0.01      # clipping norm
_BATCHES = 2, 4
_MOST_ATTACKS = 2         # on a point
_FINEST = 3.0             # ratio of strengths between which nobody looks
_LEAST_SECONDS = 5.0      # below it a point is not begun


class Point(NamedTuple):
  """One other setting."""
  setting: str  # a field of the config
  value: float
  audit: Audit


def points(audit: Audit, leak: Leak) -> list[Point]:
  """Returns the settings to try, the most telling first.

  Args:
    audit: the present setting.
    leak: its update tells how large entries are.
  """
  batches = [_with_batch(audit, size) for size in _BATCHES
             if size != leak.public.batch_size]
  private = audit.defense.dp_sgd
  if private.clip_norm:  # its noise hides how large entries are
    strengths = [private.noise_multiplier * factor for factor in _OF_NOISE]
    found = [_with_multiplier(audit, _rounded(each))
             for each in (strengths if private.noise_multiplier
                          else _MULTIPLIERS)]
    return [found[-1], *batches[:1], *found[:-1], *batches[1:]]
  norm = max(limits.norm_of(leak))
  count = sum(np.size(leaf) for leaf in jax.tree.leaves(leak.params))
  noise = audit.defense.noise_std
  strengths = ([noise * factor for factor in _OF_NOISE] if noise else
               [norm / count ** 0.5 * factor for factor in _OF_RMS])
  noises = [_with_noise(audit, _rounded(each)) for each in strengths]
  clips = [_with_clipping(audit, _rounded(norm * factor))
           for factor in _OF_NORM[:2 if noise else 1]]
  return [*noises[:2], *batches[:1], *clips[:1], *noises[2:], *batches[1:],
          *clips[1:]]


def finer(audit: Audit, rows: Sequence[Row]) -> Point | None:
  """Returns a noise between one that does and one that does not stop attacks.

  None where no such two are known, or are near each other.
  """
  noises = sorted((row['value'], judging.is_above_floor(row)) for row in rows
                  if row['setting'] == 'defense.noise_std' and is_full(row))
  for (low, leaks), (high, still) in itertools.pairwise(noises):
    if leaks and not still and low > 0 and high / low > _FINEST:
      return _with_noise(audit, _rounded((low * high) ** 0.5))
  return None


def is_full(row: Row) -> bool:
  """Whether a point was measured, by attacks that ran to their end."""
  return row['psnr'] is not None and not row['why_not']


def measure(
    todo: Iterator[Point], folder: Path, session: Session, best: str,
    seconds: float, count: int,
) -> Iterator[Row]:
  """Yields a row for each point: what was recovered there.

  Args:
    todo: the points.
    folder: gets the clients' leaks and the attacks' checkpoints.
    session: where to work.
    best: the attack that did best at the present setting.
    seconds: for all of them.
    count: how many they are, at least.
  """
  spent = 0.0
  for index, point in enumerate(todo):
    left = seconds - spent
    if left < _LEAST_SECONDS:
      yield _row(point, why_not='not measured: the budget was spent')
      continue
    share = left / max(count - index, 1)
    name = f'{point.setting.rpartition(".")[2]}-{point.value:g}'
    where = session.inside(name).named(f'curve {name}')
    began = time.monotonic()
    try:
      row = _measured(point, folder / name, where, best, max(
          share, _LEAST_SECONDS))
    except UserError as error:
      row = _row(point, why_not=f'not measured: {error}')
    spent += max(row['seconds'], time.monotonic() - began)
    yield row


def _measured(point, folder, session, best, seconds) -> Row:
  audit = point.audit
  sample = load_data(audit)
  folder.mkdir(parents=True, exist_ok=True, mode=0o700)
  leak = obtain_leak(audit, folder, Door(), sample, session.choices)
  victim = victim_of(audit, leak, session.choices, Door())
  problem = attacks.Problem(victim, leak, audit.keys().attack, session)
  certified = audit.attack.auto.certified

  def why_stop(spent, found):
    if found is not None and np.all(residuals(found) <= certified):
      return 'an answer was certified before'
    return 'the budget was spent' * (spent >= seconds)
  explored = explore(problem, audit.attack.effort(), _candidates(
      audit, leak, problem, best), why_stop, seconds)
  if explored.best is None:
    reasons = '; '.join(f'{a.name}: {a.why_not}' for a in explored.attempts)
    return _row(point, seconds=explored.seconds,
                why_not=f'no attack gave an answer ({reasons})')
  cut = [a.why_not for a in explored.attempts
         if a.gradient_residual is not None and a.why_not]
  whole = [a.name for a in explored.attempts
           if a.gradient_residual is not None and not a.why_not]
  return _row(point, **judging.judge(sample, explored.best, leak, victim),
              attack=explored.best.findings['attack'],
              gradient_residual=float(residuals(explored.best).mean()),
              seconds=explored.seconds,
              why_not='' if whole or not cut else cut[0])


def _candidates(audit, leak, problem, best) -> list[attacks.Attack]:
  """Those made for the defence, the best one so far, then the usual ones."""
  ordered = schedule.attacks_of(audit.attack, leak)
  adaptive = [a for a in ordered if a.name in ADAPTIVE]
  wanted = [a for a in ordered if a.name == best]
  usual = [a for a in ordered if a.name in ('feature_matching', 'ig')]
  chosen: list[attacks.Attack] = []
  for attack in (*adaptive, *wanted, *usual):
    if attack not in chosen and not attack.requires(problem.victim, leak):
      chosen.append(attack)
  return chosen[:_MOST_ATTACKS]


def _row(point: Point, **values) -> Row:
  return {'setting': point.setting, 'value': point.value, 'psnr': None,
          'ssim': None, 'floor': None, 'num_exact': None, 'attack': None,
          'gradient_residual': None, 'seconds': 0.0, 'why_not': ''} | values


def _with_noise(audit: Audit, std: float) -> Point:
  return Point('defense.noise_std', std, audit.replace(
      defense=audit.defense.replace(noise_std=std)))


def _with_multiplier(audit: Audit, multiplier: float) -> Point:
  private = audit.defense.dp_sgd.replace(noise_multiplier=multiplier)
  return Point(MULTIPLIER, multiplier, audit.replace(
      defense=audit.defense.replace(dp_sgd=private)))


def _with_clipping(audit: Audit, norm: float) -> Point:
  return Point('defense.clip_norm', norm, audit.replace(
      defense=audit.defense.replace(clip_norm=norm)))


def _with_batch(audit: Audit, size: int) -> Point:
  return Point('data.num_clips', size, audit.replace(
      data=audit.data.replace(num_clips=size),
      federated=audit.federated.replace(message='batch')))


def _rounded(value: float) -> float:
  """The value with two digits, so that it can be typed."""
  return float(f'{value:.1e}')

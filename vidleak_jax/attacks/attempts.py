"""The answers of single attacks, kept in the workdir and found again there."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np

from vidleak_jax import files
from vidleak_jax.attacks.base import Attack, Cost, Effort, Outcome, Problem
from vidleak_jax.attacks.residual import gradient_residual
from vidleak_jax.types import Recovery, Row, UserError

FOLDER = 'checkpoints'  # a folder an attack in here, with all it writes


def answer(attack: Attack, problem: Problem, effort: Effort
           ) -> Outcome | UserError:
  """Returns one attack's answer, ranked; or why it gave none.

  It is found again where the session's folder holds it.
  """
  session = problem.session.inside(f'{FOLDER}/{attack.name}')
  if session.folder:
    session.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = _load(session.folder, _identity(attack, effort, problem))
    if kept:
      return kept
  try:
    outcome = attack.run(problem._replace(session=session), effort)
  except UserError as error:
    return error
  recovery = outcome.recovery
  residual = gradient_residual(
      problem.victim, problem.leak, recovery.clips, recovery.labels)
  if not np.isfinite(residual).all():
    return UserError('the gradient of its answer is not finite')
  outcome = outcome._replace(
      recovery=recovery._replace(gradient_residual=residual))
  if session.folder:
    _save(session.folder, outcome, _identity(attack, effort, problem))
  return outcome


def _identity(attack: Attack, effort: Effort, problem: Problem) -> str:
  """What an answer belongs to: attack, effort, seed and update."""
  seen = hashlib.sha256(repr((attack, effort)).encode())
  seen.update(np.asarray(jax.random.key_data(problem.key)).tobytes())
  for leaf in jax.tree.leaves(problem.leak.update):
    seen.update(np.asarray(leaf).tobytes())
  return seen.hexdigest()


def _save(folder: Path, outcome: Outcome, identity: str) -> None:
  files.write_arrays(folder / 'outcome.npz', **outcome.recovery._asdict())
  files.write_json(folder / 'outcome.json', {
      'identity': identity, 'cost': outcome.cost._asdict(),
      'findings': outcome.findings})


def _load(folder: Path, identity: str) -> Outcome | None:
  """The answer in a folder; refuses one of another leak or attack."""
  facts = folder / 'outcome.json'  # written last
  if not facts.exists():
    return None
  content: Row = json.loads(facts.read_text())
  if content['identity'] != identity:
    raise UserError(f'{folder} holds the answer to another leak, seed or '
                    'attack. Choose another folder, or remove it.')
  with np.load(folder / 'outcome.npz', allow_pickle=False) as saved:
    recovery = Recovery(**{name: saved[name] for name in saved.files})
  return Outcome(recovery, Cost(**content['cost']), content['findings'])

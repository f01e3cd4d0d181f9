"""What a finished audit leaves in its workdir, and what it has cost."""

import json
import resource
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from vidleak_jax import data, files
from vidleak_jax.attacks import attempts
from vidleak_jax.attacks.base import Cost
from vidleak_jax.evaluation import report
from vidleak_jax.experiments.leaking import Audit
from vidleak_jax.runtime import progress
from vidleak_jax.types import Array, Row

_FRAMES_PER_SECOND = 8  # of the comparison video: slow enough to look at


def spent(audit: Audit, cost: Cost, devices: Sequence[jax.Device]) -> Row:
  """Returns what an attack took, as `result.json` holds it."""
  stats = devices[0].memory_stats() or {}
  peak = stats.get('peak_bytes_in_use')  # CPU devices do not count theirs
  if peak is None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  tries = cost.restart_steps // max(1, cost.num_steps)
  return {
      'num_restarts': audit.attack.num_restarts,
      'num_steps': cost.num_steps,
      'num_devices': max(1, min(len(devices), tries)),  # that had work
      'device_kind': devices[0].device_kind,
      'seconds_compile': cost.seconds_compile,
      'seconds_attack': cost.seconds_attack,
      'restart_steps_per_second': cost.restart_steps / max(
          cost.seconds_attack, 1e-9),
      'peak_memory_bytes': peak,
      'seed': audit.seed,
  }


def publish(
    folder: Path, sample: data.Sample | None, *, clips: np.ndarray,
    enhanced: np.ndarray | None, labels: Array, result: Row, public: Row,
) -> None:
  """Writes recovery, report and, last of all, the result.

  Args:
    folder: the workdir.
    sample: the truth, None where nobody knows it.
    clips: [N, T, H, W, C] in [0, 1], in the truth's order.
    enhanced: the same enlarged, if super-resolution ran.
    labels: N of them, in any shape.
    result: the object of result.json.
    public: what the report says that the attacker knew.
  """
  files.write_arrays(
      folder / 'recovered.npz', clips=clips,
      labels=np.asarray(labels).reshape(-1), enhanced=enhanced)
  names = [f'clip {i}' for i in range(len(clips))]
  report.write(
      folder,
      truth=None if sample is None else sample.batch.clips,
      recovered=clips,
      result={k: v for k, v in result.items() if v is not None},
      metrics_rows=progress.read_rows(_metrics(folder, result)),
      public=public,
      names=names if sample is None else sample.names,
      fps=_FRAMES_PER_SECOND,
      enhanced=enhanced,
      original=None if sample is None or enhanced is None else sample.originals,
      setup=json.loads((folder / 'config.json').read_text()))
  files.write_json(folder / 'result.json', result)


def _metrics(folder, result) -> Path:
  """The curves of the attack whose answer stands, found in its own folder."""
  own = folder / attempts.FOLDER / str(result.get('attack')) / 'metrics.jsonl'
  kept = folder / 'metrics.jsonl'
  if own.exists() and not kept.exists():
    with files.replacing(kept) as partial:
      partial.write_bytes(own.read_bytes())
  return kept

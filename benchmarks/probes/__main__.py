"""Measures for `accelerator.py`: a line on stdout before and after each row."""

import json
import time
from collections.abc import Sequence

import jax
from absl import app, flags

import probes
from probes import plan

_FIRST = flags.DEFINE_integer('first', 0, 'The row to begin with.')
_MINUTES = flags.DEFINE_float('minutes', 10, 'In which rows may be measured.')
_TINY = flags.DEFINE_bool('tiny', False, 'Tiny cases.')
_ONLY = flags.DEFINE_list('only', [], 'Names of rows; none: all.')


def main(argv: Sequence[str]) -> None:
  del argv
  deadline = time.monotonic() + 60 * _MINUTES.value
  jax.config.update('jax_enable_compilation_cache', False)  # it is timed
  rows = plan.rows(probes.TINY if _TINY.value else probes.FULL, _ONLY.value)
  for number, probe, row in probes.run(rows, deadline, _FIRST.value):
    text = json.dumps({'group': probe.group, **probe.label, **(row or {})})
    print(f'> {number} {text}' if row is None else text, flush=True)


if __name__ == '__main__':
  app.run(main)

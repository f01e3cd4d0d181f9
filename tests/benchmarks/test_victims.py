"""The table of victims: its commands can be run, its interval is Student's."""

import importlib.util
import json
import sys

import pytest

from tests.helpers import ROOT
from vidleak_jax import recipes

_SPEC = importlib.util.spec_from_file_location(
    'benchmark_victims', ROOT / 'benchmarks' / 'victims.py')


@pytest.fixture(scope='module')
def table():
  from absl import flags
  sys.path.insert(0, str(ROOT / 'benchmarks'))  # as for a script there
  module = importlib.util.module_from_spec(_SPEC)
  before = set(flags.FLAGS)
  _SPEC.loader.exec_module(module)
  yield module
  sys.path.remove(str(ROOT / 'benchmarks'))
  for name in set(flags.FLAGS) - before:
    delattr(flags.FLAGS, name)


def test_rows_name_configs_and_fields_that_exist(table):
  for row in [*table.ROWS.values(), *table.FITS.values()]:
    file, preset = row.config.split(':')
    fields = recipes.load(
        f'{file.removesuffix(".py")}:{preset}').to_dict()
    for override in row.overrides:
      node = fields
      for part in override.partition('=')[0].split('.'):
        assert part in node, override
        node = node[part]


def test_the_interval_is_students(table):
  assert table.victims_page._interval([20.0]) == '20.0 (one clip)'
  # mean 21, deviation 1, three clips: 4.30 / sqrt(3)
  assert table.victims_page._interval([20.0, 21.0, 22.0]) == '21.0 ± 2.5'


def test_the_page_has_what_was_run_and_keeps_its_notes(table, tmp_path):
  page = tmp_path / 'page.md'
  page.write_text('old\n## Notes\n\nBy hand.\n')
  fit = tmp_path / 'vivit_full' / '0'
  fit.mkdir(parents=True)
  (fit / 'result.json').write_text(json.dumps({
      'num_steps': 1, 'seconds_compile': 12.0, 'seconds_attack': 3.0,
      'peak_memory_bytes': 5e9}))
  (fit / 'config.json').write_text(json.dumps({'config': {
      'data': {'num_frames': 16, 'image_size': 112},
      'attack': {'name': 'ig'}}}))
  table.victims_page.write(page, tmp_path, table.ROWS, table.FITS, {})
  text = page.read_text()
  assert '| vivit full | 16x112x112 | ig | 1 | 12 | 3.0 | 5000 |' in text
  assert '| vivit small | not run |' in text
  assert text.endswith('\n## Notes\n\nBy hand.\n') and 'old' not in text

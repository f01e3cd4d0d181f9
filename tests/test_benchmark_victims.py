"""The table of victims: its commands can be run, its interval is Student's."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location(
    'benchmark_victims', ROOT / 'benchmarks' / 'victims.py')


@pytest.fixture(scope='module')
def table():
  from absl import flags
  module = importlib.util.module_from_spec(_SPEC)
  before = set(flags.FLAGS)
  _SPEC.loader.exec_module(module)
  yield module
  for name in set(flags.FLAGS) - before:
    delattr(flags.FLAGS, name)


def test_rows_name_configs_and_fields_that_exist(table):
  for row in table.ROWS.values():
    file, preset = row.config.split(':')
    module = importlib.import_module(f'configs.{file.removesuffix(".py")}')
    fields = module.get_config(preset).to_dict()
    for override in row.overrides:
      node = fields
      for part in override.partition('=')[0].split('.'):
        assert part in node, override
        node = node[part]


def test_the_interval_is_students(table):
  assert table._interval([20.0]) == '20.0 (one clip)'
  # mean 21, deviation 1, three clips: 4.30 / sqrt(3)
  assert table._interval([20.0, 21.0, 22.0]) == '21.0 ± 2.5'

"""The star: stages know only the types, the pipeline knows the stages."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'vidleak_jax'

SHARED = {'files', 'types', 'weights'}  # leaves that every stage may import

# What a module may import besides those and its own sub-package.
ALLOWED = {
    'launcher': {'backend'},
    'attacks': {'attack', 'backend', 'engine', 'federated', 'progress'},
    'client': {'backend', 'data', 'defenses', 'federated', 'victims'},
    'judge': {'data', 'federated', 'metrics', 'superres'},
    'pipeline': {'attacks', 'backend', 'client', 'data', 'federated', 'judge',
                 'leak_file', 'parallel', 'progress', 'report', 'summary',
                 'superres', 'workdir'},
    'enhance_job': {'data', 'parallel', 'progress', 'superres'},
    'engine': {'attack', 'journal', 'parallel'},
    'journal': {'checkpoint', 'parallel', 'progress'},
    'paper': {'attack', 'data', 'metrics', 'pipeline', 'superres', 'victims'},
    'sweep': {'pipeline', 'progress', 'report', 'workdir'},
    'superres': {'checkpoint', 'parallel', 'progress'},
    'train': {'augment', 'backend', 'checkpoint', 'data', 'parallel',
              'progress', 'victims', 'workdir'},
}


def _imports(file):
  """The parts of vidleak_jax that a file imports."""
  found = set()
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      names = ([f'{node.module}.{alias.name}' for alias in node.names]
               if node.module == 'vidleak_jax' else [node.module])
    elif isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    else:
      continue
    found |= {name.split('.')[1] for name in names
              if name.startswith('vidleak_jax.')}
  return found


@pytest.mark.parametrize(
    'file', sorted(PACKAGE.rglob('*.py')),
    ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_stage_imports_only_the_types(file):
  part = file.relative_to(PACKAGE).parts[0].removesuffix('.py')
  allowed = SHARED | {part} | ALLOWED.get(part, set())
  assert _imports(file) <= allowed


@pytest.mark.parametrize('file', sorted((ROOT / 'configs').rglob('*.py')),
                         ids=lambda file: file.name)
def test_configs_import_nothing_from_the_package(file):
  assert 'vidleak_jax' not in file.read_text()


def test_one_file_has_the_pmap_and_one_has_orbax():
  text = {f.name: f.read_text() for f in PACKAGE.rglob('*.py')}
  assert {n for n, t in text.items() if 'jax.pmap' in t} == {'parallel.py'}
  assert {n for n, t in text.items() if 'import orbax' in t} == {
      'checkpoint.py'}

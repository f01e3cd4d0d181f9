"""The star: stages know only the types, the pipeline knows the stages."""

import ast

import pytest

from tests.helpers import ROOT
from vidleak_jax import optional

PACKAGE = ROOT / 'vidleak_jax'

# Leaves that every stage may import.
SHARED = {'_version', 'errors', 'files', 'models', 'optional', 'options',
          'photos', 'specs', 'trees', 'types', 'video'}

# What a stage may import besides those and itself. No path leads from the truth
# to an attack: attacks import neither data nor evaluation nor experiments.
ALLOWED = {
    '__init__': {'api', 'attacks', 'clients', 'experiments', 'leaks', 'runtime',
                 'victims'},
    'api': {'attacks', 'evaluation', 'leaks', 'runtime'},
    'attacks': {'clients', 'leaks', 'runtime', 'victims'},
    'cli': {'attacks', 'clients', 'data', 'evaluation', 'experiments',
            'recipes', 'runtime', 'superres', 'victims'},
    'clients': {'data', 'leaks', 'runtime', 'victims'},
    'evaluation': {'clients', 'data', 'superres'},
    'experiments': {'attacks', 'clients', 'data', 'evaluation', 'leaks',
                    'recipes', 'runtime', 'superres', 'victims'},
    'recipes': {'attacks', 'experiments', 'superres'},
    'superres': {'runtime'},
}
# Methods of the shared types that end in a stage: imported when called.
LATE = {'types': {'leaks', 'victims'}}


def _imports(file, late=True):
  """The parts of vidleak_jax that a file imports, inside functions too."""
  found, tree = set(), ast.parse(file.read_text())
  for node in ast.walk(tree) if late else tree.body:
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
  assert _imports(file, late=False) <= allowed
  assert _imports(file) <= allowed | LATE.get(part, set())


@pytest.mark.parametrize('file', sorted((ROOT / 'configs').rglob('*.py')),
                         ids=lambda file: file.name)
def test_configs_import_recipes_alone(file):
  assert _imports(file) == {'recipes'}


def test_one_file_has_the_pmap_and_one_has_orbax():
  text = {f.name: f.read_text() for f in PACKAGE.rglob('*.py')}
  assert {n for n, t in text.items() if 'jax.pmap' in t} == {'parallel.py'}
  assert {n for n, t in text.items() if 'import orbax' in t} == {
      'checkpoint.py'}


def test_what_an_extra_brings_is_loaded_through_optional():
  brought = {module for brings in optional.EXTRAS.values() for module in brings}
  told = {'progress.py', 'ray.py', 'slurm.py', 'search.py', 'weights.py'}
  for file in PACKAGE.rglob('*.py'):
    if file.name not in told:  # these say themselves what is missing
      assert not _top_modules(file) & brought, file


def _top_modules(file):
  nodes = [*ast.walk(ast.parse(file.read_text()))]
  return ({alias.name.split('.')[0] for node in nodes
           if isinstance(node, ast.Import) for alias in node.names}
          | {node.module.split('.')[0] for node in nodes
             if isinstance(node, ast.ImportFrom) and node.module})

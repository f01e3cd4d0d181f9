"""The star: stages know only the types, the pipeline knows the stages."""

import ast
import functools
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from vidleak_jax import optional

PACKAGE = ROOT / 'vidleak_jax'

# Leaves that every stage may import.
SHARED = {'_version', 'errors', 'files', 'models', 'optional', 'options',
          'photos', 'specs', 'trees', 'types', 'user_code', 'video'}

# What a stage may import besides those and itself. No path leads from the truth
# to an attack: attacks import neither data nor evaluation nor experiments.
ALLOWED = {
    '__init__': {'api', 'attacks', 'clients', 'experiments', 'leaks', 'runtime',
                 'victims'},
    'api': {'attacks', 'evaluation', 'leaks', 'runtime'},
    'attacks': {'clients', 'leaks', 'runtime', 'victims'},
    'cli': {'attacks', 'clients', 'data', 'evaluation', 'experiments',
            'recipes', 'runtime', 'superres', 'victims'},
    'clients': {'leaks', 'runtime', 'victims'},
    'evaluation': {'clients', 'data', 'superres'},
    'experiments': {'attacks', 'clients', 'data', 'evaluation', 'leaks',
                    'recipes', 'runtime', 'superres', 'victims'},
    'leaks': {'runtime', 'victims'},
    'recipes': {'attacks', 'experiments', 'superres'},
    'superres': {'runtime'},
}
# What a leaf may import inside its methods.
DEFERRED = {'types': {'leaks', 'victims'}}
TRUTH = {'api', 'data', 'evaluation', 'experiments', 'recipes', 'cli'}


@functools.cache
def _imports(file, *, deferred=True):
  """The parts of vidleak_jax that a file imports.

  Args:
    file: a module.
    deferred: whether imports inside functions count.
  """
  found, nodes = set(), [ast.parse(file.read_text())]
  while nodes:
    node = nodes.pop()
    for_types = isinstance(node, ast.If) and (
        getattr(node.test, 'id', '') == 'TYPE_CHECKING')
    if deferred or not (isinstance(node, ast.FunctionDef) or for_types):
      nodes += ast.iter_child_nodes(node)
    if isinstance(node, ast.ImportFrom) and node.module:
      names = ([f'{node.module}.{alias.name}' for alias in node.names]
               if node.module == 'vidleak_jax' else [node.module])
    elif isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    else:
      continue
    found |= {name.split('.')[1] for name in names
              if name.startswith('vidleak_jax.')}
  return frozenset(found)


def _part(file):
  return file.relative_to(PACKAGE).parts[0].removesuffix('.py')


# `__init__.py` gathers the public names of all stages.
MODULES = sorted(set(PACKAGE.rglob('*.py')) - {PACKAGE / '__init__.py'})


@pytest.mark.parametrize(
    'file', MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_stage_imports_only_the_types(file):
  part = _part(file)
  allowed = SHARED | {part} | ALLOWED.get(part, set())
  assert _imports(file, deferred=False) <= allowed
  assert _imports(file) <= allowed | DEFERRED.get(part, set())


def test_no_path_leads_from_the_truth_to_an_attack():
  """Over any number of imports, deferred ones included."""
  reached, found = set(), {'attacks'}
  while found:
    reached |= found
    found = {part for file in MODULES if _part(file) in reached
             for part in _imports(file)} - reached
  assert not reached & TRUTH
  assert {'clients', 'leaks', 'victims'} <= reached  # it walks at all


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


def test_the_engine_needs_jax_and_its_libraries_alone():
  """A bare GPU machine can run it, and the benchmarks."""
  code = ('import sys, jax, flax, optax, orbax.checkpoint, absl, '
          'ml_collections, scipy.optimize; import vidleak_jax.attacks.'
          'matching.engine; print(*sys.modules)')
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True,
                        capture_output=True, text=True)
  heavy = {'PIL', 'tensorflow_datasets', 'dm_pix', 'jaxtyping', 'skimage',
           'av', 'pyarrow', 'tensorboardX', 'matplotlib', 'torch'}
  assert not heavy & {name.split('.')[0] for name in done.stdout.split()}

"""README and the user pages: blocks run, links exist, commands parse."""

import ast
import importlib.util
import inspect
import pkgutil
import re
import shlex
import sys
import types

import pytest
import yaml

import vidleak_jax as vl
from tests.helpers import ROOT
from vidleak_jax import recipes
from vidleak_jax.attacks.registry import ATTACKS
from vidleak_jax.cli import commands
from vidleak_jax.cli import list as list_command
from vidleak_jax.experiments.leaking import Audit

USER_PAGES = sorted([ROOT / 'README.md', ROOT / 'CONTRIBUTING.md',
                     ROOT / 'SECURITY.md',
                     *(ROOT / 'docs').glob('*.md')])
ALL_PAGES = [*USER_PAGES, ROOT / 'CHANGELOG.md',
             *sorted((ROOT / 'docs' / 'lab').glob('*.md'))]
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.M | re.S)
LINK = re.compile(r'\]\(([^)\s]+)\)')
LEFT_OUT = '...'  # stands in a page for what the reader puts there
SLOW = {'README.md', 'extending.md', 'federated.md', 'quickstart.md',
        'report.md'}


def _name(page):
  return str(page.relative_to(ROOT))


def _blocks(page, *languages):
  return [text for language, text in FENCE.findall(page.read_text())
          if language in languages]


def _inline(page):
  """Code within sentences and tables, on one line each."""
  text = FENCE.sub('', page.read_text())
  return [' '.join(code.split()) for code in re.findall('`([^`]+)`', text)]


@pytest.mark.parametrize('page', [
    pytest.param(page, id=_name(page),
                 marks=[pytest.mark.slow] * (page.name in SLOW))
    for page in USER_PAGES if _blocks(page, 'python')])
def test_python_blocks_run(page, monkeypatch):
  """The blocks of a page share their names, as a reader would paste them."""
  module = types.ModuleType(f'page_{page.stem}')
  monkeypatch.setitem(sys.modules, module.__name__, module)
  for i, block in enumerate(_blocks(page, 'python')):
    code = compile(block, f'{_name(page)}, block {i}', 'exec')
    exec(code, module.__dict__)


def _slug(heading):
  kept = re.sub(r'[^\w\s-]', '', heading.strip().lower())
  return kept.replace(' ', '-')


@pytest.mark.parametrize('page', ALL_PAGES, ids=_name)
def test_relative_links_lead_somewhere(page):
  for target in LINK.findall(FENCE.sub('', page.read_text())):
    if '://' in target:
      continue
    path, _, anchor = target.partition('#')
    file = page.parent / path if path else page
    assert file.exists(), target
    if anchor:
      headings = re.findall(r'^#+ (.+)$', file.read_text(), re.M)
      assert anchor in map(_slug, headings), target


def _commands(page):
  """Every command line of a page or an example, a list of words each."""
  if page.suffix == '.py':
    text = ast.get_docstring(ast.parse(page.read_text()))
    lines = text.replace('\\\n', ' ').splitlines()
  else:
    lines = _inline(page)
    for block in _blocks(page, '', 'bash', 'sh'):
      lines += block.replace('\\\n', ' ').splitlines()
  for line in lines:
    line = line.partition('  #')[0].removeprefix('$ ').strip()
    if re.match(r'(vidleak|make|pip|python (launch|benchmarks|docs|examples)/)'
                ' ?', line):
      yield shlex.split(line)
    elif line.startswith('--config'):  # what a table adds to a command
      yield ['vidleak', 'attack', *shlex.split(line)]


ALL_COMMANDS = [pytest.param(words, id=f'{_name(page)}: {" ".join(words)}'[:90])
                for page in [*USER_PAGES, *(ROOT / 'examples').glob('*.py')]
                for words in _commands(page)]


@pytest.mark.parametrize('words', ALL_COMMANDS)
def test_commands_parse(words):
  program, *rest = words
  if program == 'make':
    makefile = (ROOT / 'Makefile').read_text()
    for target in rest:
      assert '=' in target or f'\n{target}:' in makefile, target
  elif program == 'pip':
    extras = re.findall(r'\[([\w,]+)\]', ' '.join(rest))
    setup = (ROOT / 'setup.py').read_text()
    for extra in ','.join(extras).split(',') if extras else ():
      assert f"'{extra}'" in setup, extra
  elif program == 'python':
    _check_script(*rest)
  elif program == 'vidleak' and rest and not rest[0].startswith('-'):
    name = commands.find(rest)
    assert name, f'no command {rest}'
    _check_command(name, rest[len(name.split()):])


def _check_script(file, *words):
  path = ROOT / file
  assert path.is_file(), file
  if file.startswith('launch/'):
    started = re.search(r"commands\.start\('([\w ]+)'\)", path.read_text())
    _check_command(started[1], words)
  elif words and not file.startswith('examples/'):
    sources = ''.join(f.read_text() for f in path.parent.glob('*.py'))
    _check_flags(words, sources)


def _check_command(name, words):
  if not commands.COMMANDS[name].has_flags:
    table, *config = [word for word in words if word != '--json'] or ['TABLE']
    assert set(table.split('|')) <= {*list_command.TABLES, 'TABLE'}
    if config and config != ['CONFIG']:
      assert table == 'attacks' and recipes.load(*config)
    return
  words = [word for word in words if word != LEFT_OUT]
  folder = ROOT / 'vidleak_jax' / 'cli'
  sources = [folder / 'launcher.py', folder / f'{name.replace(" ", "_")}.py']
  _check_flags(words, ''.join(file.read_text() for file in sources))
  _check_config(words)


def _check_flags(words, sources):
  defined = {'config', *re.findall(r"DEFINE_\w+\(\s*'(\w+)'", sources)}
  for word in words:
    flag = re.match(r'--(no)?(\w+)', word)
    assert flag, f'{word} is no flag'
    assert flag[0][2:] in defined or flag[2] in defined, word


def _check_config(words):
  """The recipe exists, and its fields take these values."""
  given = dict(word.partition('=')[::2] for word in words)
  source = given.pop('--config', LEFT_OUT)
  if source == LEFT_OUT:
    source = 'default'
  if source.startswith('configs/'):
    file, _, preset = source.partition(':')
    assert (ROOT / file).is_file(), file
    source = file.removeprefix('configs/').removesuffix('.py') + (
        f':{preset}' if preset else '')
  config = recipes.load(source)
  values = config.to_dict()
  for flag, value in given.items():
    if not flag.startswith('--config.'):
      continue
    *groups, field = flag.removeprefix('--config.').split('.')
    if 'FIELD' in (field, *groups) or 'NAME' in (field, *groups):
      continue
    group = values
    for key in groups:
      group = group[key]
    assert field in group, flag
    if value not in ('VALUE', LEFT_OUT):
      group[field] = _value(value)
  if {*values} == {*Audit().to_dict()}:
    Audit.from_dict(values)


def _value(text):
  if text in ('true', 'false'):
    return text == 'true'
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text or None


def test_the_config_page_is_up_to_date():
  module = _script('make_config')
  assert module.PAGE.read_text() == module.page(), (
      'Run python docs/make_config.py.')


def test_the_attack_page_names_registered_attacks():
  text = (ROOT / 'docs' / 'attacks.md').read_text()
  sections = {*re.findall('^## (.+)$', text, re.M)} - {'Common steps'}
  assert sections == {*ATTACKS}
  rows = re.findall(r'^\| `(\w+)`', text, re.M)
  assert sections == {*rows}


@pytest.mark.parametrize('page', ['CONTRIBUTING.md', 'docs/extending.md'])
def test_files_that_contributors_are_sent_to_exist(page):
  for code in _inline(ROOT / page):
    if re.fullmatch(r'[\w./]*(\.py|/)', code):
      assert any((base / code).exists() for base in (
          ROOT, ROOT / 'vidleak_jax', ROOT / 'vidleak_jax' / 'attacks')), code


def test_no_in_sample_figure_stands_in_the_readme():
  text = (ROOT / 'README.md').read_text()
  assert 'sharpened' not in text and '35.6' not in text


def _site():
  """mkdocs.yml; it names no Python objects, so that any reader takes it."""
  return yaml.safe_load((ROOT / 'mkdocs.yml').read_text())


def _pages(entries):
  for entry in entries:
    for page in [entry] if isinstance(entry, str) else entry.values():
      yield from [page] if isinstance(page, str) else _pages(page)


def test_the_navigation_names_every_page_once():
  docs = ROOT / 'docs'
  assert sorted(_pages(_site()['nav'])) == sorted(
      str(page.relative_to(docs)) for page in docs.rglob('*.md')), (
          'Each page of docs/ has a line under nav in mkdocs.yml.')


def test_the_reference_has_every_public_name():
  text = (ROOT / 'docs' / 'reference.md').read_text()
  shown = set(re.findall(r'^::: vidleak_jax\.(\w+)$', text, re.M))
  assert shown >= set(vl.__all__) - {'__version__'}
  found = [pkgutil.resolve_name(path)
           for path in re.findall(r'^::: ([\w.]+)$', text, re.M)]
  assert set(ATTACKS.values()) <= {*filter(inspect.isclass, found)}


def test_the_table_of_equations_is_up_to_date():
  module = _script('make_identifiability')
  text = module.PAGE.read_text()
  for network in (('c3d', 'tiny', (8, 32, 32, 3)),
                  ('r3d18', 'tiny', (8, 32, 32, 3))):
    line, = module.line(*network)
    assert line in text, 'Run python docs/make_identifiability.py.'


def _script(name):
  spec = importlib.util.spec_from_file_location(
      name, ROOT / 'docs' / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module

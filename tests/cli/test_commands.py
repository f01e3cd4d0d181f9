"""The command `vidleak`: its table, its help, and how it takes mistakes."""

import importlib
import json
from pathlib import Path

import pytest

from vidleak_jax import recipes
from vidleak_jax.attacks.registry import ATTACKS
from vidleak_jax.cli import __main__ as cli
from vidleak_jax.cli import commands

LAUNCHERS = Path(__file__).parents[2] / 'launch'


def _vidleak(monkeypatch, *words):
  monkeypatch.setattr('sys.argv', ['vidleak', *words])
  cli.main()


@pytest.mark.parametrize('words', [(), ('--help',), ('help',)])
def test_help_has_a_line_for_each_command(words, monkeypatch, capsys):
  _vidleak(monkeypatch, *words)
  lines = capsys.readouterr().out.splitlines()
  assert max(map(len, lines)) <= 80
  for name, command in commands.COMMANDS.items():
    assert any(f'vidleak {name} ' in line and command.summary in line
               for line in lines)


@pytest.mark.parametrize('name', commands.COMMANDS)
def test_every_command_is_a_module_with_a_description(name):
  module = importlib.import_module(
      f'vidleak_jax.cli.{name.replace(" ", "_")}')
  assert callable(module.main)
  assert hasattr(module, 'define_flags') == commands.COMMANDS[name].has_flags
  assert f'  vidleak {name}' in module.__doc__


def test_every_program_has_its_launcher_and_no_launcher_more():
  scripts = {file.stem: file.read_text() for file in LAUNCHERS.glob('*.py')}
  programs = {name.replace(' ', '_'): name for name, command
              in commands.COMMANDS.items() if command.has_flags}
  assert set(scripts) == set(programs)
  for stem, text in scripts.items():
    assert f"commands.start('{programs[stem]}')" in text
    assert f'  python launch/{stem}.py' in text


@pytest.mark.parametrize('words, near', [
    (('atack',), "Did you mean 'attack'"),
    (('train',), 'There are train victim, train superres, train blend'),
    (('trian', 'victim'), "Did you mean 'train victim'"),
    (('--workdir=x',), 'lists all'),
])
def test_an_unknown_command_ends_with_2(words, near, monkeypatch, capsys):
  with pytest.raises(SystemExit) as ended:
    _vidleak(monkeypatch, *words)
  assert ended.value.code == 2
  assert near in capsys.readouterr().err


@pytest.mark.parametrize('what, member', [
    ('configs', 'paper/lenet_dlg'), ('attacks', 'closed_form'),
    ('victims', 'videomae'), ('defenses', 'noise_std'),
    ('defenses', 'vl.defenses.gaussian_noise'),
    ('fields', 'attack.ig.priors.spatial_tv')])
def test_list_names_what_can_be_asked(what, member, monkeypatch, capsys):
  _vidleak(monkeypatch, 'list', what)
  rows = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert member in [row[0] for row in rows]
  if what == 'configs':
    assert {row[0] for row in rows} == set(recipes.names())


def test_list_says_what_applies_to_a_config(monkeypatch, capsys):
  _vidleak(monkeypatch, 'list', 'attacks', 'clip_c3d:tiny', '--json')
  table = json.loads(capsys.readouterr().out)
  assert set(table) == set(ATTACKS) and table['feature_matching'] == []
  assert 'learned positions' in table['transformer'][0]
  _vidleak(monkeypatch, 'list', 'attacks', 'clip_c3d:tiny')
  rows = capsys.readouterr().out.splitlines()
  assert any(row.split() == ['ig', 'applies'] for row in rows)


@pytest.mark.parametrize('words, said', [
    (('list', 'victims', 'clip_c3d'), 'takes nothing more'),
    (('list', 'attacks', 'clip_c3'), 'Did you mean clip_c3d'),
    (('list',), 'attacks, victims, defenses, configs'),
    (('list', 'victim'), "Did you mean 'victims'"),
    (('doctor', 'now'), "got 'now'")])
def test_words_that_are_not_taken_are_told(words, said, monkeypatch):
  with pytest.raises(SystemExit, match=said):
    _vidleak(monkeypatch, *words)


def test_doctor_shows_versions_devices_and_parts(monkeypatch, capsys):
  _vidleak(monkeypatch, 'doctor')
  page = capsys.readouterr().out
  for part in ('jaxlib', 'backend', 'device 0', 'pyarrow', 'cache'):
    assert part in page
  _vidleak(monkeypatch, 'doctor', '--json')
  assert json.loads(capsys.readouterr().out)['Devices']['backend'] == 'cpu'

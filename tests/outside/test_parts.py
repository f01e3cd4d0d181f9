"""One of each part from outside the package: one file, and one line each."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import vidleak_jax as vl
from tests.outside import parts
from vidleak_jax.attacks.matching import priors, recipe
from vidleak_jax.cli import list as list_command
from vidleak_jax.clients import defenses
from vidleak_jax.leaks import storage

FILE = parts.__file__
SHAPE = (3, 4, 4, 3)
TINY = {'data.num_frames': 3, 'data.image_size': 4, 'data.original_size': 8,
        'victim.num_classes': 10, 'victim.factory': f'{FILE}:make'}


def _run(folder, **fields):
  audit = {}
  for name, value in (TINY | fields).items():
    group = audit
    *path, last = name.split('.')
    for part in path:
      group = group.setdefault(part, {})
    group[last] = value
  vl.run(vl.Audit.from_dict(audit), folder)
  return json.loads((folder / 'result.json').read_text())


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  """An attack with everything the package has, on the network from outside."""
  folder = tmp_path_factory.mktemp('plain')
  _run(folder, **{
      'attack.name': 'ig', 'attack.num_steps': 2,
      'attack.ig.priors.function': f'{FILE}:acceleration'})
  return folder


def test_a_network(plain):
  leak = storage.load(plain)
  assert leak.params['Dense_0']['kernel'].shape == (np.prod(SHAPE), 8)


def test_a_prior(plain):
  row = json.loads((plain / 'metrics.jsonl').read_text().splitlines()[-1])
  assert row['acceleration'] > 0


def test_a_defence_and_an_attack(plain, tmp_path):
  found = _run(tmp_path, **{
      'attack.name': 'factory', 'attack.factory': f'{FILE}:Grey',
      'defense.factory': f'{FILE}:halve'})
  leak = storage.load(tmp_path)
  assert leak.public.defense is None  # the attacker is told nothing of it
  jax.tree.map(np.testing.assert_allclose, leak.update,
               jax.tree.map(lambda leaf: leaf / 2, storage.load(plain).update))
  assert found['attack'] == 'grey' and found['gradient_residual'] > 0.1
  assert np.load(tmp_path / 'recovered.npz')['clips'].std() == 0


def test_auto_tries_it_too():
  audit = vl.Audit.from_dict({'attack': {'factory': f'{FILE}:Grey'}})
  first, *others = audit.attack.chosen()._candidates()
  assert first.name == 'grey' and len(others) > 5


@pytest.mark.parametrize('field, name, message', [
    ('attack', f'{FILE}:halve', 'must make an attack'),
    ('attack', 'Grey', 'attack.factory is'),
    ('attack', None, 'attack.factory must name'),
    ('defense', f'{FILE}:Grey', 'must make an optax transform'),
    ('defense', '/no/such.py:halve', 'defense.factory names')])
def test_what_is_no_such_part_is_told(field, name, message, tmp_path):
  with pytest.raises(vl.UserError, match=message):
    _run(tmp_path, **{'attack.name': 'factory' if field == 'attack' else 'ig',
                      f'{field}.factory': name})


def test_a_line_in_its_table_is_all_that_a_shipped_part_takes(
    monkeypatch, capsys):
  monkeypatch.setitem(vl.attacks.ATTACKS, 'grey', parts.Grey)
  monkeypatch.setitem(vl.victims.NETWORKS, 'net', vl.victims.Network(
      lambda clip_shape, num_classes: vl.Victim.from_flax(
          parts.Net(num_classes), clip_shape, num_classes)))
  monkeypatch.setitem(defenses.DEFENSES, 'halve', defenses.Defense(
      parts.halve, 'every entry, halved', {}))
  victim = vl.victims.build('net', SHAPE, 10)
  clips = np.full((1, *SHAPE), 0.4, np.float32)
  leak = vl.observe(victim, victim.init(jax.random.key(0)), clips, [3],
                    defense=parts.halve())
  assert vl.applicable(victim, leak)['grey'] == []
  assert vl.attack(victim, leak, 'grey', key=jax.random.key(1)).attack == 'grey'
  for table, name in (('attacks', 'grey'), ('victims', 'net'),
                      ('defenses', 'vl.defenses.halve')):
    list_command.main([table])
    assert f'{name} ' in capsys.readouterr().out
  fields = [field.name for field in dataclasses.fields(recipe.Priors)]
  assert fields == [*priors.PRIORS, 'function', 'function_weight']

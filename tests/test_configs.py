"""Recipes are found by name; clip recipes fit their victim at every size."""

import math
import sys
from pathlib import Path

import jax
import pytest

from tests.helpers import ROOT, mostly_quick
from vidleak_jax import recipes, victims
from vidleak_jax.errors import UserError
from vidleak_jax.experiments.leaking import Audit

SHIMS = ROOT / 'configs'

NAMES = ('c3d', 'cnn_gru', 'r2plus1d18', 'r3d18', 'timesformer', 'videomae',
         'vivit')


def _config(name, *preset):
  return recipes.load(':'.join([f'clip_{name}', *preset])).to_dict()


@pytest.mark.parametrize('name', recipes.names())
def test_a_shim_is_its_recipe_and_says_a_command(name):
  file = SHIMS / f'{name}.py'
  assert recipes.load(str(file)) == recipes.load(name)
  command = 'python benchmarks' if name == 'sweeps/same_shape' else (
      f'--config=configs/{name}.py')
  assert command in file.read_text()
  assert recipes.summary(name).endswith('.')


def test_every_shim_has_a_recipe():
  files = {str(f.relative_to(SHIMS).with_suffix('')) for f
           in SHIMS.rglob('*.py')}
  assert files == set(recipes.names())


@pytest.mark.parametrize('source, said', [
    ('clip_c4d', 'Did you mean clip_c3d'),
    ('lenet_dlg', 'paper/lenet_dlg'),
    ('tiny', 'sweeps/tiny'),
    ('zzz', 'There are clip_c3d'),
    ('elsewhere/clip_c3d.py', 'No config file'),
    ('configs/clip_c9d.py', 'clip_c3d'),
    ('quickstart:large', 'takes no preset'),
])
def test_an_unknown_name_is_one_line(source, said):
  with pytest.raises(UserError, match=said) as caught:
    recipes.load(source)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('text, said', [
    ('from configs import default\n', 'from vidleak_jax.recipes import'),
    ('def get_config(:\n', 'cannot be imported'),
    ('config = {}\n', 'no function get_config'),
])
def test_a_file_that_is_no_config_is_told(text, said, tmp_path, monkeypatch):
  elsewhere = [path for path in sys.path
               if Path(path).resolve() != SHIMS.parent.resolve()]
  monkeypatch.setattr(sys, 'path', elsewhere)
  for name in [n for n in sys.modules if n.split('.')[0] == 'configs']:
    monkeypatch.delitem(sys.modules, name)  # another test's
  (tmp_path / 'mine.py').write_text(text)
  with pytest.raises(UserError, match=said):
    recipes.load(str(tmp_path / 'mine.py'))


@pytest.mark.parametrize(
    'preset', mostly_quick(['tiny', 'small', 'full'], ['full']))
@pytest.mark.parametrize('name', NAMES)
def test_the_victim_takes_the_clip(name, preset):
  config = _config(name, preset)
  own = config['victim'] | {'norm': None}
  del own['dropout_active'], own['checkpoint']
  data = config['data']
  shape = (data['num_frames'], data['image_size'], data['image_size'], 3)
  victim = victims.build(**victims.resolve(**own), clip_shape=shape)
  params = jax.eval_shape(victim.init, jax.random.key(0))
  clips = jax.ShapeDtypeStruct((1, *shape), 'float32')
  assert jax.eval_shape(victim.logits, params, clips).shape == (1, 101)
  assert config['attack']['name'] == 'auto'
  if name in ('c3d', 'cnn_gru') and preset != 'full':  # feature matching's
    assert len(victim.layers) > 1
  if victim.tokens and (preset != 'full' or name == 'vivit'):
    patch, width = params['embed']['kernel'].shape
    assert math.prod(shape) <= patch * width  # N <= D: linear algebra alone


def test_without_a_size_c3d_stays_small():
  config, small = _config('c3d'), _config('c3d', 'small')
  assert config['victim'].pop('preset') is None
  assert small['victim'].pop('preset') == 'small'
  assert config == small
  assert (config['data']['num_frames'], config['data']['image_size']) == (8, 32)
  assert config['attack']['name'] == 'auto'


def test_an_unknown_size_is_told():
  with pytest.raises(ValueError, match='tiny, small, full'):
    _config('vivit', 'huge')


@pytest.mark.parametrize('name', recipes.names())
def test_every_recipe_names_what_there_is(name):
  config = recipes.load(name).to_dict()
  default = recipes.load('default').to_dict()
  assert isinstance(config['seed'], int) and config['seed'] >= 0
  if 'attack' not in config:
    return
  assert config.keys() - {'sweep'} == default.keys()
  for group in ('data', 'victim', 'federated', 'superres', 'backend'):
    assert config[group].keys() == default[group].keys(), group
  assert config['victim']['name'] in victims.NETWORKS
  config.pop('sweep', None)
  audit = Audit.from_dict(config)  # every name, type and range
  assert audit.attack.name == 'none' or audit.attack.chosen()

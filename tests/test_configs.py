"""Every clip config resolves at every size, to a victim that fits its clip."""

import importlib
import math

import jax
import pytest

from vidleak_jax import victims

NAMES = ('c3d', 'cnn_gru', 'r2plus1d18', 'r3d18', 'timesformer', 'videomae',
         'vivit')


def _config(name, *preset):
  module = importlib.import_module(f'configs.clip_{name}')
  return module.get_config(*preset).to_dict()


@pytest.mark.parametrize('preset', ['tiny', 'small', 'full'])
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
  if config['attack']['name'] == 'anchored':
    assert len(victim.layers) > 1
  if config['attack']['name'] == 'closed_form':
    patch, width = params['embed']['kernel'].shape
    assert math.prod(shape) <= patch * width  # N <= D


def test_without_a_size_c3d_stays_small():
  config, small = _config('c3d'), _config('c3d', 'small')
  assert config['victim'].pop('preset') is None
  assert small['victim'].pop('preset') == 'small'
  assert config == small
  assert (config['data']['num_frames'], config['data']['image_size']) == (8, 32)
  assert config['attack']['name'] == 'anchored'


def test_an_unknown_size_is_told():
  with pytest.raises(ValueError, match='tiny, small, full'):
    _config('vivit', 'huge')

"""Every field refuses nonsense by its name; every bad pair is told in time."""

import difflib

import pytest

from tests.fuzz import values
from vidleak_jax.errors import UserError
from vidleak_jax.experiments import audit
from vidleak_jax.experiments.leaking import Audit

FIELDS = list(values.fields())
TINY = {
    'data.num_frames': 4, 'data.image_size': 16, 'data.original_size': 32,
    'victim.preset': 'tiny', 'backend.num_devices': 1, 'attack.name': 'ig',
    'attack.num_steps': 2, 'attack.chunk_steps': 1}
SUPERRES = {'superres.name': 'clip'}

# Each passes by its types and ranges, and cannot work.
TOGETHER = {
    'odd_size': {'data.image_size': 15},
    'small_originals': {'data.original_size': 8},
    'no_scale': SUPERRES | {'data.original_size': 40},
    'tiny_tile': SUPERRES | {'superres.tile': 8, 'data.original_size': 16},
    'superres_weights_missing': SUPERRES | {'superres.weights': '/no/such'},
    'reference_missing': {'superres.references': ('/no/such.png',)},
    'halve_beyond': {'attack.halve_at': (5,), 'attack.num_restarts': 4},
    'halve_backwards': {'attack.halve_at': (2, 1), 'attack.num_restarts': 4},
    'many_restarts': {'attack.num_restarts': 10**8},
    'much_data': {'data.num_clips': 2**20, 'data.image_size': 2**14,
                  'data.original_size': 2**14},
    'many_frames': {'data.num_frames': 2**20},
    'wide_stride': {'data.frame_stride': 2**20},
    'many_classes': {  # a last layer of 2 TB
        'victim.num_classes': 2**20, 'victim.preset': 'small',
        'data.num_frames': 16, 'data.image_size': 128,
        'data.original_size': 128},
    'few_classes': {'victim.num_classes': 2},
    'checkpoint_missing': {'victim.checkpoint': '/no/such'},
    'checkpoint_empty': {'victim.checkpoint': '/dev/null'},
    'folder_missing': {'data.name': 'video_folder', 'data.dir': '/no/such'},
    'folder_not_said': {'data.name': 'video_folder'},
    'folder_of_embedded': {'data.dir': '/tmp'},
    'data_unknown': {'data.name': 'no_such_set'},
    'split_unknown': {'data.split': 'nonsense'},
    'weights_file_missing': {
        'victim.name': 'frozen', 'victim.preset': None,
        'victim.weights_file': '/no/such', 'attack.name': 'frozen_features'},
    'victim_unknown': {'victim.name': 'c4d'},
    'preset_unknown': {'victim.preset': 'nonsense'},
    'option_of_another': {'victim.cell': 'gru'},
    'factory_missing': {'victim.factory': '/no/such.py:make'},
    'factory_malformed': {'victim.factory': '..:make'},
    'factory_not_callable': {'victim.factory': 'math:pi'},
    'epochs_of_one_gradient': {'federated.local_epochs': 2},
    'optimizer_not_told': {
        'federated.algorithm': 'fedavg', 'federated.optimizer': 'other'},
    'lbfgs_from_coarse': {
        'attack.ig.optimizer': 'lbfgs', 'attack.ig.coarse': 0.5},
    'wrong_network': {'attack.name': 'transformer'},
    'no_extractor': {'attack.name': 'frozen_features'},
    'unknown_only': {'attack.name': 'auto', 'attack.auto.only': ('ig', 'x')},
    'many_devices': {'backend.num_devices': 10**6},
    'overflow': {'federated.algorithm': 'fedavg', 'federated.local_steps': 3,
                 'federated.local_learning_rate': 1e15},
}


def asked(**fields):
  config = Audit().to_dict()
  for name, value in fields.items():
    *groups, last = name.split('.')
    node = config
    for group in groups:
      node = node[group]
    node[last] = value
  return config


@pytest.mark.parametrize('field', FIELDS, ids=lambda field: field.name)
def test_a_field_holds_what_it_declares_or_refuses(field):
  for value in values.NONSENSE:
    try:
      options = Audit.from_dict(values.nested(field.name, value))
    except UserError as error:
      assert field.name in str(error), value
      assert len(str(error)) < 2000
      continue
    found = values.at(options, field.name)
    assert values.allowed(found, field), (value, found)


@pytest.mark.parametrize('field', FIELDS, ids=lambda field: field.name)
def test_a_typo_is_told(field):
  group, _, last = field.name.rpartition('.')
  typo = f'{last}x'
  with pytest.raises(UserError) as error:
    Audit.from_dict(values.nested(f'{group}.{typo}'.lstrip('.'), 1))
  assert repr(typo) in str(error.value)
  assert (group or 'Audit') in str(error.value)
  if difflib.get_close_matches(typo, [last], 1):
    assert 'Did you mean' in str(error.value)


@pytest.mark.parametrize('name', TOGETHER)
def test_what_cannot_work_together_is_refused(name, tmp_path):
  with pytest.raises(UserError) as error:
    audit.run(asked(**TINY | TOGETHER[name]), tmp_path)
  assert str(error.value)
  assert not (tmp_path / 'result.json').exists()

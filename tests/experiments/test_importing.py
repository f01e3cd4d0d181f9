"""Files of a real update become a leak; what is not said is inferred."""

import json

import jax
import numpy as np
import pytest

import vidleak_jax as vl
from tests.helpers import REFERENCES
from vidleak_jax.experiments import importing
from vidleak_jax.models import weights
from vidleak_jax.specs import VictimSpec


def files_of(name, folder):
  """Weights and gradient of a reference, as files."""
  with np.load(REFERENCES / f'{name}.npz') as archive:
    content = dict(archive)
  for group in ('weight', 'grad'):
    np.savez(folder / f'{group}.npz', **{
        key.partition(':')[2]: value for key, value in content.items()
        if key.startswith(group)})
  return {'before': str(folder / 'weight.npz'),
          'gradient': str(folder / 'grad.npz')}


@pytest.mark.parametrize('name, norm', [
    ('r3d18', 'fixed'), ('r3d18_batch', 'batch')])
def test_a_gradient_of_torchvision_is_imported(name, norm, tmp_path):
  spec = importing.Import(**files_of(name, tmp_path),
                          victim=VictimSpec(name='r3d18'))
  done = importing.run(spec, tmp_path / 'leak')
  leak = vl.load_leak(tmp_path / 'leak')
  public = leak.public
  assert (public.victim.preset, public.victim.num_classes) == ('tiny', 5)
  assert (public.victim.norm, public.provenance.norm) == (norm, 'inferred')
  assert (public.batch_size, public.provenance.batch_size) == (2, 'inferred')
  assert public.clip_shape == (8, 32, 32, 3)
  assert public.provenance.clip_shape == 'unknown'
  assert not done.unmatched
  assert not [each for each in done.findings if each.status == 'mismatch']
  told = json.loads((tmp_path / 'leak' / 'self_check.json').read_text())
  assert {each['name'] for each in told} >= {'layers', 'batch_norm', 'labels'}


def test_a_clip_shape_is_inferred_where_weights_depend_on_it(tmp_path):
  spec = importing.Import(**files_of('timesformer', tmp_path),
                          victim=VictimSpec(name='timesformer'), num_frames=4,
                          defense='none')
  leak = importing.run(spec, tmp_path / 'leak').leak
  assert leak.public.clip_shape == (4, 16, 16, 3)
  assert leak.public.provenance.clip_shape == 'inferred'


def test_the_step_size_of_one_clip_is_inferred(tmp_path):
  victim = vl.victims.build('c3d', (8, 32, 32, 3), 7, preset='tiny')
  params = victim.init(jax.random.key(0))
  clip = np.random.default_rng(0).uniform(size=(1, 8, 32, 32, 3))
  sent = vl.observe(victim, params, clip.astype(np.float32), [3],
                    client=vl.FedAvg(local_learning_rate=0.02))
  weights.save(tmp_path / 'w.safetensors', params)
  weights.save(tmp_path / 'v.safetensors', jax.tree.map(
      lambda p, u: p - u[0], params, sent.update))
  spec = importing.Import(before=str(tmp_path / 'w.safetensors'),
                          after=str(tmp_path / 'v.safetensors'))
  done = importing.run(spec, tmp_path / 'leak')
  federated = done.leak.public.federated
  assert federated.local_learning_rate == pytest.approx(0.02, rel=1e-2)
  assert done.leak.public.provenance.local_learning_rate == 'inferred'
  assert done.leak.public.provenance.local_steps == 'unknown'
  assert not [each for each in done.findings if each.status == 'mismatch']


def test_other_files_are_told(tmp_path):
  given = files_of('r3d18', tmp_path)
  with pytest.raises(vl.UserError, match='Give one of --gradient'):
    importing.run(importing.Import(before=given['before']), tmp_path / 'a')
  with pytest.raises(vl.UserError, match=r'lack .* of .* leaves of c3d'):
    importing.run(importing.Import(**given), tmp_path / 'b')
  with pytest.raises(vl.UserError, match='There is no file'):
    importing.run(importing.Import(before='none.npz', gradient='none.npz'),
                  tmp_path / 'c')
  assert not (tmp_path / 'b').exists()

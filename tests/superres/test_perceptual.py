"""The perceptual loss's networks against what torchvision's answer."""

import numpy as np
from safetensors.numpy import save_file

from tests.superres.conftest import read_reference
from vidleak_jax.superres import perceptual


def test_features_of_vgg19_equal_torchvisions(tmp_path):
  stored, tensors = read_reference('perceptual_vgg19')
  save_file(tensors, tmp_path / 'vgg19.safetensors')
  found = perceptual.features('vgg19', tmp_path / 'vgg19.safetensors')(
      stored.pop('frames'))
  assert [weight for weight, _ in found] == [0.1, 0.1, 1.0, 1.0, 1.0]
  for (_, mine), (name, theirs) in zip(found, stored.items(), strict=True):
    assert theirs.std() > 0.05, name
    np.testing.assert_allclose(mine, theirs, atol=1e-4, err_msg=name)

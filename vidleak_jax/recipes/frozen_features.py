"""Frames through a frozen ResNet-20 whose head alone shares its gradient.

  vidleak attack --config=frozen_features \
      --workdir=runs/features --config.attack.num_references=5 \
      --config.victim.head=classifier2 --config.victim.dropout_active=true

Heads are classifier1, classifier2, classifier3 (a gradient a frame) and matrix
(one for the clip). Features are exact to 4e-7, the matrix to 9e-6; what they
show of the frames stands in docs/lab/closed_form.md. The extractor is what
train_extractor trains on `photo_motion`, and is shipped. Others:
--config.victim.weights_file=FILE, also .th files of ResNet-20 for CIFAR-10, or
an empty --config.victim.weights_file= to draw one from victim.extractor_seed.
"""

from vidleak_jax.recipes import default


def get_config():
  config = default.get_config()
  config.data.num_frames = 10
  config.victim.name = 'frozen'
  config.victim.head = 'classifier1'
  config.victim.weights_file = 'photo_motion'
  config.federated.message = 'auto'
  config.attack.name = 'frozen_features'
  return config

"""Frames through a frozen ResNet-20 whose head alone shares its gradient.

  python launch/attack.py --config=configs/frozen_features.py \
      --workdir=runs/features --config.attack.num_references=5 \
      --config.victim.weights_file=resnet20.safetensors \
      --config.victim.head=classifier2 --config.victim.dropout_active=true

16 clips of four real videos, 10 frames, mean over clips and frames, in dB,
beside the floors (mean colour, the best reference copied); 15 to 79 s on two
busy cores, weights of resnet20-cifar10:
  0 references  below its floor: 11.56 (11.98) on the first four clips
  1 reference   16.78  (12.05, 15.56)
  5 references  19.67  (12.05, 18.15)
What needs no gradient but smooths, the mean of the references blurred by the
best width, has 16.45 and 17.81: with one reference most of the gain is that.
A trained decoder (two hidden layers of 256, 12 000 public frames) came to the
same: 11.72 (12.05) without a reference on all 16 clips, 13.17 where ridge
regression has 13.15 on unseen photographs, whose mean colour has 14.81.
Features are exact to 4e-7, the matrix to 9e-6. Without a reference 64 pooled
numbers a frame do not tell where things are; the answer is what ridge
regression on public scenes finds, and it leaks less than a mean colour would.

Heads are classifier1, classifier2, classifier3 (a gradient a frame) and matrix
(one for the clip). Without a weights_file the extractor is drawn from a seed.
"""

from configs import default


def get_config():
  config = default.get_config()
  config.data.num_frames = 10
  config.victim.name = 'frozen'
  config.victim.head = 'classifier1'
  config.federated.message = 'auto'
  config.attack.name = 'features'
  return config

"""The paper's raw-frame attack: LeNet, one gradient a frame, DLG.

  vidleak attack --config=paper/lenet_dlg \
      --workdir=runs/lenet_dlg --config.data.dir=FOLDER_OR_VIDEO

Labels are drawn at random, as in the paper; the attack recovers them.
"""

from vidleak_jax.recipes import default


def get_config():
  config = default.get_config()
  config.data.name = 'video_folder'
  config.data.split = 'all'
  config.data.labels = 'random'
  config.victim.name = 'lenet'
  config.victim.num_classes = 100
  config.federated.message = 'frame'
  config.attack.name = 'dlg'
  # The paper starts from N(0, 1) and takes thousands of steps. From grey a
  # fraction of them comes near enough for Gauss-Newton to end at the rounding.
  config.attack.num_steps = 600
  config.attack.dlg.start_mean = 0.5
  config.attack.dlg.start_std = 0.1
  config.attack.dlg.polish_steps = 30
  config.attack.dlg.polish_inner_steps = 600
  return config

"""The paper's raw-frame attack: LeNet, one gradient a frame, DLG.

  python launch/attack.py --config=configs/paper/lenet_dlg.py \
      --workdir=runs/lenet_dlg --config.data.dir=FOLDER_OR_VIDEO

Labels are drawn at random, as in the paper; the attack recovers them.
"""

from configs import default


def get_config():
  config = default.get_config()
  config.data.name = 'video_folder'
  config.data.split = 'all'
  config.data.labels = 'random'
  config.victim.name = 'lenet'
  config.victim.num_classes = 100
  config.federated.message = 'frame'
  config.attack.name = 'dlg'
  config.attack.num_restarts = 4
  return config

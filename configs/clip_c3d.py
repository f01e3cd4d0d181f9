"""A real video, one gradient for the whole clip, through C3D.

  python launch/attack.py --config=configs/clip_c3d.py --workdir=runs/c3d \
      --config.data.dir=FOLDER_OR_VIDEO
"""

from configs import default


def get_config():
  config = default.get_config()
  config.data.name = 'video_folder'
  config.data.split = 'all'
  config.attack.name = 'anchored'
  return config

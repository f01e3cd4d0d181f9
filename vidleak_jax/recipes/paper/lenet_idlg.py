"""iDLG: as lenet_dlg_published, the label read off the head's bias gradient.

  vidleak attack --config=paper/lenet_idlg \
      --workdir=runs/lenet_idlg --config.data.dir=FOLDER_OR_VIDEO
"""

from vidleak_jax.recipes.paper import lenet_dlg_published


def get_config():
  config = lenet_dlg_published.get_config()
  config.attack.name = 'idlg'
  config.attack.idlg.update(config.attack.dlg.to_dict())
  config.attack.idlg.labels = 'inferred'
  return config

r"""Every applicable attack on one update within a budget, and one verdict.

  python launch/audit.py --config=configs/clip_c3d.py --budget=10m \
      --workdir=runs/audit --config.data.dir=FOLDER_OR_VIDEO
  python launch/audit.py --config=configs/clip_c3d.py --budget=10m \
      --workdir=runs/mine --leak=runs/import/leak.safetensors

Started again in the same workdir it goes on where it stopped, also with a
larger --budget.
"""

from vidleak_jax.cli import commands

if __name__ == '__main__':
  commands.start('audit')

r"""The main job: how much of a clip leaks through the gradient a client shares.

  python launch/attack.py --config=configs/quickstart.py --workdir=runs/quick
  python launch/attack.py --config=configs/quickstart.py --workdir=runs/mine \
      --config.data.name=video_folder --config.data.dir=clip.mp4
  python launch/attack.py --config=configs/quickstart.py --workdir=runs/leak \
      --leak=runs/quick/leak.safetensors

Started again in the same workdir it goes on where it stopped. Several hosts
share one run when each starts it, number 0 writing the workdir:
  python launch/attack.py --config=configs/clip_c3d.py --workdir=runs/many \
      --coordinator_address=HOST:1234 --num_processes=2 --process_id=0
"""

from vidleak_jax.cli import commands

if __name__ == '__main__':
  commands.start('attack')

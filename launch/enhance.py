r"""Enlarges a video, an image, or the clips of a recovered.npz.

  python launch/enhance.py --input=runs/quick/recovered.npz --noise=0.015 \
      --output=runs/quick/enhanced.npz
  python launch/enhance.py --input=small.mp4 --output=large.mp4 \
      --references=frame.png
"""

from vidleak_jax.cli import commands

if __name__ == '__main__':
  commands.start('enhance')

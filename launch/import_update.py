r"""Makes a leak of a real update, and says whether it fits its network.

  python launch/import_update.py --gradient=G.safetensors \
      --before=W.safetensors --victim=r3d18 --workdir=runs/mine
  python launch/import_update.py --before=W.pt --after=V.pt --victim=vivit \
      --local_steps=5 --learning_rate=0.01 --batch_size=2 --workdir=runs/mine
  python launch/attack.py --leak=runs/mine/leak.safetensors \
      --workdir=runs/attack

Files are .safetensors, .npz, torch's .pt, Flax's .msgpack, or folders of Orbax;
names are torchvision's, transformers' or the network's own. See docs/import.md.
"""

from vidleak_jax.cli import commands

if __name__ == '__main__':
  commands.start('import_update')

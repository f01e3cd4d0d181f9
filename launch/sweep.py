r"""Many trials on this machine, a Ray cluster or SLURM.

  python launch/sweep.py --config=configs/sweeps/tiny.py --workdir=runs/tiny
  python launch/sweep.py --config=configs/sweeps/tiny.py --workdir=runs/tiny \
      --engine=ray --ray_address=auto --gpus=1
  python launch/sweep.py --config=configs/sweeps/tiny.py --workdir=runs/tiny \
      --engine=slurm --slurm=slurm_partition=gpu,gpus_per_node=1,timeout_min=60

Started again in the same workdir it goes on where it stopped; more values in
the config run only what is new. The exit status is 0 when every trial is done.
"""

from vidleak_jax.cli import commands

if __name__ == '__main__':
  commands.start('sweep')

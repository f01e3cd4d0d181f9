"""Many trials on this machine, a Ray cluster or SLURM.

  python launch/sweep.py --config=configs/sweeps/tiny.py --workdir=runs/tiny
  python launch/sweep.py --config=configs/sweeps/tiny.py --workdir=runs/tiny \
      --engine=ray --ray_address=auto --gpus=1
  python launch/sweep.py --config=configs/sweeps/tiny.py --workdir=runs/tiny \
      --engine=slurm --slurm=slurm_partition=gpu,gpus_per_node=1,timeout_min=60

Started again in the same workdir it goes on where it stopped; more values in
the config run only what is new. The exit status is 0 when every trial is done.
"""

import sys

from absl import flags

from vidleak_jax.cli import launcher
from vidleak_jax.experiments.sweep import engines, runner

launcher.define_flags('sweeps/tiny')
_ENGINE = flags.DEFINE_enum('engine', 'local', engines.NAMES, 'Where.')
_WORKERS = flags.DEFINE_integer(
    'workers', 0, 'Groups that run at once; 0: one a GPU, or else a CPU core; '
    'of Ray, as many as there is room for.', 0)
_GROUP_SIZE = flags.DEFINE_integer(
    'group_size', 32, 'The most trials that run as one program.', 1)
_RETRY = flags.DEFINE_bool('retry_failed', False, 'Run failed trials again.')
_SEARCH = flags.DEFINE_enum(
    'search', '', ['', 'optuna'], 'Seeks the best match in sweep.random.')
_RAY_ADDRESS = flags.DEFINE_string(
    'ray_address', '', 'Of the cluster; auto: this machine is in it.')
_CPUS = flags.DEFINE_integer('cpus', 1, "Of Ray's, for each worker.", 1)
_GPUS = flags.DEFINE_float('gpus', 0, "Of Ray's, for each worker.", 0)
_TPUS = flags.DEFINE_float('tpus', 0, "Of Ray's, for each worker.", 0)
_SLURM = flags.DEFINE_list(
    'slurm', [], "NAME=VALUE,... of submitit's update_parameters.")


def main() -> None:
  options = {
      'local': {},
      'ray': {'address': _RAY_ADDRESS.value, 'cpus': _CPUS.value,
              'resources': {'GPU': _GPUS.value, 'TPU': _TPUS.value}},
      'slurm': {'options': _SLURM.value},
  }[_ENGINE.value]
  summary = runner.run(
      launcher.resolved_config(), launcher.workdir(),
      engines.maker(_ENGINE.value, workers=_WORKERS.value, **options),
      group_size=_GROUP_SIZE.value, retry_failed=_RETRY.value,
      sampler=_SEARCH.value)
  print(summary.text(launcher.workdir()))
  sys.exit(bool(summary.failed))


if __name__ == '__main__':
  launcher.run(main)

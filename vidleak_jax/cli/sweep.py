r"""Many trials on this machine, a Ray cluster or SLURM.

  vidleak sweep --config=sweeps/tiny --workdir=runs/tiny
  vidleak sweep --config=sweeps/tiny --workdir=runs/tiny \
      --engine=ray --ray_address=auto --gpus=1
  vidleak sweep --config=sweeps/tiny --workdir=runs/tiny \
      --engine=slurm --slurm=slurm_partition=gpu,gpus_per_node=1,timeout_min=60

Started again in the same workdir it goes on where it stopped; more values in
the config run only what is new. The exit status is 0 when every trial is done.
"""

import sys

from absl import flags

from vidleak_jax import optional
from vidleak_jax.cli import launcher
from vidleak_jax.experiments.sweep import engines, runner
from vidleak_jax.runtime.progress import Terminal


def define_flags() -> None:
  """Defines the flags of this program."""
  launcher.define_flags('sweeps/tiny')
  flags.DEFINE_enum('engine', 'local', engines.NAMES, 'Where the trials run.')
  flags.DEFINE_integer(
      'workers', 0, 'Groups that run at once; 0: one a GPU, else one a core; '
      'with Ray, as many as there is room for.', 0)
  flags.DEFINE_integer(
      'group_size', 32, 'The most trials that run as one program.', 1)
  flags.DEFINE_bool('retry_failed', False, 'Run failed trials again.')
  flags.DEFINE_enum(
      'search', '', ['', 'optuna'],
      'How sweep.random is drawn: at random, or sought for the best match.')
  flags.DEFINE_string(
      'ray_address', '', 'Address of the cluster; auto: this machine is in it.')
  flags.DEFINE_integer('cpus', 1, 'CPUs that Ray gives each worker.', 1)
  flags.DEFINE_float('gpus', 0, 'GPUs that Ray gives each worker.', 0)
  flags.DEFINE_float('tpus', 0, 'TPUs that Ray gives each worker.', 0)
  flags.DEFINE_list(
      'slurm', [], "NAME=VALUE,... of submitit's update_parameters.")


def main() -> None:
  """Runs the program on the flags that were parsed."""
  optional.require('video', 'sweep')
  args = flags.FLAGS
  options = {
      'local': {},
      'ray': {'address': args.ray_address, 'cpus': args.cpus,
              'resources': {'GPU': args.gpus, 'TPU': args.tpus}},
      'slurm': {'options': args.slurm},
  }[args.engine]
  with Terminal('trials') as lines:
    summary = runner.run(
        launcher.resolved_config(), launcher.workdir(),
        engines.maker(args.engine, workers=args.workers, **options),
        group_size=args.group_size, retry_failed=args.retry_failed,
        sampler=args.search, log_fn=print, progress=lines)
  print(summary.text(launcher.workdir()))
  sys.exit(bool(summary.failed))

"""Where a worker process sits: a GPU or some cores, and a log."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import vidleak_jax
from vidleak_jax import files
from vidleak_jax.runtime import host

_GPU_MEMORY = 0.9  # shared by the workers of one GPU


class WorkerSlot:
  """One worker process after another.

  Args:
    command: starts a worker.
    env: is added to the environment.
    log: what workers say is appended there.
    cores: that it may use; all if none are named.
  """

  def __init__(self, command: Sequence[str], env: dict[str, str], log: Path,
               cores: Sequence[int] = ()):
    self.env, self.log, self.cores = env, log, cores
    self._command = command
    self._process: subprocess.Popen[str] | None = None
    self._left = False
    self._changing = threading.Lock()

  def ask(self, name: str) -> tuple[str, int | None]:
    """Has a group run: (the worker's answer, None), or ('', its exit status)
    if it died of it."""
    with self._changing:
      if self._left:
        raise SystemExit  # ends this thread
      if self._process is None:
        self._process = self._start()
      process = self._process
    assert process.stdin and process.stdout  # `_start` made them pipes
    try:
      process.stdin.write(f'{name}\n')
      process.stdin.flush()
    except BrokenPipeError:
      pass  # it died while it had nothing to do
    line = process.stdout.readline()
    if line.endswith('\n'):
      return json.loads(line), None
    code = process.wait()
    self._process = None
    return '', code

  def leave(self) -> None:
    """Asks the worker to end; `wait` waits for it."""
    with self._changing:
      self._left = True
      if process := self._process:
        process.terminate()

  def wait(self, seconds: float) -> None:
    """Ends the worker by force if it has not ended in that time.

    It saves its last chunk, unless a compilation or a long step keeps it from
    hearing. What it was at goes on from the last checkpoint.
    """
    with self._changing:
      process = self._process  # the thread that asks may forget it meanwhile
      if not process:
        return
      try:
        process.wait(seconds)
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

  def _start(self):
    files.make_folder(self.log.parent)
    with files.open_private(self.log, 'a') as log:
      # A session of its own: no Ctrl-C there.
      process = subprocess.Popen(
          self._command, env=os.environ | self.env, text=True, stderr=log,
          stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    if self.cores and hasattr(os, 'sched_setaffinity'):
      with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(process.pid, self.cores)  # before it has threads
    return process


def arrange(folder: Path, token: str, workers: int) -> list[WorkerSlot]:
  """A slot for each of `workers`; 0 is one a GPU, or one a core.

  A host's TPUs are one worker's, since only one process can hold them.
  """
  if gpus := _gpus():
    shares = [_gpu_share(gpus, i, workers or len(gpus))
              for i in range(workers or len(gpus))]
  elif find_spec('libtpu'):
    shares = [((), {})]
  else:
    cores = host.available_cores()
    shares = [_core_share(cores, i, workers or len(cores))
              for i in range(workers or len(cores))]
  command = [sys.executable, '-m', 'vidleak_jax.experiments.sweep.worker',
             str(folder),
             token]
  return [WorkerSlot(command, env | importable(),
                     folder / 'logs' / f'{number}.log', cores)
          for number, (cores, env) in enumerate(shares)]


def _core_share(cores, number, workers):
  """Equal shares, since results depend on the number of devices by rounding."""
  size = max(1, len(cores) // workers)
  first = number * size % len(cores)
  flags = [os.environ.get('XLA_FLAGS', ''),
           f'--xla_force_host_platform_device_count={size}']
  return cores[first:first + size], {'XLA_FLAGS': ' '.join(flags).strip()}


def _gpu_share(gpus, number, workers):
  env = {'CUDA_VISIBLE_DEVICES': gpus[number % len(gpus)]}
  if workers > len(gpus):
    together = -(-workers // len(gpus))
    env['XLA_PYTHON_CLIENT_MEM_FRACTION'] = f'{_GPU_MEMORY / together:.3f}'
  return (), env


def _gpus() -> list[str]:
  """What CUDA calls the GPUs that JAX could use here, without starting it."""
  plugins = entry_points(group='jax_plugins')
  usable = any('cuda' in each.name for each in plugins)
  wanted = os.environ.get('JAX_PLATFORMS', 'cuda')
  if not usable or not any(name in wanted for name in ('cuda', 'gpu')):
    return []
  if (visible := os.environ.get('CUDA_VISIBLE_DEVICES')) is not None:
    return [name for name in visible.split(',') if name]
  if not shutil.which('nvidia-smi'):
    return []
  listed = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True,
                          check=False)
  return [str(i) for i in range(listed.stdout.count('GPU '))]


def importable() -> dict[str, str]:
  """Workers find this package also where it is not installed."""
  root = str(Path(vidleak_jax.__file__).parents[1])
  paths = [root, os.environ.get('PYTHONPATH', '')]
  return {'PYTHONPATH': os.pathsep.join(filter(None, paths))}

"""Restart-steps: by lowering, restart batch, precision, victim, devices."""

import importlib.util
import statistics
from collections.abc import Iterator

import jax
import ours
import peers
import problem as problems
import timing

from probes import Probe, Size
from vidleak_jax.runtime import backend
from vidleak_jax.runtime.backend import Choices

PEERS = ('torch_vmap', 'torch_compile', 'torch', 'breaching')
_PEER_RESTARTS = 64  # at most: others run one after another
_BF16 = 'BF16_BF16_F32'


def plan(size: Size) -> Iterator[Probe]:
  """Yields one factor after another, from the backend's own choices on."""
  chosen = backend.choose(jax.devices()[0].platform)
  main = ('c3d', size.preset)
  large = chosen._replace(restart_batch=size.batches[-2])
  whole = chosen._replace(restart_batch=size.batches[-1])
  yield _own(main, size.case, large, size)
  yield _own(main, size.case, large._replace(precision='default'), size)
  yield _latency(main, size, chosen)
  yield _latency(main, size, chosen._replace(lowering='lax'))
  for name in PEERS[:1]:
    yield _peer(name, main, size.case, size)
  yield _own(main, size.case, large._replace(lowering='lax'), size)
  yield _own(main, size.case, large._replace(precision=_BF16), size)
  yield _own(main, size.case, whole, size)
  yield _own(main, size.large, large, size)
  yield _own(main, size.large, large._replace(precision='default'), size)
  for batch in size.batches[:-2]:
    yield _own(main, size.case, chosen._replace(restart_batch=batch), size)


def plan_victims(size: Size) -> Iterator[Probe]:
  """Yields other networks, other peers, and more devices."""
  chosen = backend.choose(jax.devices()[0].platform)
  large = chosen._replace(restart_batch=size.batches[-2])
  for name, preset, case in size.victims:
    yield _own((name, preset), case, large, size)
  main = ('c3d', size.preset)
  for name in PEERS[1:]:
    yield _peer(name, main, size.case, size)
  yield _peer(PEERS[0], main, size.large, size)
  count = 2
  while count <= jax.device_count():
    yield _own(main, size.case, large, size, count)
    count *= 2


def _own(network, case, choices, size, num_devices=1) -> Probe:
  label = {'name': 'restart_steps', 'peer': 'self',
           'victim': '/'.join(network), 'case': case, **choices._asdict(),
           'num_devices': num_devices}
  return Probe('steps', label, 60, lambda: own(
      network, case, choices, size.seconds, num_devices))


def _latency(network, size, choices) -> Probe:
  case = f'{size.case.split(":")[0]}:1'
  choices = choices._replace(restart_batch=1)
  label = {'name': 'latency', 'peer': 'self', 'victim': '/'.join(network),
           'case': case, **choices._asdict()}
  return Probe('steps', label, 60, lambda: own(
      network, case, choices, size.seconds, 1))


def _peer(name, network, case, size) -> Probe:
  label = {'name': 'restart_steps', 'peer': name, 'victim': '/'.join(network),
           'case': case}
  return Probe('steps', label, 90,
               lambda: peer(name, network, case, size.seconds))


def own(network: tuple[str, str], case: str, choices: Choices, seconds: float,
        num_devices: int) -> dict:
  """Returns the engine's rate on some devices, beside a large product's."""
  clip_shape, restarts = problems.parse(case)
  devices = jax.devices()[:num_devices]
  with backend.settings(choices):
    problem = problems.build(clip_shape, network, choices.lowering)
    runner = ours.build(problem, restarts, choices, devices)
    product, product_flops = timing.matmul(devices)
    times = timing.interleave({'self': runner.run, 'matmul': product},
                              timing.Effort(seconds, 3, 60))
  middle = {name: statistics.median(each) for name, each in times.items()}
  with backend.settings(choices._replace(precision='highest')):
    gap = problems.gap(runner.gradient, problems.gradient(problem))
  rate = product_flops / middle['matmul']
  floor = problems.flops(problem) * restarts
  return {**_rates(middle['self'], restarts),
          'seconds_compile': runner.seconds_compile,
          'gflop_per_restart_step': floor / restarts / 1e9,
          'share_of_product': floor / middle['self'] / rate,
          'product_tflops': rate / 1e12,
          'gradient_gap_to_float32': gap}


def peer(name: str, network: tuple[str, str], case: str, seconds: float
         ) -> dict:
  """Returns a peer's rate beside ours, for the same restarts in turns."""
  library = name.partition('_')[0]
  if importlib.util.find_spec(library) is None:
    return {'skipped': f'{library} is not installed'}
  clip_shape, restarts = problems.parse(case)
  restarts = min(restarts, _PEER_RESTARTS)
  choices = backend.choose(jax.devices()[0].platform)
  with backend.settings(choices):
    problem = problems.build(clip_shape, network, choices.lowering)
    other = peers.build(name, problem, restarts)
    runner = ours.build(problem, restarts, choices, jax.devices()[:1])
    times = timing.interleave({'self': runner.run, name: other.run},
                              timing.Effort(seconds, 3, 60))
  middle = {key: statistics.median(each) for key, each in times.items()}
  return {'restarts': restarts, **_rates(middle[name], restarts),
          'ratio_to_ours': middle[name] / middle['self'],
          'gradient_gap': problems.gap(other.gradient, runner.gradient),
          'seconds_compile': other.seconds_compile, 'version': other.version}


def _rates(seconds, restarts) -> dict:
  return {'ms_per_restart_step': 1e3 * seconds / restarts,
          'restart_steps_a_second': restarts / seconds,
          'steps_a_second': 1 / seconds}

"""What dropping the worse half of the restarts is worth at equal work.

  python benchmarks/halving.py [--quick]

The same number of restart-steps three ways: all restarts to the end, the worse
half dropped three times, and one restart alone. Means over seeds of the match
that is left (lower is better) and of the PSNR, which no attack saw.
"""

import json
import statistics
import tempfile
from pathlib import Path

from absl import flags

from vidleak_jax.cli import launcher
from vidleak_jax.experiments import audit
from vidleak_jax.recipes import default
from vidleak_jax.recipes.paper import lenet_dlg

_QUICK = flags.DEFINE_bool('quick', False, 'Two seeds, a quarter of the steps.')
_RESTARTS, _SEEDS = 8, 5
# attack -> its config, steps of each of the restarts
_CASES = {'dlg': (lenet_dlg, 150), 'ig': (default, 60)}


def main() -> None:
  for name, (module, steps) in _CASES.items():
    if _QUICK.value:
      steps //= 4
    early = steps // 10, steps // 4, steps // 2
    for how, restarts, own_steps, halve_at in (
        ('all to the end', _RESTARTS, steps, ()),
        ('halved', _RESTARTS, steps, early),
        ('one alone', 1, _RESTARTS * steps, ())):
      configs = [_config(module, name, seed) for seed in range(
          2 if _QUICK.value else _SEEDS)]
      for config in configs:
        config['attack'] |= {'num_restarts': restarts, 'num_steps': own_steps,
                             'halve_at': halve_at}
      print(json.dumps({'name': 'halving', 'attack': name, 'how': how,
                        'halve_at': halve_at, **_outcome(configs)}), flush=True)


def _config(module, attack, seed) -> dict:
  config = module.get_config().to_dict()
  config['seed'] = seed
  config['data'] |= {'name': 'photo_motion', 'split': 'test', 'dir': None}
  if attack == 'ig':  # as small as a try of many seeds should be
    config['data'] |= {'num_frames': 4, 'image_size': 16, 'original_size': 32}
  else:
    config['data'] |= {'num_frames': 2}
    config['attack']['dlg'] = default.get_config().attack.dlg.to_dict()
  config['attack']['name'] = attack
  return config


def _outcome(configs) -> dict:
  with tempfile.TemporaryDirectory() as folder:
    results = audit.run_many(
        configs, [Path(folder) / str(i) for i in range(len(configs))],
        Path(folder) / 'shared', log_fn=lambda _: None)
  return {'steps': results[0]['num_steps'],
          **{f'{key}_mean': statistics.mean(r[key] for r in results)
             for key in ('match_loss', 'psnr')}}


if __name__ == '__main__':
  launcher.run(main)

"""The example of an own network, in Python and from the command line."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.helpers import ROOT

FILE = ROOT / 'examples' / 'own_network.py'


@pytest.mark.slow
def test_python_recovers_the_clip(capsys):
  spec = importlib.util.spec_from_file_location('own_network', FILE)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  scores = module.main()
  floor = max(scores.psnr_mean_frame[0], scores.psnr_unrelated[0])
  assert scores.psnr[0] > floor + 10
  assert 'recovered by feature_matching' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.process
def test_the_command_line_takes_the_same_file(tmp_path):
  done = subprocess.run(
      [sys.executable, 'launch/attack.py', '--config=configs/quickstart.py',
       f'--config.victim.factory={FILE}:make', f'--workdir={tmp_path}',
       '--config.victim.num_classes=10', '--config.superres.name=none',
       '--config.attack.num_steps=300'],
      cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
  assert done.returncode == 0, done.stderr
  result = json.loads((tmp_path / 'result.json').read_text())
  assert result['psnr'] > 10 + max(
      result['psnr_mean_frame'], result['psnr_unrelated'])


def test_a_foreign_leak_may_not_bring_code(tmp_path):
  import jax
  import numpy as np

  import vidleak_jax as vl
  own = vl.Victim.from_flax(_net(), (4, 16, 16, 3), 5).replace(
      spec=vl.VictimSpec(factory='evil.py:make', num_classes=5))
  leak = vl.observe(own, own.init(jax.random.key(0)),
                    np.full((1, 4, 16, 16, 3), 0.5, np.float32), [1])
  leak.save(tmp_path / 'foreign')
  with pytest.raises(vl.UserError, match='--allow_code_from_leak'):
    vl.run(vl.Audit(), tmp_path / 'run', leak_path=tmp_path / 'foreign')
  assert not (tmp_path / 'run' / 'result.json').exists()


def _net():
  import flax.linen as nn

  class Net(nn.Module):

    @nn.compact
    def __call__(self, clips):
      return nn.Dense(5)(nn.tanh(nn.Conv(4, (3, 3, 3))(clips)).mean((1, 2, 3)))
  return Net()

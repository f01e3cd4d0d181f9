"""Ray and SLURM run the same groups; each is skipped where it is missing."""

import importlib.util
import shutil

import pytest

from tests.experiments.sweep.conftest import config, rows
from vidleak_jax.experiments.sweep import engines, outcomes, runner
from vidleak_jax.types import UserError

RAY = pytest.mark.skipif(
    not importlib.util.find_spec('ray'),
    reason='Ray is an extra: pip install "vidleak_jax[ray]".')
SLURM = pytest.mark.skipif(
    not importlib.util.find_spec('submitit'),
    reason='submitit is an extra: pip install "vidleak_jax[slurm]".')


def _run(folder, engine, **options):
  """One trial that works, and one that the main job refuses."""
  asked = config(overrides=[{'attack.num_steps': 4}, {'victim.name': 'none'}])
  summary = runner.run(asked, folder, engines.maker(engine, **options),
                       log_fn=lambda _: None)
  assert summary.done == 1
  assert 'Unknown victim' in summary.failed[0]['error']
  assert sorted(row['status'] for row in rows(folder)) == ['done', 'failed']
  for row in rows(folder):
    assert outcomes.status(folder, row['trial']) == row['status']


@RAY
def test_ray(tmp_path):
  _run(tmp_path, 'ray', cpus=1, resources={'GPU': 0.0, 'TPU': 0.0})


@RAY
def test_a_ray_cluster_that_does_not_answer_is_told(tmp_path):
  with pytest.raises(UserError, match=r'ray_address=127\.0\.0\.1:9'):
    runner.run(config(grid={'seed': (0,)}), tmp_path, engines.maker(
        'ray', address='127.0.0.1:9'))


@SLURM
def test_slurm_by_submitits_local_executor(tmp_path):
  _run(tmp_path, 'slurm', options=['cluster=local', 'timeout_min=5'])


@SLURM
@pytest.mark.skipif(bool(shutil.which('srun')), reason='SLURM is here.')
def test_without_slurm_nothing_runs_elsewhere(tmp_path):
  with pytest.raises(UserError, match='srun'):
    engines.maker('slurm')(tmp_path, 'token')


@SLURM
@pytest.mark.parametrize('option', ['cluster', 'no_such=1', 'cluster=mars'])
def test_a_wrong_slurm_option_is_told(option, tmp_path):
  with pytest.raises(UserError, match='--slurm'):
    engines.maker('slurm', options=[option])(tmp_path, 'token')

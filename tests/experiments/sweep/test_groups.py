"""Groups are equal, feed all workers, and keep their members."""

import pytest

from tests.experiments.sweep.conftest import config, finish
from vidleak_jax.experiments.sweep import groups, outcomes, spaces


def _trials(count, **fields):
  return spaces.trials(config(grid={'seed': range(count)} | fields))


@pytest.mark.parametrize('count, size, workers, expected', [
    (200, 32, 2, [25] * 8),
    (256, 32, 1, [32] * 8),
    (5, 32, 4, [2, 2, 1]),
    (4, 32, 4, [1] * 4),
    (3, 1, 2, [1] * 3),
    (33, 32, 1, [17, 16]),
])
def test_sizes(tmp_path, count, size, workers, expected):
  found = groups.plan(tmp_path, _trials(count), size=size, workers=workers)
  assert [len(group.members) for group in found] == expected
  members = [name for group in found for name in group.members]
  assert sorted(members) == sorted(trial.name for trial in _trials(count))


def test_only_equal_shapes_share_a_group(tmp_path):
  trials = _trials(3, **{'data.num_frames': (4, 8)})
  found = groups.plan(tmp_path, trials, size=32, workers=1)
  frames = [{config['data']['num_frames'] for config
             in groups.load(tmp_path, group.name).values()} for group in found]
  assert sorted(frames, key=str) == [{4}, {8}]


def test_an_interrupted_group_keeps_its_members_and_comes_first(tmp_path):
  trials = _trials(6)
  first, second = groups.plan(tmp_path, trials, size=3, workers=1)
  finish(tmp_path, trials[3])
  outcomes.home(tmp_path, trials[4].name).mkdir()
  pending = [*trials[:3], *trials[4:], *_trials(8)[6:]]
  again = groups.plan(tmp_path, pending, size=32, workers=1)
  assert again[0] == second
  assert len(again) == 2 and set(again[1].members) == set(
      first.members) | {trial.name for trial in _trials(8)[6:]}
  assert not (tmp_path / 'groups' / f'{first.name}.json').exists()


def test_an_interrupted_group_of_another_sweep_waits_for_it(tmp_path):
  trials = _trials(2)
  group, = groups.plan(tmp_path, trials, size=3, workers=1)
  outcomes.home(tmp_path, trials[0].name).mkdir(parents=True)
  groups.home(tmp_path, group.name).mkdir()
  other = spaces.trials(config(grid={'seed': (77,)}))
  assert group not in groups.plan(tmp_path, other, size=3, workers=1)
  assert groups.home(tmp_path, group.name).exists()
  assert groups.plan(tmp_path, trials, size=3, workers=1) == [group]
  for trial in trials:
    finish(tmp_path, trial)
  assert groups.plan(tmp_path, [], size=3, workers=1) == []
  assert not groups.home(tmp_path, group.name).exists()

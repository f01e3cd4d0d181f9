"""The page's figures are those of the rows, and it needs no network."""

import html
import json
import re

import numpy as np
import pytest

from vidleak_jax.experiments.sweep import summary
from vidleak_jax.experiments.sweep.summary import statistics
from vidleak_jax.types import UserError

RATE, WEIGHT = 'attack.ig.learning_rate', 'attack.ig.priors.spatial_tv'


def _row(rate, weight, seed, psnr):
  return {'trial': f'{rate}_{weight}_{seed}', 'status': 'done', RATE: rate,
          WEIGHT: weight, 'seed': seed, 'psnr': float(np.mean(psnr)),
          'psnr_per_clip': psnr, 'psnr_unrelated': 8.0, 'psnr_mean_frame': 12.0,
          'psnr_unrelated_per_clip': [8.0] * len(psnr),
          'psnr_mean_frame_per_clip': [12.0] * len(psnr), 'match_loss': rate}


@pytest.fixture
def rows():
  return [_row(rate, weight, seed, [20 + 100 * rate + seed, 22 + 100 * weight])
          for rate in (0.2, 0.01, 0.05) for weight in (0.02, 0.01)
          for seed in range(3)]


def _write(folder, rows):
  (folder / 'results.jsonl').write_text(
      ''.join(json.dumps(row) + '\n' for row in rows))
  (folder / 'sweep.json').write_text(json.dumps(
      {'fields': [RATE, WEIGHT, 'seed'], 'command': ['python']}))
  return summary.write(folder).read_text()


def test_settings_are_the_swept_fields_without_the_seed(rows):
  found = statistics.settings(rows, [RATE, WEIGHT, 'seed'], ['seed'])
  assert [tuple(each.fields.values()) for each in found] == [
      (rate, weight) for rate in (0.01, 0.05, 0.2) for weight in (0.01, 0.02)]
  assert all(len(each.rows) == 3 for each in found)


def test_the_margin_is_above_the_best_floor():
  assert statistics.values(_row(0.1, 0.1, 0, [15.0, 11.0]), statistics.ABOVE
                           ).tolist() == [3.0, -1.0]


def test_the_interval_covers_the_true_mean():
  rng, covered = np.random.default_rng(0), 0
  for _ in range(200):
    seeds = rng.normal(20, 1, 12)  # clips of a seed vary together
    rows = [_row(0, 0, 0, [seed + rng.normal(0, 0.5) for _ in range(4)])
            for seed in seeds]
    found = statistics.estimate(rows, 'psnr')
    covered += found.low <= 20 <= found.high
  assert 0.85 <= covered / 200 <= 0.99


def test_the_share_of_exact_clips_is_a_metric():
  rows = [{**_row(0, 0, seed, [100.0, 30.0]), 'num_exact': 1,
           'exact_per_clip': [True, False]} for seed in range(3)]
  assert 'exact' in statistics.metrics(rows)
  found = statistics.estimate(rows, 'exact')
  assert found.mean == 0.5 and 0 <= found.low < 0.5 < found.high <= 1


def test_a_single_value_has_no_interval():
  found = statistics.estimate([_row(0, 0, 0, [15.0])], 'psnr')
  assert found.mean == 15.0 and np.isnan(found.low)
  assert statistics.estimate([_row(0, 0, 0, [15.0])], 'ssim') is None


def test_the_page_shows_every_part(rows, tmp_path):
  failed = {'trial': 'bad', 'status': 'failed', RATE: 9.0, WEIGHT: 0.0,
            'seed': 0, 'error': 'ValueError: <too large>'}
  page = _write(tmp_path, [*rows, failed])
  assert '18 trials of 6 settings' in page and '1 trials failed' in page
  heat = re.search(r'<table class="heat">.*?</table>', page)[0]
  mean = np.mean([[41 + seed - 1, 23] for seed in range(3)])
  assert len(re.findall(r'<td style', heat)) == 6
  assert f'>{mean:.2f}</td>' in heat
  assert page.count('<svg') == 2 and 'Best:' in page and 'Worst:' in page
  assert page.count('<h3>Best') == page.count('<h3>Worst') == 3
  for row in rows:
    assert f'href="trials/{row["trial"]}/report.html"' in page
  assert 'ValueError: &lt;too large&gt;' in page
  assert not re.search(r'(src|href)="(http|//)', page) and '<script' not in page


@pytest.mark.parametrize('value', ['<img src=x onerror=alert(1)>', 'a<b'])
def test_swept_values_are_escaped_everywhere(rows, tmp_path, value):
  for i, row in enumerate(rows):
    row['data.dir'] = value if i % 2 else 'plain'
    row['trial'] = f'{value}{i}' if i < 2 else row['trial']
  failed = {**rows[0], 'trial': 'bad', 'status': 'failed', 'error': value}
  folder = tmp_path / 'sweep'
  folder.mkdir()
  (folder / 'results.jsonl').write_text(
      ''.join(json.dumps(row) + '\n' for row in [*rows, failed]))
  (folder / 'sweep.json').write_text(json.dumps(
      {'fields': [RATE, 'data.dir', value], 'command': ['python', value]}))
  page = summary.write(folder, over=('seed', value)).read_text()
  assert value not in page
  assert html.escape(value) in page
  assert '<small>' in page and '<a href=' in page  # what is meant as HTML


def test_pictures_stand_inside_the_page(rows, tmp_path):
  home = tmp_path / 'trials' / rows[2]['trial']
  home.mkdir(parents=True)
  (home / 'comparison.png').write_bytes(b'\x89PNG of the best')
  (home / 'metrics.jsonl').write_text(''.join(
      json.dumps({'step': i, 'best_loss': 1 / i}) + '\n' for i in (1, 2, 3)))
  page = _write(tmp_path, rows)
  assert page.count('Best loss over the steps') == 1
  assert page.count('src="data:image/png;base64,') == 1
  assert page.count('It has no picture.') == 5


def test_a_folder_without_a_sweep_is_told(tmp_path):
  with pytest.raises(UserError, match='no results of a sweep'):
    summary.write(tmp_path)

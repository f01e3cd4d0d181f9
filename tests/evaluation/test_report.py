import html.parser
import pathlib
import re

import numpy as np
import pytest

from vidleak_jax.evaluation import metrics, report
from vidleak_jax.evaluation.report import (
  curves,
  movie,
  page,
  pictures,
  terminal,
  verdict,
)
from vidleak_jax.types import UserError

ROWS = [{'step': s, 'seconds': s / 10, 'match': 10.0 ** -s, 'time': .1,
         'best_loss': 2.0 ** -s} for s in range(1, 6)]
PUBLIC = {'labels': 'inferred', 'nested': {'batch_size': 2}, 'absent': None}


def moving(clips=2, frames=4, size=16, channels=3):
  """A gradient that moves, another for each clip."""
  n, t, y, x, c = np.ogrid[:clips, :frames, :size, :size, :channels]
  values = .5 + .5 * np.sin(n + t / 2 + 3 * x / size + c) * y / size
  return values.astype(np.float32)


def noise(shape):
  return np.random.default_rng(0).random(shape, np.float32)


def write(workdir, truth, recovered, **options):
  result = {} if truth is None else metrics.score(
      recovered, truth, noise(truth.shape))
  given = dict(result=result | {'num_restarts': 3, 'device_kind': 'cpu'},
               metrics_rows=ROWS, public=PUBLIC, fps=25,
               names=[f'clip {i}' for i in range(len(recovered))])
  return report.write(
      workdir, truth=truth, recovered=recovered, **given | options)


def decode(path):
  import av
  with av.open(str(path)) as file:
    stream = file.streams.video[0]
    frames = [f.to_ndarray(format='rgb24') for f in file.decode(stream)]
    return np.stack(frames), stream.codec_context.name, stream.average_rate


class Balance(html.parser.HTMLParser):
  """Collects the tags that are left open, and all links."""
  def __init__(self, text):
    super().__init__()
    self.open, self.links, self.text = [], [], ''
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.links += [v for k, v in attrs if k in ('src', 'href', 'poster')]
    if tag not in ('meta', 'img', 'source', 'br'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data + ' '


def test_the_page_is_whole_and_needs_no_network(tmp_path):
  truth = moving()
  files = write(tmp_path, truth, (truth + .01).clip(0, 1))
  assert sorted(p.name for p in tmp_path.iterdir()) == [
      'comparison.mp4', 'comparison.png', 'report.html']
  text = files.page.read_text()
  parsed = Balance(text)
  assert not parsed.open
  assert {re.split('[;,]', link)[0] for link in parsed.links} == {
      'data:image/png', 'data:video/mp4', 'comparison.mp4'}
  assert not re.search('https?:|<script|@import|url\\(', text)
  for word in ('truth', 'recovery', 'inferred', 'nested.batch size', 'cpu'):
    assert word in parsed.text


def test_users_words_are_escaped(tmp_path):
  bad = '<b onload="x">&'
  truth = moving(1)
  files = write(tmp_path, truth, truth, names=[bad], public={bad: bad},
                metrics_rows=[{'step': 1, bad: 1.0}],
                setup={'command': ['run', bad], 'versions': {'jax': bad}})
  assert bad not in files.page.read_text()
  assert bad in Balance(files.page.read_text()).text


def test_a_recovery_below_its_floor_is_called_that(tmp_path):
  truth = moving()
  recovered = np.stack([truth[0], noise(truth.shape[1:])])
  text = Balance(write(tmp_path, truth, recovered).page.read_text()).text
  assert '1 of 2 clips recovered above the floor' in text
  assert text.count('below the floor') == 1
  title, _ = verdict.headline(metrics.score(
      noise(truth.shape), truth, 1 - noise(truth.shape)))
  assert title == 'Below the floor: no clip was recovered'


def test_a_better_reference_frame_makes_the_floor():
  truth = moving(1)
  near, nearer = (truth * .9), (truth * .99)
  without = metrics.score(near, truth, noise(truth.shape))
  beside = metrics.score(near, truth, noise(truth.shape), reference=nearer)
  assert verdict.headline(without)[0].startswith('The clip was recovered')
  assert verdict.headline(beside)[0].startswith('Below the floor')


def test_exact_clips_are_counted_and_the_end_of_the_scale_is_told():
  truth = moving(3, 4)
  result = metrics.score(np.stack([truth[0], *(truth[1:] * .9)]), truth,
                         noise(truth.shape)) | {'label_accuracy': 1.0}
  _, lines = verdict.headline(result)
  assert '4 of 12 frames count as 100' in lines[0]
  assert 'Exact to 8 bits: 1 of 3.' in lines
  assert 'exact clips: 1 of 3' in terminal.of_run(result, pathlib.Path('x'))
  _, lines = verdict.headline(metrics.score(
      truth * .9, truth, noise(truth.shape)))
  assert 'count as' not in lines[0] and len(lines) == 1


def test_without_truth_nothing_is_scored(tmp_path):
  text = Balance(write(tmp_path, None, moving()).page.read_text()).text
  assert 'Recovered from the leak alone' in text
  assert 'difference' not in text
  assert ' dB' not in text


def test_the_video_shows_the_truth_beside_the_recovery(tmp_path):
  truth = moving(2, 4, 16)
  files = write(tmp_path, truth, 1 - truth, fps=12.5)
  frames, codec, rate = decode(files.video)
  assert codec == 'h264'
  assert rate == 12.5
  assert len(frames) == 40  # 4 frames, ten times, for at least 3 s
  assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0
  views = {'truth': truth, 'recovery': 1 - truth}
  _, panels = movie._background(
      {k: pictures.to_uint8(v) for k, v in views.items()}, ['a', 'b'])
  for (view, row), ((x, y), (wide, high)) in panels.items():
    shown = frames[2, y:y + high, x:x + wide] / 255
    expected = views[view][row, 2].repeat(high // 16, 0).repeat(wide // 16, 1)
    assert metrics.psnr(shown, expected) > 25


def test_without_h264_the_page_says_so(tmp_path, monkeypatch):
  import av
  monkeypatch.setattr(av, 'codecs_available', {'mpeg4'})
  truth = moving(1, 3, 11)
  files = write(tmp_path, truth, truth, fps=19.62)
  frames, codec, _ = decode(files.video)
  assert codec == 'mpeg4'
  assert len(frames) % 3 == 0
  assert 'no H.264 encoder' in files.page.read_text()


def test_enhanced_views_and_grey_clips(tmp_path):
  truth, high = moving(1, 2, 12, 1), moving(1, 2, 48, 1)
  result = metrics.score(truth, truth, noise(truth.shape))
  result |= metrics.score_enhanced(high, high * .9, high)
  files = write(tmp_path, truth, truth, result=result, enhanced=high,
                original=high)
  text = Balance(files.page.read_text()).text
  for word in ('enhanced', 'bicubic', 'original', 'dB over bicubic'):
    assert word in text


def test_many_clips_and_frames_are_cut_in_order(tmp_path):
  truth = moving(report.MAX_CLIPS + 2, 20, 8)  # too small for SSIM as well
  parsed = Balance(write(tmp_path, truth, truth).page.read_text())
  assert f'The first {report.MAX_CLIPS} of {len(truth)} clips' in parsed.text
  assert '8 of 20 frames, evenly spread: 0, 3, 5, 8, 11, 14, 16, 19' in (
      parsed.text)
  # Each frame shown, and the headline's mean.
  assert parsed.text.count('100.0 dB') == 8 * report.MAX_CLIPS + 1
  assert '–' in parsed.text


def test_a_failure_leaves_the_former_report(tmp_path, monkeypatch):
  truth = moving(1)
  write(tmp_path, truth, truth)
  before = {p: p.read_bytes() for p in tmp_path.iterdir()}

  def fail(path, *_):
    path.write_text('half')
    raise OSError('disk full')
  monkeypatch.setattr(pictures, 'save_sheet', fail)
  with pytest.raises(OSError, match='disk full'):
    write(tmp_path, truth, 1 - truth)
  assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize('change, message', [
    ({'truth': moving(1)}, 'shape'),
    ({'recovered': np.full((2, 4, 16, 16, 3), np.nan)}, 'NaN'),
    ({'recovered': np.zeros((2, 4, 16, 16, 3), np.uint8)}, 'floats'),
    ({'enhanced': moving(2, 3, 32)}, 'enhanced'),
    ({'names': ['one']}, '1 names for 2 clips'),
    ({'fps': 0}, 'fps'),
])
def test_mistakes_are_explained(tmp_path, change, message):
  given = dict(truth=moving(), recovered=moving(), result={}, fps=25,
               metrics_rows=[], public={}, names=['a', 'b'])
  with pytest.raises(UserError, match=message):
    report.write(tmp_path, **given | change)


def test_an_ambiguous_answer_is_said_to_be_one():
  result = {'verdict': 'partly', 'attack': 'ig', 'gradient_residual': 1e-6,
            'undetermined_per_update': [None, 0.63]}
  _, lines = verdict.headline(result)
  assert '63 % of what its pixels can do' in lines[-1]
  _, lines = verdict.headline(result | {'undetermined_per_update': [0.001]})
  assert 'Other clips' not in lines[-1]


def test_curves_use_a_logarithmic_axis_where_it_helps():
  (title, terms), (_, best) = curves.charts(ROWS)
  assert title == 'Objective and its terms'
  assert 'logarithmic' in terms
  assert 'logarithmic' not in best
  assert 'best loss <b>0.0312</b>' in best


def test_curves_of_odd_rows():
  assert curves.charts([]) == []
  assert curves.charts([{'step': 1, 'loss': None}]) == []
  (_, one), = curves.charts([{'step': 0, 'loss': 0.0}])
  assert 'nan' not in one
  (_, zeros), = curves.charts(
      [{'step': s, 'loss': v} for s, v in enumerate([1.0, 1e-3, 0.0])])
  assert 'logarithmic' in zeros
  rows = [{'step': s, 'message': m, 'loss': -1.0} for m in (0, 1)
          for s in range(3000)]
  (_, long), = curves.charts(rows)
  assert long.count('M') == 2  # one line a message
  assert long.count('L') < 2 * curves.MAX_POINTS


def test_a_closed_form_has_no_curves(tmp_path):
  files = write(tmp_path, moving(1), moving(1), metrics_rows=[], public={})
  text = Balance(files.page.read_text()).text
  assert 'No steps were logged' in text
  assert 'Nothing was recorded' in text


def test_long_lists_are_cut():
  assert '… (20 in all)' in page.facts({'layers': list(range(20))})


def test_frames_too_small_for_ssim_get_a_dash(tmp_path):
  truth = moving(1, 2, 8)
  high = moving(1, 2, 10)
  result = metrics.score(truth * .9, truth, noise(truth.shape)) | {
      'label_accuracy': 1.0} | metrics.score_enhanced(high, high * .9, high)
  lines = terminal.of_run(result, pathlib.Path('x')).splitlines()
  assert [line.split()[-1] for line in lines[1:4]] == ['–'] * 3
  assert {len(line) for line in lines[:4]} == {35}
  text = Balance(write(tmp_path, truth, truth * .9).page.read_text()).text
  assert '–' in text and 'nan' not in text


def test_what_was_tried_is_a_table_and_the_verdict_a_sentence():
  result = {'verdict': 'partly', 'attack': 'ig', 'gradient_residual': 0.25,
            'attempts': [
                {'name': 'ig', 'gradient_residual': 0.25, 'seconds': 3.0,
                 'why_not': ''},
                {'name': 'rgap', 'gradient_residual': None, 'seconds': 0.0,
                 'why_not': 'no <layers>'}]}
  rows = verdict.tried(result)
  assert 'no &lt;layers&gt;' in rows and rows.count('<tr>') == 3
  _, lines = verdict.headline(result)
  assert any('partly' in line and 'never says that an update is safe' in line
             for line in lines)
  assert verdict.tried({}) == ''

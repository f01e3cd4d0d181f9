"""The few lines a run starts and ends with on the terminal."""

import json
from pathlib import Path

from vidleak_jax import trees
from vidleak_jax.evaluation import metrics
from vidleak_jax.types import Leak, Row


def of_leak(leak: Leak) -> str:
  """Returns what the attacker was given, a fact a line: the threat model."""
  count = trees.num_entries(leak.params)
  facts = {'parameters': f'{count}, with their update in each message',
           'updates': leak.num_updates,
           'labels': 'not known' if leak.labels is None else 'known',
           **leak.public.to_dict()}
  lines = [f'  {name.replace("_", " ")}: {_told(value)}'
           for name, value in facts.items()]
  return '\n'.join(['The attacker knows', *lines])


def _told(value) -> str:
  """A fact as one line; groups without what is off or not given."""
  if value is None:
    return 'not known'
  if not isinstance(value, dict):
    return value if isinstance(value, str) else json.dumps(value)
  given = {k: v for k, v in value.items() if v is not None and v != 0}
  return json.dumps(given) if given else 'none'


def of_run(result: Row, workdir: Path) -> str:
  """PSNR and SSIM with their floors, and where the report is."""
  lines = []
  if result.get('psnr') is not None:
    lines += [
        f'{"":18}{"PSNR dB":>9}{"SSIM":>8}',
        _row('recovery', result['psnr'], result['ssim']),
        _row('unrelated clip', result['psnr_unrelated'],
             result['ssim_unrelated']),
        _row('mean colour', result['psnr_mean_frame'],
             result['ssim_mean_frame']),
        f'labels right: {result["label_accuracy"]:.0%}',
    ]
  if result.get('num_exact'):
    lines.append(f'exact clips: {result["num_exact"]} of '
                 f'{len(result["psnr_per_clip"])} (a frame has at most '
                 f'{metrics.CEILING:.0f} dB)')
  if result.get('psnr_enhanced') is not None:
    lines += [
        _row('enhanced', result['psnr_enhanced'], result['ssim_enhanced']),
        _row('bicubic', result['psnr_bicubic'], result['ssim_bicubic'])]
  if result.get('verdict'):
    tried = [a['name'] for a in result['attempts'] if not a['why_not']]
    lines.append(f'verdict: {result["verdict"]} (tried: {", ".join(tried)}; '
                 f'best: {result["attack"]}, gradient residual '
                 f'{result["gradient_residual"]:.2g})')
  if 'match_loss' not in result:
    return '\n'.join([*lines, f'report: {workdir / "report.html"}'])
  lines += [
      f'match loss {result["match_loss"]:.3g} after '
      f'{result["seconds_attack"]:.0f} s '
      f'({result["restart_steps_per_second"]:.0f} restart-steps/s)',
      f'report: {workdir / "report.html"}',
  ]
  return '\n'.join(lines)


def _row(name, psnr, ssim):
  similar = '–' if ssim is None else f'{ssim:.3f}'  # too small for its window
  return f'{name:18}{psnr:9.2f}{similar:>8}'

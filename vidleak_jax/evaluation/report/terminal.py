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
  if leak.public.defense is not None:
    facts['defense'] = leak.public.defense.active()
  if leak.public.federated.algorithm == 'fedsgd':  # it trains nothing
    facts['federated'] = {
        'algorithm': 'fedsgd', 'message': leak.public.federated.message}
  lines = [f'  {name.replace("_", " ")}: {_told(value)}'
           for name, value in facts.items()]
  return '\n'.join([
      'The attacker knows', *lines, 'Attacking. A network of this shape is '
      'compiled first, in seconds to minutes; the next run finds it compiled.'])


def _told(value) -> str:
  """A fact as one line; groups without what is off or not given."""
  if value is None:
    return 'not known'
  if not isinstance(value, dict):
    return value or 'none' if isinstance(value, str) else json.dumps(value)
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


def of_audit(result: Row, page: Path) -> str:
  """Returns an audit in a few lines: attacks, verdict, what would stop it."""
  lines = [f'{"attack":22}{"residual":>10}{"PSNR dB":>9}{"seconds":>9}']
  for row in result['attacks']:
    if row['gradient_residual'] is not None:
      psnr = '–' if row['psnr'] is None else f'{row["psnr"]:.1f}'
      lines.append(f'{row["name"]:22}{row["gradient_residual"]:10.2g}{psnr:>9}'
                   f'{row["seconds"]:9.0f}  {row["why_not"]}'.rstrip())
  lines += [f'verdict: {result["verdict"]}', result['sentence'],
            result['bounds']['words']]
  lines += [f'- {row["words"]}' for row in result['what_would_stop_it']]
  if result['budget_was_spent']:
    lines.append('The budget ended before everything was tried; the same '
                 'command with a larger --budget goes on.')
  return '\n'.join([*lines, f'page: {page}'])


def _row(name, psnr, ssim):
  similar = '–' if ssim is None else f'{ssim:.3f}'  # too small for its window
  return f'{name:18}{psnr:9.2f}{similar:>8}'

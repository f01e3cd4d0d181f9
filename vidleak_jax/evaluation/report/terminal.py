"""The few lines a run starts and ends with on the terminal."""

import json
from pathlib import Path
from typing import Any

import jax

from vidleak_jax.evaluation import metrics
from vidleak_jax.types import Leak


def of_knowledge(leak: Leak, knowledge: dict[str, Any]) -> str:
  """What the attacker was given, a fact a line: this run's threat model."""
  count = sum(leaf.size for leaf in jax.tree.leaves(leak.params))
  facts = {'parameters': f'{count}, with their update in each message',
           **knowledge}
  lines = [f'  {name.replace("_", " ")}: '
           f'{value if isinstance(value, str) else json.dumps(value)}'
           for name, value in facts.items()]
  return '\n'.join(['The attacker knows', *lines])


def of_run(result: dict[str, Any], workdir: Path) -> str:
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

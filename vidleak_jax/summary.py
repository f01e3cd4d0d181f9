"""The few lines a run ends with on the terminal."""

from pathlib import Path
from typing import Any


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
  lines += [
      f'match loss {result["match_loss"]:.3g} after '
      f'{result["seconds_attack"]:.0f} s '
      f'({result["restart_steps_per_second"]:.0f} restart-steps/s)',
      f'report: {workdir / "report.html"}',
  ]
  return '\n'.join(lines)


def _row(name, psnr, ssim):
  return f'{name:18}{psnr:9.2f}{ssim:8.3f}'

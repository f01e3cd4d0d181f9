"""Where tests find files: the checkout, stored references, real clips."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REFERENCES = ROOT / 'tests' / 'references'
# Class folders of real videos; by default a folder beside the checkout.
CLIPS = Path(os.environ.get('VIDLEAK_CLIPS') or ROOT / '../shared/data/videos')
needs_clips = pytest.mark.skipif(
    not CLIPS.is_dir(),
    reason=f'no real videos at {CLIPS}: set VIDLEAK_CLIPS')

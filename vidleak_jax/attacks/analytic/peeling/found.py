"""What layer peeling found, and what is to be said of it."""

from typing import NamedTuple

import numpy as np

from vidleak_jax.attacks.analytic.peeling import contrast, frames, pixels
from vidleak_jax.attacks.analytic.peeling.branch import Row
from vidleak_jax.attacks.analytic.peeling.descent import Walked
from vidleak_jax.attacks.matching import gauss_newton

EXACT = 1e-3  # error of the known layer's outputs, relative


class Found(NamedTuple):
  """What one update gave away."""
  clips: np.ndarray   # [B, T, H, W, C] float64
  labels: np.ndarray  # [B]
  rows: list[Row]
  misfit: float     # of the known layer's outputs, relative
  note: str = ''    # what is open about it, for the user
  completed: bool = False  # by a prior


def about_frames(walked: Walked, misfit: float, tried: int) -> str:
  """Returns what is not certain about the order of the frames, for the user."""
  network = walked.network
  if not network.num_loose:
    return ''
  if misfit > EXACT:
    return f'none of {tried} orders of its frames explains it'
  if not network.crosses_frames:
    return ('no kernel crosses frames, so their order is a guess from how '
            'alike they are, and may be the reverse')
  clips = walked.known.value.reshape(*walked.positions[:2], -1)
  closest = min(frames.closest(each) for each in clips)
  return (f'two of its frames differ by {closest:.0e} of their features, so '
          'which is which is a guess') * (closest <= EXACT)


def with_contrast(found: Found, blank: np.ndarray, eight_bit: bool) -> Found:
  """Returns the clip with the contrast that its network does not see."""
  clips = contrast.by_levels(found.clips, blank) if eight_bit else None
  if clips is not None:
    return found._replace(clips=clips)
  return found._replace(
      note='the network does not see the contrast of its clip, and no levels '
      'of video tell it')


def misfit_of(result: gauss_newton.Result, parts: list[pixels.Part]) -> float:
  """Returns the error of the known outputs, over their size."""
  count = sum(fact.value.size for part in parts for fact in part.facts)
  return float(np.sqrt(result.cost / count))


def note_of(found: list[Found]) -> str:
  """Returns why the answer is not exact, or '', for the user."""
  bad = [f'update {m}: what Gauss-Newton found leaves {each.misfit:.0e} of the '
         'known layer unexplained' for m, each in enumerate(found)
         if each.misfit > EXACT]
  bad += [f'update {m}: a prior chose among the clips that the equations allow'
          for m, each in enumerate(found) if each.completed]
  loose = [f'update {m}: {each.note}' for m, each in enumerate(found)
           if each.note]
  return (f'The closed form is not exact: {"; ".join(bad)}. ' * bool(bad)
          + f'Open is: {"; ".join(loose)}.' * bool(loose))

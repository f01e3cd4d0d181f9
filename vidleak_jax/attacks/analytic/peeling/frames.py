"""The order of frames that no kernel has told apart.

Where no kernel crosses frames a network answers the same for frames in any
order. Frames of a video that follow each other look alike, so the shortest path
through all of them is about their order; its direction and its neighbours are
left to the layers that do cross frames.
"""

import itertools
from collections.abc import Iterator

import numpy as np

_PATHS = 8  # of a clip, the shortest and those one move away from it


def orders(value: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
  """Yields orders of positions [P], the likeliest first.

  Args:
    value: [P, C] what is known of all positions of the clips, in any order of
      their frames.
    shape: (B, T, ...), of the positions.
  """
  clips = value.reshape(*shape[:2], -1)
  paths = [_paths(distances(frames)) for frames in clips]
  places = np.arange(len(value)).reshape(*shape[:2], -1)
  chosen = sorted(itertools.product(*paths), key=lambda each: sum(
      length for length, _ in each))
  for each in chosen:
    for backwards in itertools.product((False, True), repeat=len(each)):
      yield np.concatenate([
          place[path[::-1] if back else path].ravel()
          for place, (_, path), back in zip(places, each, backwards)])


def distances(frames: np.ndarray) -> np.ndarray:
  """Returns [T, T] how far frames [T, N] are apart, over their size."""
  square = (frames ** 2).sum(1)
  apart = square[:, None] + square - 2 * frames @ frames.T
  return np.sqrt(np.maximum(apart, 0.0) / square.mean())


def closest(frames: np.ndarray) -> float:
  """Returns how far the two nearest of frames [T, N] are apart."""
  return float(distances(frames)[np.triu_indices(len(frames), 1)].min())


def _paths(apart: np.ndarray) -> list[tuple[float, list[int]]]:
  """(length over the shortest, path) of the best paths, in one direction."""
  best = _shortest(apart)
  found = {min(tuple(path), tuple(path[::-1])) for path in (
      best, *_moved(best))}
  lengths = sorted((float(apart[path[:-1], path[1:]].sum()), path)
                   for path in map(list, found))
  return [(length / max(lengths[0][0], 1e-300), path)
          for length, path in lengths[:_PATHS]]


def _shortest(apart: np.ndarray) -> list[int]:
  """The shortest path through all frames, over all subsets (Held, Karp)."""
  count = len(apart)
  cost = np.full((1 << count, count), np.inf)
  before = np.zeros((1 << count, count), int)
  cost[1 << np.arange(count), np.arange(count)] = 0.0
  for members in range(1, 1 << count):
    for last in range(count):
      rest = members & ~(1 << last)
      if rest != members and rest:
        lengths = cost[rest] + apart[:, last]
        before[members, last] = lengths.argmin()
        cost[members, last] = lengths.min()
  members = (1 << count) - 1
  path = [int(cost[members].argmin())]
  while len(path) < count:
    members, last = members & ~(1 << path[-1]), before[members, path[-1]]
    path.append(int(last))
  return path


def _moved(path: list[int]) -> Iterator[list[int]]:
  """A path with one stretch reversed, or one frame elsewhere."""
  for i, j in itertools.combinations(range(len(path) + 1), 2):
    yield path[:i] + path[i:j][::-1] + path[j:]
  for i, j in itertools.permutations(range(len(path)), 2):
    rest = path[:i] + path[i + 1:]
    yield [*rest[:j], path[i], *rest[j:]]

"""Arrays and their names: batches, guesses, targets, recoveries."""

from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray
PRNGKey = jax.Array
Row = dict[str, Any]  # a JSON object: of result.json, or a line of a .jsonl
Params = Any  # a pytree of arrays, as linen's `init` returns under 'params'


class Batch(NamedTuple):
  """What the client holds in private."""
  clips: Array   # [B, T, H, W, C] float32 in [0, 1]
  labels: Array  # [B] int32


class Guess(NamedTuple):
  """What an attack varies: one candidate for one update's batch."""
  clips: Array   # [B, T, H, W, C] float32
  labels: Array  # [B] int32, or [B, K] float32 logits of a soft label


class Target(NamedTuple):
  """What an iterative attack matches, as it prepared it from a leak.

  The terms of an objective see one update at a time, without the axis M.
  """
  params: Params  # the weights, the same for all updates
  evidence: Any   # leaves [M, ...]: the update, or what follows from it


class Recovery(NamedTuple):
  """An attack's answer for all updates of a leak."""
  clips: np.ndarray      # [M, B, T, H, W, C] float32 in [0, 1]
  labels: np.ndarray     # [M, B] int32
  objective: np.ndarray  # [M] what the attack itself minimised; NaN: nothing
  features: np.ndarray | None = None  # [M, B, T, F] of a frozen extractor
  gradient_residual: np.ndarray | None = None  # [M], see attacks.residual


def is_off(strength: float | Array) -> bool:
  """Whether a strength is a plain 0, and so a part of the program."""
  return isinstance(strength, int | float) and strength == 0

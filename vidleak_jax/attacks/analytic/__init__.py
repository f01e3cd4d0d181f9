"""Attacks by linear algebra: no iteration on the pixels, no restarts."""

from vidleak_jax.attacks.analytic.dense import (
    dense_input,
    infer_label,
    input_span,
)
from vidleak_jax.attacks.analytic.polish import polish
from vidleak_jax.attacks.analytic.rgap import walk_down
from vidleak_jax.attacks.analytic.rounding import to_levels
from vidleak_jax.attacks.analytic.transformer import recover_tokens

__all__ = [
    'dense_input',
    'infer_label',
    'input_span',
    'polish',
    'recover_tokens',
    'to_levels',
    'walk_down',
]

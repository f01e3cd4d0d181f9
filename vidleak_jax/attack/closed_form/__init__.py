"""Attacks by linear algebra: no iteration on the pixels, no restarts."""

from vidleak_jax.attack.closed_form.dense import (
    dense_input,
    infer_label,
    input_span,
)
from vidleak_jax.attack.closed_form.levels import to_levels
from vidleak_jax.attack.closed_form.polish import polish
from vidleak_jax.attack.closed_form.recursive import walk_down
from vidleak_jax.attack.closed_form.tokens import recover_tokens

__all__ = [
    'dense_input',
    'infer_label',
    'input_span',
    'polish',
    'recover_tokens',
    'to_levels',
    'walk_down',
]

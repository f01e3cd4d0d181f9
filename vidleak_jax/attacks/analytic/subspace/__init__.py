"""The subspace attack: spans of what a transformer's layers saw."""

from vidleak_jax.attacks.analytic.subspace.recover import (
    Subspace,
    recover_spans,
)

__all__ = ['Subspace', 'recover_spans']

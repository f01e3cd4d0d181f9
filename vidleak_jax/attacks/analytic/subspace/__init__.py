"""Closed evidence of transformers: the spans of what their layers saw."""

from vidleak_jax.attacks.analytic.subspace.recover import recover_spans

__all__ = ['recover_spans']

"""Closed evidence of transformers: the spans of what their layers saw."""

from vidleak_jax.attack.spans.recover import recover_spans

__all__ = ['recover_spans']

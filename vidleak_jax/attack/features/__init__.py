"""Frozen extractors: from a head's gradient to features, then to pixels."""

from vidleak_jax.attack.features.head import Features, recover_features

__all__ = ['Features', 'recover_features']

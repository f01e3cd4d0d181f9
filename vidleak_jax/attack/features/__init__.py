"""Frozen extractors: from a head's gradient to features, then to pixels."""

from vidleak_jax.attack.features.head import Features, recover_features
from vidleak_jax.attack.features.pixels import recover_frames

__all__ = ['Features', 'recover_features', 'recover_frames']

"""Frozen extractors: from a head's gradient to features, then to pixels."""

from vidleak_jax.attacks.features.decoder import recover_frames
from vidleak_jax.attacks.features.head import Features, recover_features

__all__ = ['Features', 'recover_features', 'recover_frames']

"""Frozen extractors: from a head's gradient to features, then to pixels."""

from vidleak_jax.attacks.features.decoder import frame_extractor, recover_frames
from vidleak_jax.attacks.features.head import Features, recover_features

__all__ = [
    'Features', 'frame_extractor', 'recover_features', 'recover_frames']

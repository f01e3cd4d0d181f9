"""Every attack, a line each; nothing else lists them."""

from vidleak_jax.attacks.analytic.closed_form import ClosedForm
from vidleak_jax.attacks.analytic.peeling.attack import Peeling
from vidleak_jax.attacks.analytic.rgap import RGap
from vidleak_jax.attacks.analytic.subspace import Subspace
from vidleak_jax.attacks.analytic.transformer import TransformerEmbedding
from vidleak_jax.attacks.auto import Auto
from vidleak_jax.attacks.base import Attack
from vidleak_jax.attacks.features.attack import FrozenFeatures
from vidleak_jax.attacks.matching.adam_matching import AdamMatching
from vidleak_jax.attacks.matching.defense_aware import DefenseAware
from vidleak_jax.attacks.matching.feature_matching import FeatureMatching
from vidleak_jax.attacks.matching.gradient_matching import (
    DeepLeakage,
    ImprovedDeepLeakage,
    InvertingGradients,
)

ATTACKS: dict[str, type[Attack]] = {attack.name: attack for attack in (
    Auto,
    TransformerEmbedding,
    FrozenFeatures,
    RGap,
    ClosedForm,
    FeatureMatching,
    Subspace,
    Peeling,
    DefenseAware,
    AdamMatching,
    InvertingGradients,
    DeepLeakage,
    ImprovedDeepLeakage,
)}

"""What flows between the stages; ranges and shapes are said here, once.

Clips are float32 in [0, 1], channels last. Axes: B clips in one update, T
frames, H rows, W columns, C colours, K classes, M updates in a leak.
"""

from vidleak_jax.errors import UserError, attempt, pick
from vidleak_jax.types.arrays import (
    Array,
    Batch,
    Guess,
    Params,
    PRNGKey,
    Recovery,
    Row,
    Target,
    is_off,
)
from vidleak_jax.types.leak import FORMAT_VERSION, Leak, PublicInfo, Round
from vidleak_jax.types.victim import Layer, Tokens, Victim

__all__ = ['FORMAT_VERSION', 'Array', 'Batch', 'Guess', 'Layer', 'Leak',
           'PRNGKey', 'Params', 'PublicInfo', 'Recovery', 'Round', 'Row',
           'Target', 'Tokens', 'UserError', 'Victim', 'attempt', 'is_off',
           'pick']

"""Torch modules as JAX functions."""

from vidleak_jax.victims.torch_import.from_torch import torch_to_jax
from vidleak_jax.victims.torch_import.layout import flax_layout

__all__ = ['flax_layout', 'torch_to_jax']

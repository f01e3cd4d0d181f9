"""Torch modules as JAX functions."""

from vidleak_jax.victims.torch_import.from_torch import torch_to_jax

__all__ = ['torch_to_jax']

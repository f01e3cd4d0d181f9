"""A leak: what was sent, on disk and from elsewhere."""

from vidleak_jax.leaks.importers import from_arrays, from_flower, from_torch
from vidleak_jax.leaks.storage import load, save

__all__ = ['from_arrays', 'from_flower', 'from_torch', 'load', 'save']

"""A leak: what was sent, on disk and from elsewhere."""

from vidleak_jax.leaks.storage import load, save

__all__ = ['load', 'save']

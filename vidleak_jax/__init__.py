"""How much of a private video leaks through federated-learning gradients."""

from vidleak_jax._version import __version__

__all__ = ['__version__']

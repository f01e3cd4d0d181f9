"""How much of a private video leaks through federated-learning gradients."""

__version__ = '0.1.0'

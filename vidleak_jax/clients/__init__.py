"""What an honest client computes, defends and sends: clips in, a leak out."""

from vidleak_jax.clients import defenses
from vidleak_jax.clients.base import Client, join, split
from vidleak_jax.clients.fedavg import FedAvg
from vidleak_jax.clients.fedsgd import FedSGD
from vidleak_jax.clients.observe import (
    client_from,
    in_rounds,
    observe,
    simulate,
)

__all__ = ['Client', 'FedAvg', 'FedSGD', 'client_from', 'defenses', 'in_rounds',
           'join', 'observe', 'simulate', 'split']

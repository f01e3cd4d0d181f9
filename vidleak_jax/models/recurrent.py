"""GRU and LSTM with the weights, and so the gradients, of torch's layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from vidleak_jax.types import Array, pick


class Recurrent(nn.Module):
  """A sequence [B, T, F] to the cell's last state [B, D].

  Attributes:
    width: D.
    cell: 'gru' (1406.1078) or 'lstm'. Its gates stand side by side in 'input'
      and 'hidden', both with a bias, as torch has them.
  """
  width: int
  cell: str = 'gru'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    num_gates, advance = pick(CELLS, self.cell, 'recurrent cell')
    size = num_gates * self.width
    init = nn.initializers.orthogonal()
    gates = nn.Dense(size, name='input')(x)
    # Declared outside of the scan, so that its body is a pure function.
    hidden = nn.Dense(size, name='hidden', kernel_init=init)
    state = jnp.zeros((2, x.shape[0], self.width), x.dtype)
    hidden(state[0])
    params = hidden.variables['params']

    def step(state, gates):
      recurrent = state[0] @ params['kernel'] + params['bias']
      return advance(state, gates, recurrent), None

    state, _ = lax.scan(step, state, gates.swapaxes(0, 1))
    return state[0]


def _gru(state, gates, recurrent):
  reset, update, new = jnp.split(gates, 3, axis=-1)
  reset_h, update_h, new_h = jnp.split(recurrent, 3, axis=-1)
  update = jax.nn.sigmoid(update + update_h)
  new = jnp.tanh(new + jax.nn.sigmoid(reset + reset_h) * new_h)
  output = (1 - update) * new + update * state[0]
  return jnp.stack([output, state[1]])


def _lstm(state, gates, recurrent):
  take, keep, new, show = jnp.split(gates + recurrent, 4, axis=-1)
  memory = (jax.nn.sigmoid(keep) * state[1]
            + jax.nn.sigmoid(take) * jnp.tanh(new))
  return jnp.stack([jax.nn.sigmoid(show) * jnp.tanh(memory), memory])


CELLS = {'gru': (3, _gru), 'lstm': (4, _lstm)}

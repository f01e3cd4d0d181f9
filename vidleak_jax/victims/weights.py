"""The shared `vidleak_jax.weights`, under the name that victims use."""

from vidleak_jax.weights import (  # noqa: F401
  Names,
  Report,
  convert,
  fill,
  load,
  read,
  rename,
  require_all,
)

"""What an honest client sends, and what of its set-up is public.

The counterpart of `attacks.py`: clips in, a leak out.
"""

import functools
import json
from typing import Any

import jax
import numpy as np

from vidleak_jax import data, victims
from vidleak_jax.clients import defenses, federated
from vidleak_jax.runtime import backend
from vidleak_jax.types import Leak, PRNGKey, Victim

_KEPT = 8  # victims, and clients' programs, of the last audits


def compute_leak(
    config: dict[str, Any], sample: data.Sample, choices: backend.Choices,
    key: PRNGKey,
) -> tuple[Leak, dict[str, Any]]:
  """The client's gradients or updates behind its defence, and leak.json.

  Args:
    config: resolved, with a `federated.message`.
    sample: of N clips; they form N / message size messages.
    choices: of the backend.
    key: of the weights, the defence's noise and the dropout.

  Raises:
    UserError: for an unknown name, weights that do not fit, clips that do not
      divide into messages.
  """
  federation = config['federated']
  messages = federated.split(sample.batch, federation['message'])
  num_messages, batch_size, *clip_shape = messages.clips.shape
  asked = dict(config['victim'])
  dropout = asked.pop('dropout_active')
  checkpoint = asked.pop('checkpoint')
  knowledge = {
      'victim': victims.resolve(**asked),
      'weights': checkpoint or 'as initialised',
      'dropout': 'active' if dropout else 'not active',
      'clip_shape': clip_shape,
      'pixels': '8 bit a colour, divided by 255',
      'num_frames': config['data']['num_frames'],
      'batch_size': batch_size,
      'num_messages': num_messages,
      'federated': federation,
      'labels': 'known' if federation['labels_known'] else 'not known',
      'defense': {k: v for k, v in config['defense'].items() if v} or 'none',
      'reference_frames': (list(config['superres']['references'])
                           or sample.references.shape[1]),
  }
  victim = victim_of(knowledge, choices)
  knowledge['frozen'] = victim.known or 'nothing'
  params, noise, masks = jax.random.split(key, 3)
  weights = victim.init(params)
  if checkpoint:
    weights = victims.load(config['victim']['name'], weights, checkpoint)
  strengths = {k: v for k, v in config['defense'].items() if v}
  leak = _client(victim.loss, json.dumps(federation))(
      weights, messages, noise, strengths, masks if dropout else None)
  if sample.references.shape[1]:
    leak = leak._replace(references=_shrunk(
        sample.references, config['data']['image_size']))
  return leak, knowledge


@functools.lru_cache(_KEPT)
def _client(loss, federation):
  """`federated.send` as one program, kept for the next audit's client."""
  federation = json.loads(federation)
  client = federated.client_of(loss, federation)

  def send(weights, messages, noise, strengths, masks):
    return federated.send(
        client, weights, messages, defenses.build(noise, **strengths),
        dropout_key=masks, labels_known=federation['labels_known'])
  return jax.jit(send)


def _shrunk(frames, size) -> np.ndarray:
  """Frames [N, R, L, L, C] at the attacked resolution."""
  shape = (*frames.shape[:2], size, size, frames.shape[-1])
  return np.clip(jax.image.resize(frames, shape, 'cubic'), 0, 1)


def with_message(config: dict[str, Any]) -> dict[str, Any]:
  """`federated.message=auto` becomes what the victim's closed form needs."""
  if config['federated']['message'] != 'auto':
    return config
  message = victims.natural_message(**config['victim'])
  return config | {'federated': config['federated'] | {'message': message}}


def victim_of(knowledge: dict[str, Any], choices: backend.Choices) -> Victim:
  """The network that leak.json describes; one for all audits of it."""
  return _kept_victim(json.dumps(knowledge['victim']), choices.lowering,
                      tuple(knowledge['clip_shape']))


@functools.lru_cache(_KEPT)
def _kept_victim(options, lowering, clip_shape):
  """The same object again, so that programs of it are found again."""
  return victims.build(
      **json.loads(options), lowering=lowering, clip_shape=clip_shape)

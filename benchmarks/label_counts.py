"""How often the labels of a batch are read off its gradient, repeats included.

  python benchmarks/label_counts.py [--quick]

Random batches of `photo_motion` through a small 3-D CNN, as initialised (test
photographs) and trained for some steps (on these very clips). `exact`: the
labels are told as certain, and are right; `open`: the attack says that they are
not certain; `wrong`: told as certain, and wrong. `guess`: the share of all
whose best estimate is right.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from vidleak_jax import data, trees, victims
from vidleak_jax.attacks import labels as label_inference
from vidleak_jax.attacks.analytic.head_unmixing import unmix_head
from vidleak_jax.cli import launcher

_QUICK = flags.DEFINE_bool('quick', False, 'A twentieth of the batches.')
_BATCHES, _SIZES = 200, (2, 4, 8, 16, 32)
_SEPARATED = 8  # clips, up to which the head is un-mixed where counts are open
_SHAPE = 4, 16, 16, 3
# name -> classes, steps of training; motions have ten classes
_CASES = {'101 classes': (101, 0), '10 classes': (10, 0),
          '10 classes, trained': (10, 150)}


def main() -> None:
  for name, (num_classes, num_steps) in _CASES.items():
    victim = victims.build('c3d', _SHAPE, num_classes, preset='small')
    params = victim.init(jax.random.key(0))
    if num_steps:
      params = _train(victim, params, num_steps)
    # Clients send what the network was trained on, which is the harder case.
    clips, motions = _clips('train' if num_steps else 'test')
    for size in _SIZES:
      print(json.dumps({'name': 'label_counts', 'case': name, 'batch': size,
                        **_count(victim, params, clips, motions, size)}),
            flush=True)


def _clips(split):
  sample = data.load(
      'photo_motion', split=split, num_clips=64 if split == 'test' else 192,
      num_frames=_SHAPE[0], frame_stride=2, image_size=_SHAPE[1],
      original_size=_SHAPE[1], seed=0)
  return np.asarray(sample.batch.clips), np.asarray(sample.batch.labels)


def _train(victim, params, num_steps):
  """Adam on batches of 32; `mean_probability` says where it ends."""
  clips, labels = _clips('train')
  optimizer = optax.adam(1e-3)

  @jax.jit
  def step(params, state, key):
    rows = jax.random.randint(key, (32,), 0, len(clips))
    grads = jax.grad(victim.loss)(
        params, jnp.asarray(clips)[rows], jnp.asarray(labels)[rows])
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state
  state = optimizer.init(params)
  for i in range(num_steps):
    params, state = step(params, state, jax.random.key(i))
  return params


def _count(victim, params, clips, motions, size):
  rng = np.random.default_rng(size)
  rounds = _BATCHES // len(_SIZES) // (20 if _QUICK.value else 1)
  grad = jax.jit(jax.grad(victim.loss))
  weights = trees.at(params, victim.head)
  told = {'exact': 0, 'open': 0, 'wrong': 0}
  guessed, sure = 0, []
  for _ in range(rounds):
    rows = rng.integers(len(clips), size=size)
    labels = motions[rows]
    if victim.num_classes > 10:  # half as many classes as clips: repeats
      labels = rng.choice(
          rng.integers(victim.num_classes, size=-(-size // 2)), size)
    update = trees.at(grad(params, clips[rows], labels), victim.head)
    found, certain = _infer(weights, update, size)
    right = np.array_equal(found, np.sort(labels))
    told['open' if not certain else 'exact' if right else 'wrong'] += 1
    guessed += right
    logits = victim.logits(params, clips[rows])
    sure.append(np.mean(jax.nn.softmax(logits)[np.arange(size), labels]))
  return {'batches': rounds, **told, 'guess': guessed / rounds,
          'mean_probability': float(np.mean(sure))}


def _infer(weights, update, size):
  """(labels, whether they are told as certain), as attacks on batches do."""
  estimate = label_inference.infer_labels(update, weights, size)
  if estimate.certain or size > _SEPARATED:
    return estimate.labels, estimate.certain
  unmixed = unmix_head(weights['kernel'], weights['bias'], update['kernel'],
                       update['bias'], size)
  return unmixed.labels, unmixed.certified


if __name__ == '__main__':
  launcher.run(main)

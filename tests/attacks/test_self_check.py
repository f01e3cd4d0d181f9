"""Leaks that do not fit their network are named; those that do pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidleak_jax as vl
from vidleak_jax import trees

SHAPE = 4, 16, 16, 3
CLASSES = 12
BATCH = vl.FedSGD(per='batch')
ONE_STEP = vl.FedAvg(local_learning_rate=0.01)
AVERAGED = vl.FedAvg(local_steps=5, local_learning_rate=0.01)
LABELS = np.array([3, 7, 0, 10])


def clips_of(count):
  """Smooth clips of drawn sizes and colours."""
  rng = np.random.default_rng(5)
  t, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in SHAPE[:3]),
                        indexing='ij')
  waves = rng.uniform(2, 9, (count, 3, 3))
  shift = rng.uniform(0, 6, (count, 3))
  clips = [np.stack([0.5 + 0.4 * np.sin(a * t + b * y + c * x + s) for (
      a, b, c), s in zip(wave, shifts)], -1)
           for wave, shifts in zip(waves, shift)]
  return np.asarray(clips, np.float32)


class Case:
  """One network, its weights, and what honest clients of it send."""

  def __init__(self, name):
    self.name = name
    self.victim = self.build()
    self.params = jax.jit(self.victim.init)(jax.random.key(1))
    self.clips = clips_of(4)
    self._sent = {}

  def build(self, **options):
    return vl.victims.build(self.name, SHAPE, CLASSES, preset='tiny', **options)

  def leak(self, count=1, client=None, victim=None, params=None, **options):
    key = count, client, victim and victim.spec, str(options.get('defense'))
    if params is not None or key not in self._sent:
      made = vl.observe(
          victim or self.victim, self.params if params is None else params,
          self.clips[:count], LABELS[:count], client=client, **options)
      if params is not None:
        return made
      self._sent[key] = made
    return self._sent[key]

  def told(self, leak, **facts):
    return leak.replace(public=leak.public.replace(**facts))


@pytest.fixture(scope='module')
def cases():
  return {name: Case(name) for name in ('c3d', 'r3d18')}


def scaled(leak, factor):
  return leak.replace(update=jax.tree.map(lambda u: factor * u, leak.update))


def statuses(victim, leak):
  found = vl.self_check(victim, leak)
  assert len({each.name for each in found}) == len(found)
  return {each.name: each for each in found}


def mismatches(victim, leak):
  return {name: each.text for name, each in statuses(victim, leak).items()
          if each.status == 'mismatch'}


def exchange(leak, one, other, both):
  update, params = trees.flatten(leak.update), trees.flatten(leak.params)
  for leaves in (update, params) if both else (update,):
    leaves[one], leaves[other] = leaves[other], leaves[one]
  return leak.replace(update=trees.nest(update), params=trees.nest(params))


# What is wrong -> (case -> victim and leak, finding, words of its text)
def train_mode(case):
  victim = case.build(norm='batch')
  leak = case.leak(4, BATCH, victim)
  return case.victim, case.told(leak, victim=case.victim.spec)


def eval_mode(case):
  return case.build(norm='batch'), case.leak(4, BATCH)


def swapped(case):
  return case.victim, exchange(
      case.leak(), 'stage0_0/unit0/conv/kernel', 'stage0_0/unit1/conv/kernel',
      False)


def mapped_wrongly(case):
  return case.victim, exchange(
      case.leak(), 'stage2_0/unit1/conv/kernel',
      'stage3_0/unit0/conv/kernel', True)


def more_steps(case):
  return case.victim, case.told(
      case.leak(client=AVERAGED), federated=ONE_STEP.to_spec())


def fewer_steps(case):
  return case.victim, case.told(
      case.leak(client=ONE_STEP), federated=AVERAGED.to_spec())


def rate(case):
  return case.victim, case.told(
      case.leak(client=ONE_STEP),
      federated=vl.FedAvg(local_learning_rate=0.1).to_spec())


def summed(case):
  return case.victim, scaled(case.leak(4, BATCH), 4.0)


def downhill(case):
  return case.victim, scaled(case.leak(), -1.0)


def batch_size(case):
  return case.victim, case.told(
      case.leak(4, BATCH), batch_size=1, num_frames=SHAPE[0])


def later_weights(case):
  leak = case.leak(client=ONE_STEP)
  return case.victim, leak.replace(params=jax.tree.map(
      lambda p, u: p - u[0], leak.params, leak.update))


def decayed(case):
  leak = case.leak()
  return case.victim, leak.replace(update=jax.tree.map(
      lambda u, p: u + 5e-4 * p, leak.update, leak.params))


def quantised(case):
  leak = case.leak(defense=vl.DefenseSpec(quantize_bits=8))
  return case.victim, case.told(leak, defense=vl.DefenseSpec())


def unscaled(case):
  gradient = jax.jit(jax.grad(case.victim.loss))(
      case.params, 255 * case.clips[:1], LABELS[:1])
  return case.victim, case.leak().replace(
      update=jax.tree.map(lambda g: g[None], gradient))


def other_scale(case):
  """Of a dark clip: a bright one may be in both scales."""
  victim = case.build(inputs='half')
  leak = vl.observe(victim, case.params, 0.4 * case.clips[:1], LABELS[:1])
  return case.victim, case.told(leak, victim=case.victim.spec)


def transposed(case):
  leak = case.leak()
  return case.victim, leak.replace(update=jax.tree.map(
      lambda u: jnp.swapaxes(u, -1, -2) if u.shape[-1] == u.shape[-2] and (
          u.ndim > 2) else u, leak.update))


def wrong_labels(case):
  return case.victim, case.leak().replace(labels=np.array([[8]]))


def other_classes(case):
  return vl.victims.build(case.name, SHAPE, 9, preset='tiny'), case.leak()


MISMATCHES = {
    train_mode: ('r3d18', 'batch_norm', 'norm=batch'),
    eval_mode: ('r3d18', 'batch_norm', 'norm=fixed'),
    swapped: ('r3d18', 'layers', 'exchanged in the update'),
    mapped_wrongly: ('r3d18', 'layers', 'exchanged in the weights'),
    more_steps: ('c3d', 'head_scale', 'steps, would'),
    fewer_steps: ('c3d', 'head_scale', 'a rate of 0.002'),
    rate: ('c3d', 'head_scale', 'a rate of 0.01,'),
    summed: ('c3d', 'head_scale', 'divide the update by 4'),
    downhill: ('c3d', 'head_scale', 'weights before minus weights after'),
    batch_size: ('c3d', 'batch_size', 'at least 4 clips'),
    later_weights: ('c3d', 'layers', 'those of after the training'),
    decayed: ('c3d', 'head_sum', 'weight decay: 0.0005'),
    quantised: ('c3d', 'defense', 'quantised to 8 bits'),
    unscaled: ('c3d', 'inputs', '0 to 255'),
    other_scale: ('c3d', 'inputs', 'inputs=half'),
    transposed: ('c3d', 'layers', 'the layout is'),
    wrong_labels: ('c3d', 'labels', 'proves at least'),
    other_classes: ('c3d', 'parameters', 'head/kernel'),
}


@pytest.mark.parametrize('make', MISMATCHES, ids=lambda make: make.__name__)
def test_a_mismatch_is_named(cases, make):
  name, finding, words = MISMATCHES[make]
  found = mismatches(*make(cases[name]))
  assert words in found.get(finding, ''), found


@pytest.mark.parametrize('name', ['c3d', 'r3d18'])
def test_a_right_payload_passes(cases, name):
  case = cases[name]
  for leak in (case.leak(), case.leak(4, BATCH), case.leak(client=ONE_STEP),
               case.leak(client=AVERAGED)):
    assert not mismatches(case.victim, leak)
  found = statuses(case.victim, case.leak())
  assert {each.status for each in found.values()} == {'ok'}
  assert 'laws' in found['layers'].text


def test_rounding_of_a_small_weight_change_is_no_defence(cases):
  """Changes below a unit in the last place of a weight are exactly 0."""
  case = cases['c3d']
  client = vl.FedAvg(local_learning_rate=1e-4, local_steps=5, per='batch')
  leak = case.leak(4, client)
  assert any(np.any(leaf == 0) for leaf in jax.tree.leaves(leak.update))
  assert not mismatches(case.victim, leak)


def test_right_statistics_of_the_batch_pass(cases):
  case = cases['r3d18']
  victim = case.build(norm='batch')
  found = statuses(victim, case.leak(4, BATCH, victim))
  assert found['batch_norm'].status == 'ok'
  assert not [each for each in found.values() if each.status == 'mismatch']


@pytest.mark.parametrize('defense', [
    vl.DefenseSpec(noise_std=1e-3), vl.DefenseSpec(prune_fraction=0.9),
    vl.DefenseSpec(quantize_bits=8), vl.DefenseSpec(nvflare_percentile=10.0)])
def test_a_declared_defence_is_no_mismatch(cases, defense):
  case = cases['c3d']
  leak = case.leak(defense=defense, key=jax.random.key(3))
  assert not mismatches(case.victim, leak)
  hidden = mismatches(case.victim, case.told(leak, defense=vl.DefenseSpec()))
  assert 'defense' in hidden


def test_the_truth_has_no_part(cases):
  """A leak alone is enough: it is read back from a file."""
  case = cases['c3d']
  assert vl.self_check(case.victim, case.leak()) == vl.self_check(
      case.victim, vl.Leak(case.params, case.leak().update,
                           case.leak().public))

"""What an audit is, and the leak that it attacks."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from vidleak_jax import attacks, data, victims
from vidleak_jax.clients import client_from, in_rounds, simulate, split
from vidleak_jax.leaks import storage
from vidleak_jax.options import Options, option
from vidleak_jax.runtime import backend, memory
from vidleak_jax.specs import (
    BackendSpec,
    ClientDefense,
    DataSpec,
    DefenseSpec,
    FederatedSpec,
    SuperResSpec,
    VictimSpec,
)
from vidleak_jax.types import (
    Batch,
    Leak,
    PRNGKey,
    PublicInfo,
    UserError,
    Victim,
)
from vidleak_jax.victims.frozen import SHIPPED


class Keys(NamedTuple):
  """Randomness of each stage."""
  client: PRNGKey
  attack: PRNGKey


@dataclass(frozen=True)
class Audit(Options):
  """One run: whose clips, through which network, attacked how.

  `configs/default.py` holds this class's defaults.

  >>> Audit(seed=3).attack.name
  'auto'
  """
  seed: int = option(0, 'of all randomness', low=0, high=2**32 - 1)
  data: DataSpec = option(DataSpec(), 'the clips')
  victim: VictimSpec = option(VictimSpec(), "the client's network")
  federated: FederatedSpec = option(FederatedSpec(), 'the protocol')
  defense: ClientDefense = option(ClientDefense(), 'what hides the update')
  attack: attacks.AttackSpec = option(attacks.AttackSpec(), 'the attack')
  superres: SuperResSpec = option(SuperResSpec(), 'super-resolution')
  backend: BackendSpec = option(BackendSpec(), 'devices and lowerings')

  def __post_init__(self):
    if type(self.defense) is DefenseSpec:
      object.__setattr__(self, 'defense',
                         ClientDefense(**self.defense.to_dict()))
    super().__post_init__()

  def keys(self) -> Keys:
    """Returns the randomness of each stage, by name."""
    return Keys(*jax.random.split(jax.random.key(self.seed), len(Keys._fields)))


class Door(NamedTuple):
  """Where a foreign leak comes from, and how far it is trusted."""
  path: Path | None = None
  allow_code: bool = False


def load_data(audit: Audit) -> data.Sample:
  """Returns the clips that an audit is about.

  Raises:
    UserError: as `data.load`.
  """
  spec = audit.data
  sides = 2 * spec.image_size ** 2 + spec.original_size ** 2
  memory.require(
      12 * spec.num_clips * spec.num_frames * sides,
      f'{spec.num_clips} clips of {spec.num_frames} frames',
      'Lower data.num_clips, num_frames, image_size or original_size.')
  options = spec.to_dict()
  return data.load(
      options.pop('name'), seed=audit.seed,
      num_classes=audit.victim.num_classes,
      num_references=max(audit.superres.num_references,
                         audit.attack.num_references),
      references=[str(each) for each in audit.superres.references],
      **options)


def obtain_leak(
    audit: Audit, folder: Path, door: Door, sample: data.Sample | None,
    choices: backend.Choices,
) -> Leak:
  """Returns the leak of this workdir, of the given file, or computed now.

  Raises:
    UserError: for a file that is no leak, or clips that fit no client.
  """
  if (folder / 'leak.safetensors').exists():
    return storage.load(folder)
  if door.path:
    leak = storage.load(door.path)
  else:
    leak = _simulated(audit, sample, choices)
  leak.save(folder)
  return leak


def victim_of(
    audit: Audit, leak: Leak, choices: backend.Choices, door: Door
) -> Victim:
  """Returns the network of a leak, as the attacker builds it again.

  Code and files that a foreign leak names are not touched, unless the user
  names them too or allows it.

  Raises:
    UserError: for a network that is not named, not trusted, or whose frozen
      extractor has other weights here.
  """
  public = leak.public
  spec = audit.victim if audit.victim.factory else public.victim
  if spec is None:
    raise UserError(
        'leak.json names no victim. Name its network: '
        '--config.victim.factory=path/to/file.py:make.')
  if door.path and not audit.victim.factory:
    if spec.factory and not door.allow_code:
      raise UserError(
          f'This leak asks to run code: victim.factory is {spec.factory!r}. If '
          'you trust it, give --config.victim.factory yourself, or '
          '--allow_code_from_leak.')
    file = spec.weights_file
    if file and file not in SHIPPED and file != audit.victim.weights_file:
      raise UserError(
          f'This leak names a file of this machine, victim.weights_file='
          f'{file!r}. If it is the extractor\'s, give '
          '--config.victim.weights_file yourself.')
  victim = victims.from_spec(spec, public.clip_shape, choices.lowering)
  if public.frozen and victim.known != public.frozen:
    raise UserError(
        f'The leak was made with {public.frozen}; here it is {victim.known}. '
        'Give the same extractor by victim.weights_file.')
  return victim


def example(audit: Audit) -> tuple[Victim, Leak]:
  """Returns the network of an audit, and the leak of clips that are noise.

  No data set is touched: it shows which attacks apply.
  """
  spec = audit.data
  rng = np.random.default_rng(audit.seed)
  side, count = spec.image_size, spec.num_clips
  clips = rng.random((count, spec.num_frames, side, side, 3), np.float32)
  references = rng.random((count, max(
      audit.superres.num_references, audit.attack.num_references,
      len(audit.superres.references)), side, side, 3), np.float32)
  sample = data.Sample(
      Batch(clips, rng.integers(audit.victim.num_classes, size=count)),
      originals=clips, unrelated=clips, references=references,
      reference_distances=(), names=(), class_names=(), skipped=())
  choices = backend.choose(jax.devices()[0].platform)
  leak = _simulated(audit, sample, choices)
  return victim_of(audit, leak, choices, Door()), leak


def _simulated(audit, sample, choices) -> Leak:
  """What an honest client sends, and the public facts about it."""
  spec = audit.federated
  if spec.message == 'auto':
    spec = spec.replace(message=victims.natural_message(audit.victim))
  client = client_from(spec)
  updates = split(sample.batch, client.per)
  clip_shape = updates.clips.shape[2:]
  victim = victims.from_spec(audit.victim, clip_shape, choices.lowering)
  weights_key, noise_key, dropout_key = jax.random.split(audit.keys().client, 3)
  shapes = jax.eval_shape(victim.init, weights_key)
  memory.require(
      memory.tree_bytes(shapes) * (2 + len(updates.clips)) * spec.num_rounds,
      f'The weights and {len(updates.clips)} updates of {victim.num_classes} '
      'classes', 'Lower victim.num_classes or data.num_clips.')
  params = victim.init(weights_key)
  if audit.victim.checkpoint:
    params = victims.load(audit.victim.name, params, audit.victim.checkpoint)
  order_key = jax.random.fold_in(audit.keys().client, 3)

  def send(params, number):
    noise, dropout, order = (
        jax.random.fold_in(key, 1000 + number) if number else key
        for key in (noise_key, dropout_key, order_key))
    return simulate(
        victim.loss, client, params, updates, audit.defense, noise_key=noise,
        dropout_key=dropout if audit.victim.dropout_active else None,
        order_key=order)
  first, *later = in_rounds(send, params, spec)
  references = sample.references if sample.references.shape[1] else None
  public = PublicInfo(
      clip_shape=clip_shape, batch_size=updates.clips.shape[1],
      num_frames=audit.data.num_frames,
      victim=victim.spec and victim.spec.replace(
          dropout_active=audit.victim.dropout_active),
      federated=spec, defense=audit.defense.told(), frozen=victim.known,
      weights=audit.victim.checkpoint or 'as initialised',
      num_reference_frames=0 if references is None else references.shape[1])
  return Leak(*first, public,
              np.asarray(updates.labels) if spec.labels_known else None,
              references, tuple(later))

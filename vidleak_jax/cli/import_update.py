r"""Makes a leak of a real update, and says whether it fits its network.

  vidleak import_update --gradient=G.safetensors --before=W.safetensors \
      --victim=r3d18 --workdir=runs/mine
  vidleak import_update --before=W.pt --after=V.pt --victim=vivit \
      --local_steps=5 --learning_rate=0.01 --batch_size=2 --workdir=runs/mine
  vidleak attack --leak=runs/mine/leak.safetensors --workdir=runs/attack

Files are .safetensors, .npz, torch's .pt, Flax's .msgpack, or folders of Orbax;
names are torchvision's, transformers' or the network's own. See docs/import.md.
"""

from absl import flags

from vidleak_jax.cli import launcher
from vidleak_jax.experiments import importing
from vidleak_jax.specs import VictimSpec

_MARKS = {'ok': 'ok      ', 'warn': 'look    ', 'mismatch': 'MISMATCH',
          'unknown': 'unknown '}


def define_flags() -> None:
  """Defines the flags of this program."""
  flags.DEFINE_string('before', None, 'The weights before training.',
                      required=True)
  flags.DEFINE_string('gradient', None, 'A gradient of the mean loss.')
  flags.DEFINE_string('after', None, 'The weights after training.')
  flags.DEFINE_string('difference', None,
                      "Weights after minus before, as NVFlare's DIFF.")
  flags.DEFINE_string('workdir', None, 'Where the leak is written.',
                      required=True)
  flags.DEFINE_string('victim', 'c3d', 'A row of `vidleak list victims`.')
  for name, text in (
      ('preset', 'inferred from the shapes'),
      ('norm', 'fixed or batch; inferred from the update'),
      ('inputs', 'the scale of the input: unit, half, imagenet, kinetics'),
      ('activation', "the network's own"),
      ('encoder', 'of vivit'), ('pool', 'of vivit'), ('cell', 'of cnn_gru'),
      ('head', 'of frozen'), ('extractor', 'of frozen'),
      ('weights_file', "of frozen's extractor")):
    flags.DEFINE_string(f'victim_{name}', None,
                        f'{text[0].upper()}{text[1:]}.')
  flags.DEFINE_string('factory', None,
                      'Your own network: path/to/file.py:make.')
  for name, text in (
      ('num_classes', "Outputs; default: the head's."),
      ('num_frames', 'Of a clip.'), ('image_size', 'Rows and columns.'),
      ('batch_size', 'Clips in the update; default: inferred.'),
      ('local_steps', 'Of local training.')):
    flags.DEFINE_integer(name, None, text, lower_bound=1)
  flags.DEFINE_float('learning_rate', None, 'Of local training.')
  flags.DEFINE_list('labels', [], 'Of the clips, where they are known.')
  flags.DEFINE_enum('defense', 'infer', ['infer', 'none', 'unknown'],
                    'What the client did to its update.')


def main() -> None:
  """Runs the program on the flags that were parsed."""
  asked = flags.FLAGS
  options = {name: getattr(asked, f'victim_{name}') for name in (
      'preset', 'norm', 'inputs', 'activation', 'encoder', 'pool', 'cell',
      'head', 'extractor', 'weights_file')}
  spec = importing.Import.from_dict({
      **{name: getattr(asked, name) for name in (
          'before', 'gradient', 'after', 'difference', 'num_classes',
          'num_frames', 'image_size', 'batch_size', 'local_steps',
          'learning_rate', 'defense')},
      'labels': [_whole(label) for label in asked.labels],
      'victim': VictimSpec(name=asked.victim, factory=asked.factory,
                           **options)})
  folder = launcher.workdir()
  done = importing.run(spec, folder)
  print(_told(done, folder))


def _whole(text: str) -> int | str:
  return int(text) if text.strip().isdigit() else text


def _told(done: importing.Imported, folder) -> str:
  """What was imported, how each fact is known, and the self-check."""
  public = done.leak.public
  spec, known = public.victim, public.provenance
  lines = [f'{folder / "leak.safetensors"}']
  if spec is not None:
    lines.append(f'  network       {spec.factory or spec.name}'
                 f'{" " + spec.preset if spec.preset else ""}, '
                 f'{spec.num_classes} classes')
  facts = {'clip_shape': 'x'.join(map(str, public.clip_shape)),
           'batch_size': public.batch_size,
           'inputs': spec.inputs if spec else '', 'norm': spec.norm if spec
           else ''}
  if public.federated.algorithm == 'fedavg':
    facts |= {'local_steps': public.federated.local_steps,
              'local_learning_rate': public.federated.local_learning_rate}
  for name, value in facts.items():
    if value:
      lines.append(f'  {name:13} {value} ({getattr(known, name)})')
  lines += [f'  without a place: {each}' for each in done.unmatched]
  lines += [f'{_MARKS[each.status]} {each.name}: {each.text}'
            for each in done.findings]
  return '\n'.join(lines)

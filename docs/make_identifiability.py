"""Writes the table of docs/gradient.md: equations against unknowns.

  python docs/make_identifiability.py

Counts come from each network's layer graph. Recoveries were measured; the page
names their commands.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import vidleak_jax as vl
from vidleak_jax.attacks.analytic.peeling import chain, needs
from vidleak_jax.victims import introspection

PAGE = Path(__file__).with_name('gradient.md')
_BEGIN, _END = '<!-- table -->', '<!-- end of the table -->'
_NUM_CLASSES = 101
_CLIPS = (8, 32, 32, 3), (16, 64, 64, 3)
_FRAME = 1, 32, 32, 3  # for what classifies single frames
_PRESETS = 'tiny', 'small', 'full'
# PSNR in dB and in brackets that of a clip of the truth's mean colour, from
# one gradient, weights as initialised; notes in the page.
_RECOVERED = {
    ('c3d', 'small', _CLIPS[0]): 'exact (16.3) [j]',
    ('c3d', 'small', _CLIPS[1]): '95.3 (16.6) [j]',
    ('cnn_gru', 'small', _CLIPS[0]): '83.4 (16.3) [l]',
    ('cnn_gru', 'small', _CLIPS[1]): '92.7 (16.6) [l]',
    ('vivit', 'small', _CLIPS[1]): 'exact (14.2) [a]',
    ('r3d18', 'full', _CLIPS[0]): 'exact (12.7) [c]',
    ('r3d18', 'full', _CLIPS[1]): 'exact (12.4) [f]',
    ('r3d18', 'small', _CLIPS[0]): '40.2 (16.9) [k]',
    ('r2plus1d18', 'full', _CLIPS[0]): 'exact (17.6) [b]',
}
_HEAD = (
    '| network | preset | clip | first layer | layers short of equations '
    '| narrowest | layer peeling | recovered |')


def table() -> Iterator[str]:
  """Yields the table's lines, one for each network, preset and clip."""
  yield _HEAD
  yield '|' + '---|' * _HEAD.count(' | ') + '---|'
  for name in vl.victims.NETWORKS:
    if name != 'frozen':
      for preset in _PRESETS:
        for shape in (_FRAME,) if name == 'lenet' else _CLIPS:
          yield from line(name, preset, shape)


def line(name: str, preset: str, shape: tuple[int, ...]) -> Iterator[str]:
  """Yields one line; none where the network does not take such clips."""
  options = {} if name == 'lenet' else {'preset': preset}
  if name == 'lenet' and preset != _PRESETS[0]:
    return
  try:
    victim = vl.victims.build(name, shape, _NUM_CLASSES, **options)
  except vl.UserError:
    return
  counts = introspection.identifiability(victim.graph)
  narrow = min(counts, key=_share)
  size = 'x'.join(map(str, shape[:3]))
  cells = (name, preset if options else '-', size, f'{_share(counts[0]):.2f}',
           f'{sum(not count.determined for count in counts)} of {len(counts)}',
           f'`{narrow.name}` {_share(narrow):.2f}', _peeling(victim),
           _RECOVERED.get((name, preset, shape), ''))
  yield '| ' + ' | '.join(cells) + ' |'


def _share(count: introspection.Count) -> float:
  """Equations for each unknown."""
  return count.equations / count.unknowns


def _peeling(victim: vl.Victim) -> str:
  """How far layer peeling gets, by count."""
  try:
    network = chain.read(victim.graph, 1)
  except vl.UserError:
    return '-'
  if isinstance(network, chain.Chain):
    return _of_chain(network)
  total, peeled = len(network.blocks), network.num_peeled
  text = f'{peeled} of {total} blocks'
  if peeled < total:
    share = network.blocks[-1 - peeled].num_shown / math.prod(victim.clip_shape)
    text += f', then {share:.1f} a pixel'
  if needs.shortages(network):
    return text + '; short'
  return text + ('; completed' if needs.too_few(network) else '')


def _of_chain(network: chain.Chain) -> str:
  """The same where convolutions are no blocks."""
  total = len(network.graph.of_kind('conv'))
  share = network.num_known / math.prod(network.graph.clip_shape)
  return f'{len(network.links)} of {total} layers, then {share:.1f} a pixel' + (
      '; short' * bool(chain.shortages(network)))


def main() -> None:
  """Replaces the table in the page."""
  text = PAGE.read_text()
  before, rest = text.split(_BEGIN)
  after = rest.split(_END)[1]
  lines = '\n'.join(table())
  PAGE.write_text(f'{before}{_BEGIN}\n{lines}\n{_END}{after}')


if __name__ == '__main__':
  main()

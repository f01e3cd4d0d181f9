"""What an audit concludes: a sentence, and what would stop the leak."""

from collections.abc import Sequence

from scipy import optimize

from vidleak_jax.attacks.auto import PARTLY, RECOVERED
from vidleak_jax.evaluation import bounds
from vidleak_jax.experiments.auditing import curve, judging, limits
from vidleak_jax.types import Leak, Row

EPSILON = 8.0  # a usual budget
_CLEAR, _EQUAL = 25.0, 40.0  # dB: plain to see; equal to the eye
_WORDS = {'defense.noise_std': 'Gaussian noise of standard deviation {:g} on '
          'every entry',
          curve.MULTIPLIER: 'DP-SGD with a noise multiplier of {:g}',
          'defense.clip_norm': 'clipping the update to a norm of {:g}',
          'data.num_clips': 'averaging {:g} clips in one update'}


def sentence(verdict: str, judged: Row, count: int, rows: Sequence[Row] = ()
             ) -> str:
  """Returns in one sentence what the server sees; in two where answers differ.

  Args:
    verdict: of the attacker, without the truth.
    judged: of the judge; None each where nobody knows the truth.
    count: clips.
    rows: of the attacks; one that the judge finds nearer is told.
  """
  nearer = [row for row in rows if row['psnr'] is not None
            and judged['psnr'] is not None
            and row['psnr'] > judged['psnr'] + judging.MARGIN]
  found = _sentence(verdict, judged, count)
  if not nearer:
    return found
  best = max(nearer, key=lambda row: row['psnr'])
  return (f'{found} Another answer, by {best["name"]}, is nearer to the truth: '
          f'{best["psnr"]:.1f} dB. The server does not know which one is.')


def _sentence(verdict, judged, count) -> str:
  what = 'the private clip' if count == 1 else f'the {count} private clips'
  if judged['psnr'] is None:
    if verdict == RECOVERED:
      return (f'The server can compute {what} from the update: what is shown '
              'below explains the update it was sent.')
    if verdict == PARTLY:
      return (f'The server can compute a part of {what} from the update; how '
              'much of the picture is right, only their owner can say.')
    return ('These attacks found nothing in the update within this budget, '
            'which does not prove that nothing is there.')
  figures = (f'{judged["psnr"]:.1f} dB, where a guess without the update has '
             f'{judged["floor"]:.1f} dB')
  if judged['num_exact'] == count:
    return f'The server sees {what} exactly, pixel for pixel.'
  if not judging.is_above_floor(judged):
    return (f'The server sees no more of {what} than a guess would show '
            f'({figures}), as far as these attacks went within this budget.')
  if judged['psnr'] >= _EQUAL:
    return f'The server sees {what}, to the eye as they were ({figures}).'
  if judged['psnr'] >= _CLEAR:
    return f'The server sees {what} plainly, with errors ({figures}).'
  return f'The server sees {what} dimly, but more than a guess ({figures}).'


def what_would_stop_it(rows: Sequence[Row], leak: Leak) -> list[Row]:
  """Returns changes that would stop the leak, those that were measured first.

  Args:
    rows: of the curve; empty where no client was simulated.
    leak: the present setting.
  """
  norm = max(limits.norm_of(leak))
  found = [_measured(rows, setting, norm) for setting in _WORDS]
  advice = [row for row in found if row]
  if rows and not advice:
    advice.append({'change': {}, 'measured': False, 'words': (
        'The budget ended before any other setting was attacked to the end.')})
  if not rows:
    advice.append({'change': {}, 'measured': False, 'words': (
        'Nothing was measured: only the client can be asked for other '
        'settings. Run the audit where the training clips are, without '
        '--leak.')})
  return [*advice, _promise(leak, norm)]


def _promise(leak, norm) -> Row:
  """What holds against any attack: a mechanism with a small epsilon."""
  found = limits.privacy(leak)
  epsilon = found.get('epsilon')
  if epsilon is not None and epsilon <= EPSILON:
    return {
        'change': {}, 'measured': False, 'epsilon': epsilon,
        'delta': found['delta'], 'words': (
            'Against attacks that nobody has tried yet the client has a '
            f'promise: epsilon {epsilon:.3g} (delta {found["delta"]:g}) for '
            'each release. Several releases of the same clip add up.')}
  multiplier = _multiplier_for(EPSILON)
  std = multiplier * norm
  return {
      'change': {'defense.clip_norm': norm, 'defense.noise_std': std},
      'measured': False, 'epsilon': EPSILON, 'delta': limits.DELTA,
      'words': (
          'The only promise against attacks that nobody has tried yet: clip to '
          f'a fixed norm and add noise of {multiplier:.2g} times that norm. At '
          f'the norm of this update, {norm:.3g}, that is noise of '
          f'{std:.2g}: epsilon {EPSILON:g} (delta {limits.DELTA:g}) for each '
          'release. Secure aggregation over many clients lets each add less.')}


def _measured(rows, setting, norm) -> Row | None:
  """The weakest strength from which on nothing was seen, of one setting."""
  own = [row for row in rows if row['setting'] == setting and curve.is_full(
      row)]
  if not own:
    return None
  # Less of a norm is more of a defence.
  own.sort(key=lambda row: row['value'] * (-1) ** (
      setting == 'defense.clip_norm'))
  stopped: list[Row] = []
  for row in reversed(own):
    if judging.is_above_floor(row):
      break
    stopped.insert(0, row)
  if not stopped:
    strongest = own[-1]
    return {'change': {setting: strongest['value']}, 'measured': True,
            'stops': False, 'psnr': strongest['psnr'],
            'floor': strongest['floor'], 'words': (
                f'Not enough: {_WORDS[setting].format(strongest["value"])} '
                f'still shows {strongest["psnr"]:.1f} dB (floor '
                f'{strongest["floor"]:.1f}).')}
  weakest = stopped[0]
  words = (f'{_WORDS[setting].format(weakest["value"])} brought these attacks '
           f'to their floor: {weakest["psnr"]:.1f} dB (floor '
           f'{weakest["floor"]:.1f}).')
  row = {'change': {setting: weakest['value']}, 'measured': True, 'stops': True,
         'psnr': weakest['psnr'], 'floor': weakest['floor']}
  if setting == 'defense.noise_std':
    row['epsilon_as_if_clipped'] = bounds.gaussian_epsilon(
        weakest['value'] / norm, limits.DELTA)
    words += (' As if clipped at the norm of this update, that is epsilon '
              f'{row["epsilon_as_if_clipped"]:.3g}: measured, not proven.')
  return row | {'words': words[0].upper() + words[1:]}


def _multiplier_for(epsilon: float) -> float:
  """The noise multiplier of one release with this epsilon."""
  return float(optimize.brentq(
      lambda sigma: bounds.gaussian_epsilon(sigma, limits.DELTA) - epsilon,
      0.05, 50.0, xtol=1e-4))

"""Whether the first layer saw pixels on the scale that the network expects.

The gradient of a first layer is dL/dW = sum_p delta_p (x) x_p and that of its
bias sum_p delta_p, so the one over the other is a weighted mean of the pixels.
The weights are the errors', mostly but not always of one sign: it tells a
scale that is far off, not unit from Kinetics for every clip.
"""

import numpy as np

from vidleak_jax.attacks.checks.view import Finding, View
from vidleak_jax.models.layers import INPUTS
from vidleak_jax.victims.introspection import operations as ops

_SLACK = 0.03       # beyond [0, 1], that weights of both signs may cause
_USUAL = 0.1, 0.9   # brightness of a clip's mean colour


def check(view: View) -> Finding:
  """Returns the finding 'inputs'."""
  means = _mean_colours(view)
  if means is None:
    return Finding('inputs', 'unknown', 'The first layer does not show the '
                   'scale of the pixels.')
  spec = view.victim.spec
  name = (spec.inputs if spec else None) or 'unit'
  shift, scale = (np.asarray(part) for part in INPUTS[name])
  seen = float(np.mean(means * scale + shift))
  text = ("The clip's mean brightness, as the first layer's gradient shows "
          f'it, is {seen:.2f} for inputs={name}')
  if view.is_defended:
    return Finding('inputs', 'unknown', f'{text}; a defence may have moved it.')
  if _SLACK + 1 >= seen >= -_SLACK:
    status = 'ok' if _USUAL[0] <= seen <= _USUAL[1] else 'unknown'
    return Finding('inputs', status, f'{text}.')
  others = {other: float(np.mean(means * np.asarray(std) + np.asarray(mean)))
            for other, (mean, std) in INPUTS.items() if other != name}
  fit = [f'{other} ({value:.2f})' for other, value in others.items()
         if _USUAL[0] <= value <= _USUAL[1]]
  advice = (f'What would fit: inputs={" or ".join(fit)}.' if fit else
            'No known scale fits: were pixels of 0 to 255 not divided by 255?')
  return Finding('inputs', 'mismatch', f'{text}, but pixels lie in [0, 1]. '
                 f'{advice}')


def _mean_colours(view: View) -> np.ndarray | None:
  """[C] the weighted mean of what the first layer reads, by colour."""
  graph = view.victim.graph
  if graph is None:
    return None
  first = next(iter(graph.of_kind('conv', 'dense')), None)
  if first is None or not isinstance(first.op, ops.Linear) or (
      first.op.kernel_path is None):
    return None
  kernel = view.update[first.op.kernel_path]
  error = _errors(view, first)
  colours = view.victim.clip_shape[-1]
  if error is None or not np.any(error) or kernel.size % (
      colours * len(error)) or kernel.shape[-1] != len(error):
    return None
  mean = kernel.reshape(-1, colours, len(error)).mean(0)
  return mean @ error / (error @ error)


def _errors(view, first) -> np.ndarray | None:
  """[F] the sum of the first layer's errors: of its bias, or its norm's."""
  if first.op.bias_path:
    return view.update[first.op.bias_path]
  norm = next((node.op for node in view.victim.graph.consumers[first.name]
               if isinstance(node.op, ops.Norm)), None)
  if norm is None or norm.form != 'fixed' or not (norm.scale and norm.var
                                                  and norm.bias):
    return None
  factor = view.params[norm.scale] / np.sqrt(view.params[norm.var] + norm.eps)
  return factor * view.update[norm.bias]

"""The group `attack` of a config, made from the registry."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

from vidleak_jax import options, user_code
from vidleak_jax.attacks.auto import AutoWith
from vidleak_jax.attacks.base import Attack, Effort
from vidleak_jax.attacks.registry import ATTACKS
from vidleak_jax.options import option
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import Row, UserError

# What attacks were called before; told to those who ask for them.
_FORMER = {'anchored': 'feature_matching', 'features': 'frozen_features',
           'spans': 'subspace'}


@dataclasses.dataclass(frozen=True)
class _Choice(Effort):
  """What all attacks share."""
  name: str = option(
      'auto', 'which attack; auto: those that apply, ranked; factory: the one '
      'that attack.factory makes; none: true frames are enlarged, to judge '
      'super-resolution alone', choices=(*ATTACKS, 'factory', 'none'))
  factory: str | None = option(
      None, 'your own attack, which auto tries too: path/to/file.py:Attack or '
      'package.module:Attack')
  num_references: int = option(
      0, "frames of the clip's video, from outside it, that the attacker holds",
      low=0)

  def __post_init__(self):
    _refuse_former([self.name])
    super().__post_init__()

  @classmethod
  def from_dict(cls, values: Mapping[str, Any], prefix: str = '') -> Self:
    """See `Options.from_dict`."""
    if isinstance(values, Mapping):
      _refuse_former([values.get('name'), *values])
    return super().from_dict(values, prefix)

  def effort(self) -> Effort:
    """Returns the restarts and steps."""
    return Effort(**{field.name: getattr(self, field.name)
                     for field in dataclasses.fields(Effort)})

  def chosen(self) -> Attack:
    """Returns the attack by its name, with its options.

    Raises:
      UserError: where `factory` is missing, or makes no attack.
    """
    if self.name == 'factory':
      return self._own()
    attack = getattr(self, self.name)
    if self.name != 'auto':
      return attack
    custom = [self._own()] if self.factory else []
    return AutoWith(**attack.to_dict(), attacks=(
        *custom, *(getattr(self, name) for name in ATTACKS)))

  def _own(self) -> Attack:
    """The attack that `factory` makes."""
    if not self.factory:
      raise UserError('attack.name is factory, so attack.factory must name '
                      'your attack: path/to/file.py:Attack.')
    made = user_code.load(self.factory, 'attack.factory')()
    if not isinstance(made, Attack):
      raise UserError(f'{self.factory} made {type(made).__name__}; '
                      'attack.factory must make an attack.')
    return made


def _refuse_former(names: Iterable[object]) -> None:
  for name in names:
    if isinstance(name, str) and name in _FORMER:
      raise UserError(f'The attack {name} is now called {_FORMER[name]}, as '
                      'attack.name and for its group of options.')


# One group of options an attack.
if TYPE_CHECKING:
  AttackSpec = _Choice
else:
  AttackSpec = dataclasses.make_dataclass(
      'AttackSpec',
      [(name, attack, option(attack(), (attack.__doc__ or '').split('\n')[0]))
       for name, attack in ATTACKS.items()],
      bases=(_Choice,), frozen=True, namespace={'__doc__': _Choice.__doc__})
  AttackSpec.__module__ = __name__


def shape_of(spec: Any, defense: DefenseSpec) -> Row:
  """Returns what of these options makes a program, and not its arguments.

  Args:
    spec: an `AttackSpec`.
    defense: what the client does.
  """
  attack, _ = options.split(spec.chosen())
  shape, _ = options.split(defense)
  return {'attack': spec.name, 'effort': spec.effort().to_dict(),
          'num_references': spec.num_references,
          'options': json.loads(json.dumps(attack.to_dict(), default=repr)),
          'defense': shape.to_dict()}

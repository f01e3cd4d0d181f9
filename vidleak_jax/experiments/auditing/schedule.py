"""Which attacks an audit tries, in which order, and what they are told."""

from typing import Any

from vidleak_jax import attacks
from vidleak_jax.attacks import detection
from vidleak_jax.attacks.auto import LEFT_OUT, Auto, by_yield
from vidleak_jax.attacks.checks.view import View
from vidleak_jax.specs import DefenseSpec
from vidleak_jax.types import Leak, Victim

_TWICE = ('auto', 'closed_form')  # they only choose among the others


def attacks_of(spec: Any, leak: Leak) -> list[attacks.Attack]:
  """Returns the attacks to try, by expected yield a second.

  Those that others surpass on the same equations, `weaker_of` has.

  Args:
    spec: an `AttackSpec`, with every attack's options; `auto.only` names some.
    leak: whose defence is public, or was found out.
  """
  defense = leak.public.defense
  is_defended = defense is None or not defense.is_off
  only = spec.auto.only
  chosen = [getattr(spec, name) for name in attacks.ATTACKS
            if (name in only if only else name not in LEFT_OUT)]
  return by_yield(chosen, is_defended)


def weaker_of(spec: Any) -> list[attacks.Attack]:
  """Returns the attacks to try where time is plenty, the cheaper first."""
  if spec.auto.only:
    return []
  return sorted((getattr(spec, name) for name in attacks.ATTACKS
                 if name in LEFT_OUT and name not in _TWICE),
                key=lambda attack: attack.cost)


def searcher(spec: Any, seconds: float) -> Auto:
  """Returns `auto` with these options and this budget."""
  auto = spec.auto
  return Auto(**(auto.to_dict() | {'budget_seconds': seconds}))


def told(victim: Victim, leak: Leak) -> Leak:
  """Returns the leak as an attacker takes it.

  A defence that is not public, or that was denied though the update bears its
  traces, is taken as found.
  """
  defense: DefenseSpec | None = leak.public.defense
  found = detection.as_spec(View(victim, leak, 0).traces)
  if found is None or (defense is not None and not defense.is_off):
    return leak
  return leak.replace(public=leak.public.replace(defense=found))

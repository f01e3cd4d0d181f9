"""An extension of Griffe: doctests and options as the reference shows them."""

import ast
import re
from typing import Any

import griffe

_DOCTEST = re.compile(r'^(>>> .*(?:\n.+)*)', re.M)


class Docstrings(griffe.Extension):
  """Doctests become examples; the help of an option its description."""

  def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
    """Moves each doctest of a docstring into a section of its own."""
    if obj.docstring:
      obj.docstring.value = _DOCTEST.sub(
          lambda found: 'Examples:\n' + re.sub('^', '    ', found[1],
                                               flags=re.M),
          obj.docstring.value)

  def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
    """Reads `name: kind = option(default, 'help', ...)`."""
    call = attr.value
    if (isinstance(call, griffe.ExprCall) and str(call.function) == 'option'
        and not attr.docstring):
      default, text, *_ = call.arguments
      attr.value = default
      attr.docstring = griffe.Docstring(
          ast.literal_eval(str(text)), parent=attr)

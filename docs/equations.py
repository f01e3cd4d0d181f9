"""A hook of MkDocs: equations become MathML, which browsers draw by themselves.

So the site needs neither a script nor a network for them.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# What pymdownx.arithmatex leaves of $...$ and $$...$$.
_INLINE = re.compile(r'<span class="arithmatex">\\\((.+?)\\\)</span>', re.S)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.+?)\\\]\s*</div>', re.S)


def on_page_content(html: str, **_: Any) -> str:
  """Returns a page with its equations drawn.

  Args:
    html: the page, as Markdown made it.
  """
  html = _BLOCK.sub(lambda found: _mathml(found[1], 'block'), html)
  return _INLINE.sub(lambda found: _mathml(found[1], 'inline'), html)


def _mathml(latex, display):
  return convert(html.unescape(latex).strip(), display=display)

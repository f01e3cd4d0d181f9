"""What is missing is named with the extra that brings it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vidleak_jax import optional
from vidleak_jax.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize('module, extra', [
    (module, extra) for extra, brings in optional.EXTRAS.items()
    for module in brings])
def test_a_missing_part_names_its_extra(module, extra, monkeypatch):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(UserError, match=re.escape(f'vidleak_jax[{extra}]')):
    optional.load(f'{module}.part')
  with pytest.raises(UserError, match=re.escape(f'vidleak_jax[{extra}]')):
    optional.require(extra)
  assert None in optional.installed(extra).values()


def test_what_misses_something_itself_is_not_called_missing(
    tmp_path, monkeypatch):
  (tmp_path / 'av.py').write_text('import no_such_module')
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, 'av', raising=False)
  with pytest.raises(ModuleNotFoundError, match='no_such_module'):
    optional.load('av')


def test_setup_has_every_extra():
  text = (ROOT / 'setup.py').read_text()
  for extra, brings in optional.EXTRAS.items():
    assert f"'{extra}':" in text
    assert all(f"'{name}" in text for name in brings.values())


@pytest.mark.process
def test_every_module_imports_without_any_extra():
  blocked = {module for brings in optional.EXTRAS.values() for module in brings}
  code = f'''
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({sorted(blocked)!r}))
import vidleak_jax
for module in pkgutil.walk_packages(vidleak_jax.__path__, 'vidleak_jax.'):
  if not module.name.endswith('__main__'):
    importlib.import_module(module.name)
'''
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True,
                        capture_output=True, check=False)
  assert done.returncode == 0, done.stderr

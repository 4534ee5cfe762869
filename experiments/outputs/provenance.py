"""Machine, versions and date, which are stored with every result."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

from nerf_haiku import errors

_VERSIONED = ('nerf_haiku', 'jax', 'dm-haiku', 'optax', 'chex', 'numpy')


def collect() -> dict[str, Any]:
  """Returns machine, commit, versions and date, as JSON can hold them."""
  return {
    'machine': {
      'processor': _processor(),
      'cores': os.cpu_count(),
      'devices': [str(device.device_kind) for device in jax.devices()],
      'system': platform.system(),
      'python': platform.python_version(),
    },
    'commit': _commit(),
    'versions': {x: _version(x) for x in _VERSIONED},
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  }


def _commit() -> str | None:
  """Returns the commit of the code; `-dirty` if files were changed since.

  None unless `experiments` and `nerf_haiku` are those of a checkout: a folder
  of another repository may hold copies of them, e.g. in a virtual environment.
  """
  root = pathlib.Path(__file__).resolve().parents[2]
  library = pathlib.Path(errors.__file__).resolve().parents[1]
  try:
    top_level = pathlib.Path(_git(root, 'rev-parse', '--show-toplevel'))
    if not root == library == top_level:
      return None
    return _git(root, 'describe', '--always', '--dirty', '--exclude=*')
  except (OSError, subprocess.SubprocessError):
    return None  # No git, or no repository.


def _git(folder: pathlib.Path, *arguments: str) -> str:
  """Returns the output of a git command."""
  done = subprocess.run(
    ['git', *arguments],
    cwd=folder,
    capture_output=True,
    encoding='utf-8',
    errors='replace',
    check=True,
    timeout=10,
  )
  return done.stdout.strip()


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return 'not installed'


def _processor() -> str:
  """Returns the name of the processor, as the system gives it."""
  info = pathlib.Path('/proc/cpuinfo')
  if info.exists():
    for line in info.read_text('utf-8', 'replace').splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  return platform.processor() or platform.machine()

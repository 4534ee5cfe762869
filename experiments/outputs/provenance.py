"""Machine, versions and date: what stands beside every figure."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

_VERSIONED = ('nerf_haiku', 'jax', 'dm-haiku', 'optax', 'chex', 'numpy')


def collect() -> dict[str, Any]:
  """Machine, versions and date, to stand beside every figure."""
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
  """What git calls this version; `-dirty` if files were changed since."""
  try:
    done = subprocess.run(
      ['git', 'describe', '--always', '--dirty', '--exclude=*'],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=True,
      timeout=10,
    )
  except (OSError, subprocess.SubprocessError):
    return None  # Installed without its history.
  return done.stdout.strip()


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return 'not installed'


def _processor() -> str:
  """What the system calls the processor."""
  info = pathlib.Path('/proc/cpuinfo')
  if info.exists():
    for line in info.read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  return platform.processor() or platform.machine()

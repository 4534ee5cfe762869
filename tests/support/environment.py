"""How tests compile, and what a process that a test starts finds set."""

import os
import re
import tempfile

import jax

from experiments.processes import environment


def _make_cache() -> str:
  """Returns a folder of this user alone, or '' where it cannot be used.

  Who can write to it can run code here: jax loads what is in it.
  """
  folder = f'{tempfile.gettempdir()}/nerf_haiku_tests_{os.getuid()}'
  if environment.why_unwritable(folder):
    return ''
  return folder if os.lstat(folder).st_uid == os.getuid() else ''


# What one test has compiled serves the others.
CACHE = _make_cache()

# XLA compiles in less than half the time, to slower code. With XLA_FLAGS set,
# to blanks or to flags, tests compile as users do: see CONTRIBUTING.md.
_QUICK = '--xla_backend_optimization_level=0'
if jax.__version_info__ < (0, 11):  # A flag that XLA does not know ends it.
  _QUICK += ' --xla_cpu_use_fusion_emitters=false'
_DEVICES = '--xla_force_host_platform_device_count'


def compile_quickly() -> None:
  """Sets XLA's flags, if they are not set; to be called before jax starts."""
  os.environ.setdefault('XLA_FLAGS', _QUICK)


def make(devices: int, *, quick: bool = True) -> dict[str, str]:
  """The environment of a process with so many virtual devices.

  Args:
    devices: their number.
    quick: whether it compiles as the tests do; else as users do.
  """
  flags = os.environ.get('XLA_FLAGS', '') if quick else ''
  others = re.sub(rf'{_DEVICES}=\d+', '', flags)
  return os.environ | {
    'XLA_FLAGS': f'{others} {_DEVICES}={devices}'.strip(),
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': CACHE,
    'JAX_ENABLE_COMPILATION_CACHE': '1' if CACHE else '0',
  }

"""How tests compile, and what a process that a test starts finds set."""

import os
import re
import tempfile

# Not the user's own; what one test has compiled serves the others.
CACHE = f'{tempfile.gettempdir()}/nerf_haiku_tests'

# XLA compiles in less than half the time, to slower code. With XLA_FLAGS set,
# to blanks or to flags, tests compile as users do: see CONTRIBUTING.md.
_QUICK = (
  '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'
)
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
  }

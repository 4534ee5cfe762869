"""What a process that a test starts finds set."""

import os
import tempfile

# Not the user's own; what one test has compiled serves the others.
CACHE = f'{tempfile.gettempdir()}/nerf_haiku_tests'


def make(devices: int) -> dict[str, str]:
  """The environment of a process with so many virtual devices."""
  return os.environ | {
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': CACHE,
  }

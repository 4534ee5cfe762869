"""Settings of a process: its log, its memory and its compilation cache."""

import contextlib
import ctypes
import logging as python_logging
import os
import pathlib
import sys
from typing import Any

import jax
from absl import logging

# From malloc.h of glibc.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_INT_MAX = 2**31 - 1

CACHE_VARIABLE = 'JAX_COMPILATION_CACHE_DIR'


def quiet_libraries() -> None:
  """Makes libraries log errors only, each once."""
  logging.set_verbosity(logging.ERROR)
  # Where orbax cannot read or write, it raises an error, and each array and
  # each thread that was at work logs a traceback as well.
  python_logging.getLogger('asyncio').setLevel(python_logging.CRITICAL)
  logging.get_absl_logger().addFilter(
    lambda record: '_SignalingThread' not in record.getMessage()
  )
  previous_hook = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    if 'Event loop is closed' not in str(unraisable.exc_value):
      previous_hook(unraisable)

  sys.unraisablehook = hook


def retain_freed_memory() -> None:
  """Keeps freed memory for the next step, where the C library can.

  On a CPU jax frees the buffers of a step and allocates them again for the
  next. The system clears them each time, which took up to half of a short step.
  All threads share one arena: further arenas would keep no more than 64 MB at a
  time.
  """
  with contextlib.suppress(OSError, AttributeError):
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _INT_MAX)


def default_cache() -> str:
  """Returns the default folder of the compilation cache."""
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  path = pathlib.Path(home).expanduser() / 'nerf_haiku' / 'compiled'
  return os.environ.get(CACHE_VARIABLE) or str(path)


def set_compilation_cache(folder: str) -> None:
  """Caches compiled functions in a folder, for later processes.

  Args:
    folder: made if it does not exist; '' disables the cache. If it cannot be
      written, functions are compiled again, and nothing else is lost.
  """
  if not folder:
    jax.config.update('jax_enable_compilation_cache', False)
    return
  jax.config.update(
    'jax_compilation_cache_dir', str(pathlib.Path(folder).expanduser())
  )
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)

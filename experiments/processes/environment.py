"""What a process sets up before it computes."""

import contextlib
import ctypes
import logging as python_logging
import os
import pathlib
import sys
from typing import Any

import jax
from absl import logging

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_INT_MAX = 2**31 - 1

CACHE_VARIABLE = 'JAX_COMPILATION_CACHE_DIR'


def quiet_libraries() -> None:
  """Has libraries tell what fails, once, and not what they try or do."""
  logging.set_verbosity(logging.ERROR)
  # Where orbax can not read or write, each array that it was at, and each
  # thread, has a traceback beside the error that is raised.
  python_logging.getLogger('asyncio').setLevel(python_logging.CRITICAL)
  logging.get_absl_logger().addFilter(
    lambda record: '_SignalingThread' not in record.getMessage()
  )
  hook = sys.unraisablehook

  def drop(unraisable: Any) -> None:
    if 'Event loop is closed' not in str(unraisable.exc_value):
      hook(unraisable)

  sys.unraisablehook = drop


def retain_freed_memory() -> None:
  """Has freed memory kept for the next step, where the C library can.

  On a CPU jax frees what a step worked in, and gets it anew for the next; the
  system clears it each time, which took up to half of a short step. Threads
  share one arena: what others would have holds no more than 64 MB at a time.
  """
  with contextlib.suppress(OSError, AttributeError):
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _INT_MAX)


def default_cache() -> str:
  """Where compiled functions are kept, unless the user says otherwise."""
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  path = pathlib.Path(home).expanduser() / 'nerf_haiku' / 'compiled'
  return os.environ.get(CACHE_VARIABLE) or str(path)


def set_compilation_cache(folder: str) -> None:
  """Keeps compiled functions in a folder, for the next process.

  Args:
    folder: made if need be; '' to keep nothing. One that can not be written
      only costs the time to compile.
  """
  if not folder:
    jax.config.update('jax_enable_compilation_cache', False)
    return
  jax.config.update(
    'jax_compilation_cache_dir', str(pathlib.Path(folder).expanduser())
  )
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)

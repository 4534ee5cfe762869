"""Settings of a process: its log, its memory and its compilation cache."""

import contextlib
import ctypes
import logging as python_logging
import os
import re
import sys
import tempfile
import warnings
from typing import Any

import jax
from absl import logging

# From malloc.h of glibc.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_INT_MAX = 2**31 - 1

CACHE_VARIABLE = 'JAX_COMPILATION_CACHE_DIR'
# The beginning of warnings of jax, one for each function.
_CACHE_WARNING = 'Error (reading|writing) persistent compilation cache entry'
_PROBE_BYTES = 1 << 16  # About what a compiled function takes.


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
  """Returns the default folder of the compilation cache, unexpanded."""
  given = os.environ.get('XDG_CACHE_HOME', '')
  # Its specification says to ignore a relative path.
  base = given if given.startswith(('/', '~')) else '~/.cache'
  return os.environ.get(CACHE_VARIABLE) or f'{base}/nerf_haiku/compiled'


def set_compilation_cache(folder: str) -> str | None:
  """Caches compiled functions in a folder, for later processes.

  Args:
    folder: made if it does not exist; '' disables the cache, and so does
      `JAX_ENABLE_COMPILATION_CACHE=0`. jax opens a URL, such as `gs://...`.

  Returns:
    Why the folder cannot be used, in one line, or None. Without a cache,
    functions are compiled again, and nothing else is lost.
  """
  path = os.path.expanduser(folder)
  wanted = folder and jax.config.values['jax_enable_compilation_cache']
  problem = why_unwritable(path) if wanted and '://' not in path else None
  if problem or not wanted:
    jax.config.update('jax_enable_compilation_cache', False)
  else:
    _report_cache_errors_once(path)
    jax.config.update('jax_compilation_cache_dir', path)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  return problem and (
    f'Compiled functions are not cached: {path} cannot be written ({problem}). '
    '--compilation_cache=FOLDER uses another folder.'
  )


def why_unwritable(folder: str) -> str | None:
  """Writes to a folder, made if it does not exist; returns why that fails."""
  if folder.startswith('~'):
    return 'there is no such home folder'
  try:
    os.makedirs(folder, exist_ok=True)
    # A full disk or quota may have room for a name, and not for content.
    with tempfile.TemporaryFile(dir=folder) as file:
      file.write(bytes(_PROBE_BYTES))
  except OSError as error:
    return error.strerror or str(error)
  return None


def _report_cache_errors_once(folder: str) -> None:
  """Prints one line where jax warns of each function it cannot cache."""
  warnings.filterwarnings('always', _CACHE_WARNING)
  show = warnings.showwarning
  reported = False

  def show_or_report(message: Any, *args: Any, **kwargs: Any) -> None:
    nonlocal reported
    if not re.match(_CACHE_WARNING, str(message)):
      show(message, *args, **kwargs)
    elif not reported:
      reported = True
      print(
        f'{" ".join(str(message).split())}. Such functions are compiled '
        f'again, without a message. To clear the cache, delete {folder}.',
        file=sys.stderr,
      )

  warnings.showwarning = show_or_report

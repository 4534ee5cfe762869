"""Settings of a process: its log, its memory and its compilation cache."""

import contextlib
import ctypes
import importlib.util
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

_XLA_FLAGS = 'XLA_FLAGS'
_BACKEND_OPTIONS = '--xla_backend_extra_options'
# The first and last version of jax that need `mend_atomics`.
_CAS_VERSIONS = (0, 10, 2), (0, 11, 0)
_NVIDIA_DRIVER = '/proc/driver/nvidia/version'

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


def cuda_plugin() -> str | None:
  """Returns the name of jax's plugin for NVIDIA GPUs, or None without one."""
  names = ('jax_cuda13_plugin', 'jax_cuda12_plugin')
  return next((x for x in names if importlib.util.find_spec(x)), None)


def mend_atomics() -> None:
  """Asks XLA for native atomic additions, before jax starts.

  Some versions compile a sum of float32 into an array for NVIDIA as a loop of
  compare-and-swap, many times slower (openxla/xla#46225).
  """
  flags = os.environ.get(_XLA_FLAGS, '')
  is_affected = _CAS_VERSIONS[0] <= jax.__version_info__ <= _CAS_VERSIONS[1]
  if cuda_plugin() and is_affected and _BACKEND_OPTIONS not in flags:
    added = f'{_BACKEND_OPTIONS}=-nvptx-allow-ftz-atomics'
    os.environ[_XLA_FLAGS] = f'{flags} {added}'.strip()


def describe_unused_gpu() -> str | None:
  """Returns a notice where there is a GPU but no plugin of jax for it."""
  is_asked = os.environ.get('JAX_PLATFORMS')
  if is_asked or cuda_plugin() or not os.path.exists(_NVIDIA_DRIVER):
    return None
  return (
    'This machine has an NVIDIA GPU, but jax computes on the CPU: install its '
    "plugin by pip install -e '.[cuda13]', or '.[cuda12]' for a driver older "
    'than 580. JAX_PLATFORMS=cpu hides this notice.'
  )


def set_matmul_precision(precision: str) -> None:
  """Sets the precision of matrix products, see `configs/default.py`."""
  chosen = None if precision == 'default' else precision
  jax.config.update('jax_default_matmul_precision', chosen)


def retain_freed_memory() -> None:
  """Keeps freed memory for the next step, where the C library can.

  It is for processes that compute on a CPU. There jax frees the buffers of a
  step and allocates them again for the next. The system clears them each time,
  which took up to half of a short step. All threads share one arena: further
  arenas would keep no more than 64 MB at a time.
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

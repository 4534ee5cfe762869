"""What a process sets up before it computes."""

import concurrent.futures
import contextlib
import ctypes
import os
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from nerf_haiku import training

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_INT_MAX = 2**31 - 1

CACHE_VARIABLE = 'JAX_COMPILATION_CACHE_DIR'


def quiet_libraries() -> None:
  """Has libraries tell what fails, and not what they try or do."""
  logging.set_verbosity(logging.ERROR)


def keep_freed_memory() -> None:
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


def keep_compiled(folder: str) -> None:
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


def compile_ahead(
  update_: Any, config: ml_collections.ConfigDict, state: training.TrainState
) -> concurrent.futures.Future:
  """Compiles an update in a thread of its own.

  Args:
    update_: as from `build.update`.
    config: of the run.
    state: the shapes of one replica.

  Returns:
    The future of a function of the same arguments.
  """
  count = jax.local_device_count()

  def on_devices(x):
    return jax.ShapeDtypeStruct((count, *x.shape), x.dtype)

  rays = (count, config.num_rand // jax.device_count())
  batch = training.Batch(
    jax.ShapeDtypeStruct(rays, np.int32),
    jax.ShapeDtypeStruct((*rays, 2), np.int32),
    jax.ShapeDtypeStruct((*rays, 3), np.float32),
  )  # fmt: skip
  shapes = jax.tree.map(on_devices, state), batch, jax.random.key(0)
  pool = concurrent.futures.ThreadPoolExecutor(1)

  def compiled():
    # Of many processes, pmap compiles no shapes: at the first step then.
    alone = jax.process_count() == 1
    return update_.lower(*shapes).compile() if alone else update_

  future = pool.submit(compiled)
  pool.shutdown(wait=False)
  return future

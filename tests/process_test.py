import os
import pathlib
import subprocess
import sys
from unittest import mock

import chex
import jax

from experiments import process

# Grows a buffer and lets it go, and counts the pages that the system gave.
_CHURN = """
import resource
from experiments import process
import numpy as np
{}
def churn():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  for _ in range(10):
    np.ones(16_000_000, np.uint8)
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
churn()
print(churn())
"""


class MemoryTest(chex.TestCase):
  def _pages(self, line):
    done = subprocess.run(
      [sys.executable, '-c', _CHURN.format(line)], capture_output=True,
      text=True, check=True, cwd=pathlib.Path(__file__).parents[1],
    )  # fmt: skip
    return int(done.stdout)

  def test_what_is_freed_is_used_again(self):
    self.assertLess(self._pages('process.keep_freed_memory()'), 50)

  def test_where_the_c_library_can_not(self):
    with mock.patch.object(process.ctypes, 'CDLL', side_effect=OSError):
      self.assertIsNone(process.keep_freed_memory())


class CacheTest(chex.TestCase):
  def test_where_it_is(self):
    with mock.patch.dict(os.environ, {'XDG_CACHE_HOME': '/somewhere'}):
      os.environ.pop(process.CACHE_VARIABLE, None)
      self.assertEqual(
        process.default_cache(), '/somewhere/nerf_haiku/compiled'
      )
      os.environ[process.CACHE_VARIABLE] = '/elsewhere'
      self.assertEqual(process.default_cache(), '/elsewhere')

  def test_compiled_functions_are_kept(self):
    folder = pathlib.Path(self.create_tempdir().full_path) / 'compiled'
    enabled = jax.config.jax_enable_compilation_cache
    before = jax.config.jax_compilation_cache_dir
    try:
      process.keep_compiled(str(folder))
      jax.jit(lambda x: x * 3 + 1)(2.0)
      self.assertNotEmpty(list(folder.iterdir()))
      process.keep_compiled('')
      self.assertFalse(jax.config.jax_enable_compilation_cache)
    finally:
      jax.config.update('jax_enable_compilation_cache', enabled)
      jax.config.update('jax_compilation_cache_dir', before)

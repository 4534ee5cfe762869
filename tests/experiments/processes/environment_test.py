import os
import pathlib
import subprocess
import sys
from unittest import mock

import chex

from experiments.processes import environment

# Allocates and frees a buffer, and counts the pages that the system gave.
_CHURN = """
import resource
from experiments.processes import environment
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

_COMPILE = """
import sys
from experiments.processes import environment
environment.set_compilation_cache(sys.argv[1])
import jax
jax.jit(lambda x: x * 3 + 1)(2.0)
"""
_ROOT = pathlib.Path(__file__).parents[3]


class MemoryTest(chex.TestCase):
  def _pages(self, line):
    done = subprocess.run(
      [sys.executable, '-c', _CHURN.format(line)],
      capture_output=True,
      text=True,
      check=True,
      cwd=_ROOT,
    )
    return int(done.stdout)

  def test_freed_memory_is_used_again(self):
    self.assertLess(self._pages('environment.retain_freed_memory()'), 50)

  def test_a_c_library_without_mallopt_changes_nothing(self):
    with mock.patch.object(environment.ctypes, 'CDLL', side_effect=OSError):
      self.assertIsNone(environment.retain_freed_memory())


class CacheTest(chex.TestCase):
  def test_default_folder(self):
    with mock.patch.dict(os.environ, {'XDG_CACHE_HOME': '/somewhere'}):
      os.environ.pop(environment.CACHE_VARIABLE, None)
      self.assertEqual(
        environment.default_cache(), '/somewhere/nerf_haiku/compiled'
      )
      os.environ[environment.CACHE_VARIABLE] = '/elsewhere'
      self.assertEqual(environment.default_cache(), '/elsewhere')

  def _compiled(self, folder, home):
    """Compiles in a process of its own: jax sets its cache up only once."""
    subprocess.run(
      [sys.executable, '-c', _COMPILE, folder],
      check=True,
      cwd=_ROOT,
      env=os.environ | {'HOME': str(home)},
    )

  def test_caches_compiled_functions(self):
    home = pathlib.Path(self.create_tempdir().full_path)
    self._compiled(str(home / 'kept' / 'here'), home)
    self.assertNotEmpty(list((home / 'kept' / 'here').iterdir()))

  def test_an_empty_name_disables_the_cache(self):
    home = pathlib.Path(self.create_tempdir().full_path)
    self._compiled('', home)
    self.assertEmpty(list(home.iterdir()))

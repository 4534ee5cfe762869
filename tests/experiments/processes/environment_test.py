import os
import pathlib
import resource
import subprocess
import sys
from unittest import mock

import chex
import jax
import jax.numpy as jnp
from absl.testing import parameterized

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

# Compiles two functions, then damages the cache in some way and compiles
# again, as a later process would.
_COMPILE = """
import pathlib, shutil, sys
import jax
from experiments.processes import environment
print(environment.set_compilation_cache(sys.argv[1]))
folder = pathlib.Path(sys.argv[1])
def compile():
  jax.clear_caches()
  assert jax.jit(lambda x: x * 3 + 1)(2.0) == 7
  assert jax.jit(lambda x: x * 4 + 1)(2.0) == 9
compile()
{}
compile()
"""
_DAMAGE = """
for entry in folder.glob('*-cache'):
  content = entry.read_bytes()
  {}
"""
_ROOT = pathlib.Path(__file__).parents[3]


class GpuTest(chex.TestCase):
  @parameterized.parameters(
    ((0, 10, 1), '', 'jax_cuda12_plugin', ''),
    ((0, 10, 2), '', 'jax_cuda12_plugin', '{}=-nvptx-allow-ftz-atomics'),
    (
      (0, 11, 0),
      '--a=b',
      'jax_cuda12_plugin',
      '--a=b {}=-nvptx-allow-ftz-atomics',
    ),
    ((0, 11, 0), '{}=-c', 'jax_cuda12_plugin', '{}=-c'),
    ((0, 11, 1), '', 'jax_cuda13_plugin', ''),
    ((0, 10, 2), '', None, ''),
  )
  def test_flag_of_atomics(self, version, flags, plugin, expected):
    option = '--xla_backend_extra_options'
    with (
      mock.patch.dict(os.environ, {'XLA_FLAGS': flags.format(option)}),
      mock.patch.object(environment, 'cuda_plugin', return_value=plugin),
      mock.patch.object(jax, '__version_info__', version),
    ):
      environment.mend_atomics()
      self.assertEqual(os.environ['XLA_FLAGS'], expected.format(option))

  @parameterized.parameters(
    (None, True, '', True),
    ('jax_cuda12_plugin', True, '', False),
    (None, False, '', False),
    (None, True, 'cpu', False),
  )
  def test_a_gpu_without_plugin(self, plugin, has_driver, asked, is_said):
    driver = __file__ if has_driver else '/nowhere'
    with (
      mock.patch.dict(os.environ, {'JAX_PLATFORMS': asked}),
      mock.patch.object(environment, '_NVIDIA_DRIVER', driver),
      mock.patch.object(environment, 'cuda_plugin', return_value=plugin),
    ):
      text = environment.describe_unused_gpu()
    self.assertEqual(is_said, text is not None)
    if text is not None:
      self.assertIn("pip install -e '.[cuda13]'", text)

  def test_precision_of_products(self):
    self.addCleanup(environment.set_matmul_precision, 'default')
    for name, is_highest in (('highest', True), ('default', False)):
      environment.set_matmul_precision(name)
      jaxpr = str(jax.make_jaxpr(lambda x: x @ x)(jnp.ones((2, 2))))
      self.assertEqual('HIGHEST' in jaxpr, is_highest)


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
      os.environ['XDG_CACHE_HOME'] = 'relative'
      self.assertEqual(
        environment.default_cache(), '~/.cache/nerf_haiku/compiled'
      )
      os.environ[environment.CACHE_VARIABLE] = '/elsewhere'
      self.assertEqual(environment.default_cache(), '/elsewhere')

  def _compile(self, folder, then='', **variables):
    """Compiles in a process of its own: jax sets its cache up only once.

    Returns:
      What `set_compilation_cache` returned, and what the process said.
    """
    done = subprocess.run(
      [sys.executable, '-W', 'error', '-c', _COMPILE.format(then), folder],
      check=False,
      capture_output=True,
      text=True,
      cwd=_ROOT,
      env=os.environ | variables,
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    return done.stdout.strip(), done.stderr.splitlines()

  def test_caches_compiled_functions(self):
    folder = pathlib.Path(self.create_tempdir().full_path) / 'kept' / 'here'
    said = self._compile(str(folder), "assert list(folder.glob('*-cache'))")
    self.assertEqual(said, ('None', []))

  @parameterized.parameters(
    ('', {}), ('cache', {'JAX_ENABLE_COMPILATION_CACHE': '0'})
  )
  def test_without_a_cache(self, name, variables):
    home = pathlib.Path(self.create_tempdir().full_path)
    said = self._compile(name and str(home / name), HOME=str(home), **variables)
    self.assertEqual(said, ('None', []))
    self.assertEmpty(list(home.iterdir()))

  def test_a_url_is_left_to_jax(self):
    with (
      mock.patch.object(environment.jax, 'config') as config,
      mock.patch.object(os, 'makedirs', side_effect=AssertionError),
    ):
      self.assertIsNone(environment.set_compilation_cache('gs://bucket/kept'))
    config.update.assert_any_call(
      'jax_compilation_cache_dir', 'gs://bucket/kept'
    )

  def test_a_folder_that_cannot_be_written(self):
    file = self.create_tempfile(content='mine').full_path
    problem, warned = self._compile(file)
    self.assertEqual(
      problem,
      f'Compiled functions are not cached: {file} cannot be written (File '
      'exists). --compilation_cache=FOLDER uses another folder.',
    )
    self.assertEmpty(warned)
    self.assertEqual(pathlib.Path(file).read_text(), 'mine')

  @parameterized.named_parameters(
    ('cut_off', _DAMAGE.format('entry.write_bytes(content[:100])'), 'reading'),
    ('empty', _DAMAGE.format("entry.write_bytes(b'')"), 'reading'),
    ('folder', _DAMAGE.format('entry.unlink(), entry.mkdir()'), 'reading'),
    # Many: where zstandard is installed, jax's entries have no checksum, and a
    # single flipped bit may be one of the machine code.
    (
      'flipped_bits',
      _DAMAGE.format(
        'middle = len(content) // 2\n'
        '  flipped = bytes(x ^ 255 for x in content[middle:])\n'
        '  entry.write_bytes(content[:middle] + flipped)'
      ),
      'reading',
    ),
    # As a disk that fills up, jax can make no entry in it.
    ('lost_folder', 'shutil.rmtree(folder); folder.touch()', 'writing'),
  )
  def test_errors_of_all_functions_are_one_line(self, damage, which):
    folder = self.create_tempdir().full_path
    problem, warned = self._compile(folder, damage)
    self.assertEqual(problem, 'None')
    self.assertLen(warned, 1)
    self.assertRegex(
      warned[0], f'^Error {which} .*entry for .jit.* delete {folder}.$'
    )


class UnwritableTest(chex.TestCase):
  """Which folders cannot be written; those of others, root can write."""

  def test_a_full_disk(self):
    """A limit has the effect of a quota with little room left."""
    folder = self.create_tempdir().full_path
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    self.assertEqual(environment.why_unwritable(folder), 'File too large')

  def test_a_folder_in_a_file(self):
    file = self.create_tempfile().full_path
    self.assertEqual(
      environment.why_unwritable(f'{file}/folder'), 'Not a directory'
    )

  def test_no_home(self):
    """A user whom the system does not know, in a container."""
    variables = {x: y for x, y in os.environ.items() if x != 'HOME'}
    for variable in ('XDG_CACHE_HOME', environment.CACHE_VARIABLE):
      variables.pop(variable, None)
    with (
      mock.patch.dict(os.environ, variables, clear=True),
      mock.patch('pwd.getpwuid', side_effect=KeyError),
    ):
      folder = os.path.expanduser(environment.default_cache())
      self.assertEqual(
        environment.why_unwritable(folder), 'there is no such home folder'
      )

  def test_nothing_is_left_in_it(self):
    folder = pathlib.Path(self.create_tempdir().full_path) / 'new' / 'folder'
    self.assertIsNone(environment.why_unwritable(str(folder)))
    self.assertEmpty(list(folder.iterdir()))

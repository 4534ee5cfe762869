"""Four virtual devices, and errors where JAX would only warn.

What one test compiles is kept for the others, and for the next time. With
`NERF_HAIKU_TEST_PLATFORM=cuda` the tests compute on a GPU, those marked `cpu`
excepted.
"""

import os
from collections.abc import Iterator

import chex
import hypothesis
import jax
import pytest
from absl import flags

from experiments.processes import environment
from tests.support import environment as test_environment

# `create_tempdir` of absl's test cases asks for a flag.
flags.FLAGS.mark_as_parsed()
_PLATFORM = os.environ.get('NERF_HAIKU_TEST_PLATFORM') or 'cpu'
if _PLATFORM == 'cpu':
  test_environment.compile_quickly()
  jax.config.update('jax_platforms', 'cpu')
  chex.set_n_cpu_devices(4)
else:
  environment.mend_atomics()
  jax.config.update('jax_platforms', f'{_PLATFORM},cpu')
  # Tolerances are those of float32.
  environment.set_matmul_precision('highest')
jax.config.update('jax_numpy_rank_promotion', 'raise')
environment.set_compilation_cache(test_environment.CACHE)

# Cases of each kind of generated bad input: always the same few, or with
# --hypothesis-profile=long many that differ from run to run. What hangs is
# ended by the tests themselves; how fast a case is depends on the machine.
_COMMON = {
  'deadline': None,
  'database': None,
  'print_blob': True,
  'suppress_health_check': tuple(hypothesis.HealthCheck),
}
hypothesis.settings.register_profile(
  'short', max_examples=4, derandomize=True, **_COMMON
)
hypothesis.settings.register_profile('long', max_examples=60, **_COMMON)
hypothesis.settings.load_profile('short')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Skips what only a CPU passes."""
  if _PLATFORM != 'cpu':
    reason = 'it compares bit by bit, or needs four devices'
    for item in items:
      if item.get_closest_marker('cpu'):
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope='session', autouse=True)
def _own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
  """Keeps files of absl's test cases apart from other users' and runs'."""
  flags.FLAGS.test_tmpdir = str(tmp_path_factory.mktemp('absl'))


@pytest.fixture(scope='module', autouse=True)
def _free_compiled_functions() -> Iterator[None]:
  """Frees what the tests of a file compiled.

  Each function takes some of the memory maps of its process, of which Linux
  allows 65,530: without, XLA ends the process after some thousand functions.
  """
  yield
  jax.clear_caches()

import types
from unittest import mock

import chex
import jax
from absl.testing import parameterized

from experiments.trainer import out_of_memory
from tests.support import configs


def _explain(analysis, limit, **changes):
  config = configs.changed(**changes)
  device = types.SimpleNamespace(
    device_kind='H1',
    memory_stats=lambda: limit and {'bytes_limit': limit, 'bytes_in_use': 0},
  )
  with (
    mock.patch.object(jax, 'local_devices', return_value=[device]),
    mock.patch.object(jax, 'device_count', return_value=1),
  ):
    return str(out_of_memory.explain(config, analysis))


def _analysis(temporary, arguments=0):
  return types.SimpleNamespace(
    temp_size_in_bytes=temporary, argument_size_in_bytes=arguments
  )


class ExplainTest(chex.TestCase):
  @parameterized.parameters(
    # All rays take 10 GB, and 7.2 of 8 may be used: half is the next power.
    (8e9, 10e9, 0, {'num_rand': 4096}, 'microbatch=2048 (now 4096)'),
    # 0.9 * 8 - 1 GB of 40: 15.5 % of the rays.
    (8e9, 40e9, 1e9, {'num_rand': 4096}, 'microbatch=512 (now 4096)'),
    (8e9, 40e9, 0, {'num_rand': 64, 'microbatch': 9}, 'microbatch=1 (now 9)'),
    (None, 40e9, 0, {'num_rand': 4096}, 'microbatch=2048 (now 4096)'),
    (
      8e9,
      80e9,
      0,
      {'renderer': 'occupancy', 'occupancy__max_samples': 2**18},
      'occupancy.max_samples=16384 (now 262144)',
    ),
  )
  def test_a_value_that_fits(self, limit, temporary, arguments, made, expected):
    text = _explain(_analysis(temporary, arguments), limit, **made)
    self.assertIn(f'--config.{expected}', text)
    self.assertStartsWith(text, 'The memory of H1 is not enough.')

  def test_what_a_step_needs_is_said(self):
    text = _explain(_analysis(40e9, 1e9), 8e9, num_rand=64)
    self.assertIn('A step needs 41 of 8 GB.', text)
    self.assertNotIn('needs', _explain(None, 8e9, num_rand=64))

  def test_other_errors_are_not_of_memory(self):
    error = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
    self.assertTrue(out_of_memory.is_out_of_memory(error))
    self.assertFalse(out_of_memory.is_out_of_memory(ValueError('INTERNAL')))

"""Calls of several steps: the same run, with fewer waits."""

import concurrent.futures
import pathlib
import types
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from experiments.trainer import blocks, progress
from nerf_haiku import devices
from tests.support import configs, fitting

_OCCUPANCY = {
  'field': 'hash',
  'renderer': 'occupancy',
  'hash': {'hashmap_size': 512},
  'occupancy': {
    'update_every': 4,
    'max_samples': 1024,
    'step_size': 0.05,
    'resolution': 8,
  },
}


@pytest.mark.cpu
class FitTest(chex.TestCase):
  def _fit(self, **changes):
    settings = {'num_steps': 14, 'num_rand': 64, 'num_samples': 8, 'i_print': 4}
    config = configs.small(
      width=16, num_train=6, num_test=1, **(settings | changes)
    )
    shown, validated, self_test = [], [], self
    show = progress.Progress.show

    def keep(self, scalars, *, is_of_first_call):
      show(self, scalars, is_of_first_call=is_of_first_call)
      shown.append(float(scalars['loss']))
      if is_of_first_call:  # Which compiles.
        self_test.assertEqual(self.rays_per_second(), 0.0)

    def validate(variables, step):
      validated.append(step)
      return 30.0 - step

    folder = pathlib.Path(self.create_tempdir().full_path)
    with mock.patch.object(progress.Progress, 'show', keep):
      fitted = fitting.fit(config, folder, seed=0, validate=validate)
    return fitted.state, shown, validated

  @parameterized.parameters(
    ({'input': 'device'}, 4),
    ({'input': 'host', 'raw_noise_std': 0.1}, 4),
    ({'input': 'device'} | _OCCUPANCY, 2),
    ({'input': 'device'} | _OCCUPANCY, 4),
    ({'input': 'host'} | _OCCUPANCY, 5),
  )
  def test_a_run_is_that_of_single_steps(self, changes, num_steps):
    """With outputs after steps that no call may pass."""
    changes = changes | {'i_img': 5}
    expected, losses, _ = self._fit(**changes)
    with mock.patch.object(
      blocks.Block, 'split', autospec=True, side_effect=blocks.Block.split
    ) as split:
      state, shown, validated = self._fit(steps_per_call=num_steps, **changes)
    lengths = [call.args[0].num_steps for call in split.call_args_list]
    self.assertIn(num_steps, lengths)
    self.assertEqual(sum(lengths), 14)
    self.assertEqual(validated, [5, 10])
    # Compiled in a loop, a step rounds otherwise.
    np.testing.assert_allclose(shown, losses, rtol=1e-4)
    self.assertEqual(int(state.step), int(expected.step))
    chex.assert_trees_all_close(
      state.renderer_state, expected.renderer_state, rtol=1e-4
    )


def _blocks(num_steps, *, asked=0, is_done=True):
  """Blocks with updates that are not compiled: 'single', and 'several'."""
  several = concurrent.futures.Future()
  if is_done:
    several.set_result('several')
  single = concurrent.futures.Future()
  single.set_result('single')
  config = types.SimpleNamespace(
    steps_per_call=asked,
    i_img=50,
    i_weights=1000,
    i_testset=1000,
    i_video=1000,
    num_steps=100,
  )
  experiment = types.SimpleNamespace(
    config=config,
    compile_update=lambda count=1: single if count == 1 else several,
  )
  with mock.patch.object(blocks, '_num_steps', return_value=num_steps):
    return blocks.Blocks(experiment)


class BlocksTest(chex.TestCase):
  def test_calls_end_where_outputs_are_due(self):
    made, step, lengths = _blocks(16), 0, []
    while step < 100:
      block = made.at(step, seconds=0.01)
      self.assertEqual(
        block.update, 'several' if block.num_steps > 1 else 'single'
      )
      lengths.append(block.num_steps)
      step += block.num_steps
    self.assertEqual(lengths, [16] * 3 + [1] * 16 + [16, 16] + [1] * 4)

  @parameterized.parameters(
    ({}, 0.01, 16),
    ({}, 0.02, 1),  # A signal would wait for 0.64 seconds.
    ({}, None, 1),  # It is not known how long a step takes.
    ({'is_done': False}, 0.01, 1),  # It is being compiled.
    ({'asked': 4}, None, 4),
    ({'asked': 4}, 10.0, 4),
    ({'asked': 1}, 0.01, 1),
  )
  def test_how_many_steps_a_call_takes(self, made, seconds, expected):
    self.assertEqual(_blocks(16, **made).at(0, seconds).num_steps, expected)

  def test_a_resumed_run_takes_single_steps_first(self):
    made = _blocks(16)
    self.assertEqual([made.at(x, 0.01).num_steps for x in (63, 64)], [1, 16])


class FetchTest(chex.TestCase):
  def test_in_one_copy_as_in_many(self):
    scalars = {
      'loss': jnp.float32(0.25),
      'pieces': jnp.arange(3, dtype=jnp.int32),
      'stats': (jnp.ones((3, 2)), jnp.int32(2**24)),
    }
    with mock.patch.object(devices, 'are_cpus', return_value=False):
      fetched = blocks.fetch_later(scalars)()
    expected = jax.device_get(scalars)
    chex.assert_trees_all_equal(fetched, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(
      fetched, jax.tree.map(np.asarray, expected)
    )

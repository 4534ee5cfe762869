"""The same seed, machine and number of devices give the same bits.

The other two pairs are in `trainer/steps_test.py`
(`test_a_resumed_run_equals_an_unbroken_one`); processes in `preemption_test`.
"""

import functools

import chex
import jax
import pytest
from absl.testing import parameterized

from experiments.builders import experiment as experiment_lib
from experiments.builders import scene_loader
from nerf_haiku import devices
from tests.support import configs

_STEPS = 6


def _config(field, renderer):
  config = configs.small(
    width=16,
    num_train=3,
    num_test=1,
    num_rand=64,
    num_samples=8,
    num_importance=8,
    raw_noise_std=0.1,
    field=field,
    renderer=renderer,
  )
  config.hash.update(num_levels=4, hashmap_size=512, color_width=16)
  # The grid is looked at, and rays have samples, within these few steps.
  config.occupancy.update(
    update_every=2, max_samples=1024, step_size=0.05, resolution=8
  )
  return config


@pytest.mark.cpu
class DeterminismTest(chex.TestCase):
  @parameterized.parameters(('hash', 'hierarchical'), ('mlp', 'occupancy'))
  def test_bit_equal(self, field, renderer):
    config = _config(field, renderer)
    scene = scene_loader.load_scene(config, None)
    experiment = experiment_lib.make_experiment(config, scene)

    def run(seed):
      init, key = jax.random.split(jax.random.key(seed))
      state = devices.replicate(experiment.init_state(init))
      batches = experiment.make_inputs(
        seed=seed, start_step=0, num_steps=_STEPS
      )
      for batch in batches:
        state, scalars = experiment.update(state, batch, key)
        jax.block_until_ready(scalars)  # Virtual devices deadlock otherwise.
      return devices.unreplicate(state)

    one, same, other = map(run, (3, 3, 4))
    bits = functools.partial(jax.tree.map, lambda x: x.tobytes())
    self.assertEqual(bits(one), bits(same))
    moved = [
      x.tobytes() != y.tobytes()
      for x, y in zip(
        jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True
      )
    ]
    self.assertTrue(all(moved))
    self.assertEqual(int(one.step), _STEPS)

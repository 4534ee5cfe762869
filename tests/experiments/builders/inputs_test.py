"""Where batches are drawn, and what a call of the update reads."""

from unittest import mock

import chex
import jax
import numpy as np
import pytest
from absl.testing import parameterized

from experiments.builders import experiment as experiment_lib
from experiments.builders import inputs
from nerf_haiku import camera_paths, cameras, devices, errors, scenes
from tests.support import configs, trained


def _scene(masks=None):
  views = cameras.pinhole(camera_paths.circle(2), [[8, 6]] * 2, [8.0] * 2)
  pixels = np.arange(96 * 3, dtype=np.uint8).reshape(96, 3)
  scene = trained.scene(views, scenes.Images(pixels, [[8, 6]] * 2))
  return scene._replace(train=scene.train._replace(masks=masks))


class ChooseTest(chex.TestCase):
  def _choose(self, free, *, cpus=False, masks=None, **changes):
    with (
      mock.patch.object(inputs, '_free_bytes', return_value=free),
      mock.patch.object(devices, 'are_cpus', return_value=cpus),
    ):
      return inputs.choose(configs.changed(**changes), _scene(masks))

  def test_by_a_quarter_of_the_free_memory(self):
    """The images have 288 bytes."""
    self.assertEqual(self._choose(4 * 288), 'device')
    self.assertEqual(self._choose(4 * 288 - 1), 'host')
    self.assertEqual(self._choose(None), 'device')

  def test_the_devices_of_a_cpu_share_its_memory(self):
    count = jax.local_device_count()
    self.assertEqual(self._choose(count * 4 * 288, cpus=True), 'device')
    self.assertEqual(self._choose(count * 4 * 288 - 1, cpus=True), 'host')

  def test_the_pixels_that_count_take_memory_too(self):
    masks = scenes.Images(np.ones((96, 1), np.uint8), [[8, 6]] * 2)
    self.assertEqual(self._choose(4 * 288, masks=masks), 'host')
    self.assertEqual(self._choose(4 * (288 + 8 * 96), masks=masks), 'device')

  @parameterized.parameters('device', 'host')
  def test_as_the_config_asks(self, asked):
    self.assertEqual(self._choose(1 << 40, input=asked), asked)
    self.assertEqual(self._choose(1, input=asked), asked)

  def test_more_pixels_than_a_device_counts(self):
    with mock.patch.object(inputs.resident, 'can_be_drawn', return_value=False):
      self.assertEqual(self._choose(1 << 40), 'host')
      with self.assertRaisesRegex(
        errors.UserError, r"config.input: got 'device', .* 96 pixels"
      ):
        self._choose(1 << 40, input='device')

  def test_free_bytes_of_devices(self):
    fake = [
      mock.Mock(memory_stats=lambda i=i: {'bytes_limit': 9, 'bytes_in_use': i})
      for i in (1, 4)
    ]
    with (
      mock.patch.object(devices, 'are_cpus', return_value=False),
      mock.patch.object(jax, 'local_devices', return_value=fake),
    ):
      self.assertEqual(inputs._free_bytes(), 5)


class ShapesTest(chex.TestCase):
  @parameterized.product(
    kind=('device', 'host'), num_steps=(1, 3), batching=(True, False)
  )
  def test_are_those_of_what_is_read(self, kind, num_steps, batching):
    config = configs.changed(
      num_rand=16, batching=batching, precrop_iters=0 if batching else 2
    )
    scene = _scene()
    made = inputs.Inputs(config, scene, kind)
    read = made.of_steps(seed=0, start_step=2, num_steps=2 + num_steps)
    data = made.stack(list(read))
    shapes = made.shapes(num_steps)
    chex.assert_trees_all_equal_shapes_and_dtypes(data, shapes)

  def test_what_is_said(self):
    host, device = (
      inputs.Inputs(configs.changed(), _scene(), kind).describe()
      for kind in ('host', 'device')
    )
    self.assertIn('on the host from 0 MB', host)
    self.assertIn('0 MB of images in memory', device)


class DevicesTest(chex.TestCase):
  @pytest.mark.cpu
  @parameterized.parameters(True, False)
  def test_the_pixels_are_the_same_on_any_number_of_devices(self, batching):
    config = configs.changed(
      num_rand=16,
      perturb=False,
      batching=batching,
      precrop_iters=0 if batching else 2,
    )
    experiment = experiment_lib.make_experiment(
      config, _scene(), drawn_on='device'
    )
    (data,) = experiment.make_inputs(seed=0, start_step=0, num_steps=1)
    images = jax.tree.map(lambda x: np.asarray(x[0]), data)
    losses = []
    for count in (1, 2, 4):
      state = devices.replicate(experiment.init_state(jax.random.key(0)), count)
      held = devices.replicate(images, count)
      for _ in range(3):
        state, scalars = experiment.update(state, held, jax.random.key(1))
      losses.append(float(scalars['loss']))
    np.testing.assert_allclose(losses[1:], losses[0], rtol=1e-5)

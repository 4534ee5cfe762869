import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized

from experiments.builders import experiment as experiment_lib
from experiments.builders import refinement
from nerf_haiku import (
  camera_paths,
  camera_refinement,
  cameras,
  checkpoints,
  devices,
  exposure,
  scenes,
  training,
)
from tests.support import configs, trained

_CAMERAS = camera_refinement.NAME


def _scene():
  views = cameras.pinhole(camera_paths.circle(3), [[8, 8]] * 3, [8.0] * 3)
  pixels = np.random.default_rng(0).integers(0, 256, (192, 3), np.uint8)
  images = scenes.Images(pixels, [[8, 8]] * 3)
  return trained.scene(views, images, near=2.0, far=6.0)


def _experiment(**changes):
  config = configs.changed(
    num_rand=12, num_importance=0, raw_noise_std=0.0, **changes
  )
  return experiment_lib.make_experiment(config, _scene())


class ExperimentTest(chex.TestCase):
  def test_off_there_are_no_parameters_of_images(self):
    params = _experiment().state_shapes().params
    self.assertEqual(set(params), {'coarse'})

  def test_a_resumed_run_equals_an_unbroken_one(self):
    experiment = _experiment(
      refine_cameras=True, refinement__warmup_steps=1, exposure=True
    )
    key = jax.random.key(0)
    first, second, third = experiment.make_inputs(
      seed=0, start_step=0, num_steps=3
    )
    state = devices.replicate(experiment.init_state(key))
    for batch in (first, second):
      state, _ = experiment.update(state, batch, key)
    folder = pathlib.Path(self.create_tempdir().full_path) / 'checkpoints'
    with checkpoints.Checkpoints(folder) as saved:
      saved.save(devices.unreplicate(state), {})
      restored, _ = saved.restore(experiment.state_shapes())
      variables, _ = saved.read(jax.eval_shape(experiment.renderer.init, key))
    self.assertEqual(set(variables.params), {'coarse'})
    unbroken, _ = experiment.update(state, third, key)
    resumed, _ = experiment.update(devices.replicate(restored), third, key)
    chex.assert_trees_all_equal(
      devices.unreplicate(unbroken), devices.unreplicate(resumed)
    )
    for name in training.IMAGE_PARAMS:
      (*_, numbers) = jax.tree.leaves(unbroken.params[name])
      self.assertGreater(float(jnp.max(jnp.abs(numbers))), 0.0, name)

  def test_each_kind_of_parameters_has_its_own_rate(self):
    """The first step of Adam is as long as the rate."""
    experiment = _experiment(
      learning_rate=1e-2,
      refine_cameras=True,
      refinement__learning_rate=1e-3,
      refinement__warmup_steps=2,
      exposure=True,
      exposure_learning_rate=1e-4,
      lr_schedule='constant',
    )
    params = experiment.init_state(jax.random.key(0)).params
    opt_state = experiment.optimizer.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    rates = {'coarse': 1e-2, exposure.NAME: 1e-4}
    for expected in (0.0, 1e-3 / 4, 1e-3, 1e-3):
      updates, opt_state = experiment.optimizer.update(grads, opt_state, params)
      for name, rate in (rates | {_CAMERAS: expected}).items():
        for update in jax.tree.leaves(updates[name]):
          np.testing.assert_allclose(update, -rate, rtol=1e-4, atol=1e-12)


class RefinedCamerasTest(chex.TestCase):
  @parameterized.parameters((False, 6), (True, 7))
  def test_of_the_first_parameters_are_the_scenes(self, focal, size):
    config = configs.changed(refine_cameras=True, refinement__focal=focal)
    params = refinement.init_params(config, _scene())
    chex.assert_shape(jax.tree.leaves(params), (3, size))
    found = refinement.refined_cameras(config, _scene(), params)
    chex.assert_trees_all_equal(found, _scene().train.cameras)

  def test_are_those_that_rays_are_cast_from(self):
    config = configs.changed(refine_cameras=True, pixel_center=True)
    scene = _scene()
    params = jax.tree.map(
      lambda x: x + np.random.default_rng(0).normal(size=x.shape, scale=0.1),
      refinement.init_params(config, scene),
    )
    camera, pixel = np.array([0, 1, 2]), np.array([[0, 0], [3, 4], [7, 2]])
    rays = refinement.make_cast_fn(config, scene)(params, camera, pixel)
    found = refinement.refined_cameras(config, scene, params)
    points = rays.origins + 3.0 * rays.directions
    shown, depth = cameras.project(found, camera, points)
    np.testing.assert_allclose(shown, pixel + 0.5, atol=1e-4)
    np.testing.assert_allclose(depth, 3.0, rtol=1e-5)


class OptimizerTest(chex.TestCase):
  def test_the_size_of_gradients_does_not_count(self):
    """Each camera has few of a batch's rays."""
    config = configs.changed(refinement__warmup_steps=0)
    optimizer = refinement.make_optimizer(config, optax.constant_schedule(1e-3))
    state = optimizer.init(jnp.zeros(2))
    grads = jnp.array([1e-9, 1.0])
    _, state = optimizer.update(grads, state)
    updates, _ = optimizer.update(grads, state)
    np.testing.assert_allclose(updates, [-1e-3, -1e-3], rtol=1e-4)

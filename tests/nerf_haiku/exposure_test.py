import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from nerf_haiku import (
  backgrounds,
  camera_paths,
  cameras,
  devices,
  exposure,
  scenes,
  training,
)
from nerf_haiku.renderers import hierarchical

_RAYS = 16


def _random_params(num_images):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: x + rng.normal(size=x.shape, scale=0.3), exposure.init(num_images)
  )


def _random_colors(count):
  return np.random.default_rng(1).uniform(size=(count, 3))


def _gray_fog():
  """A field of one density and one gray, which is learned."""

  def fog(points, viewdirs):
    del viewdirs
    gray = jax.nn.sigmoid(hk.get_parameter('gray', (), init=jnp.zeros))
    return jnp.ones(points.shape[:-1]), jnp.full(points.shape, gray)

  return hk.without_apply_rng(hk.transform(fog))


def _train(optimizer, num_devices, steps=1, **options):
  """Trains on two gray photographs, the second one twice as bright."""
  renderer = hierarchical.make_hierarchical(
    _gray_fog(), None, num_samples=4, num_importance=0, infinite_end=True
  )
  views = cameras.pinhole(camera_paths.circle(2), [[8, 8]] * 2, [8.0] * 2)

  def cast(camera, pixel):
    return cameras.cast(
      views, camera, pixel, near=2.0, far=6.0, box=None, pixel_center=True
    )

  state = training.init_state(
    renderer, optimizer, jax.random.key(0), {exposure.NAME: exposure.init(2)}
  )
  update = training.make_update(renderer, optimizer, cast, **options)
  state = devices.replicate(state, num_devices)
  camera = np.arange(_RAYS, dtype=np.int32) % 2
  batch = scenes.Batch(
    camera=camera,
    pixel=np.zeros((_RAYS, 2), np.int32),
    rgb=np.where(camera == 0, 0.2, 0.4)[:, None].repeat(3, 1),
    alpha=np.ones(_RAYS, np.float32),
  )
  batch = devices.shard(jax.tree.map(_as_32_bits, batch), num_devices)
  for _ in range(steps):
    state, scalars = update(state, batch, jax.random.key(3))
  return devices.unreplicate(state), scalars


def _as_32_bits(x):
  return x.astype(np.float32) if x.dtype == np.float64 else x


class ColorMapsTest(chex.TestCase):
  def test_the_mean_is_the_identity(self):
    maps = exposure.color_maps(_random_params(5))
    np.testing.assert_allclose(maps.matrix.mean(0), np.eye(3), atol=1e-6)
    np.testing.assert_allclose(maps.offset.mean(0), np.zeros(3), atol=1e-6)
    self.assertGreater(float(jnp.std(maps.matrix[:, 0, 1])), 0.1)

  def test_the_first_ones_change_nothing(self):
    rgb = np.float32(_random_colors(4))
    mapped = exposure.apply(
      exposure.color_maps(exposure.init(3)),
      jnp.array([2, 0, 1, 1]),
      rgb,
      jnp.array([0.0, 0.3, 1.0, 1.0]),
      background=backgrounds.WHITE,
    )
    np.testing.assert_allclose(mapped, rgb, atol=1e-6)

  def test_the_background_is_not_mapped(self):
    """Each ray by hand: what is in front is mapped, then put before it."""
    maps = exposure.color_maps(_random_params(3))
    image, opacity = np.array([1, 0, 2]), np.array([0.25, 1.0, 0.0])
    front, behind = _random_colors(3), np.array([0.3, 0.4, 0.5])
    expected = [
      a * (maps.matrix[i] @ color + maps.offset[i]) + (1 - a) * behind
      for i, a, color in zip(image, opacity, front, strict=True)
    ]
    rgb = opacity[:, None] * front + (1 - opacity[:, None]) * behind
    mapped = exposure.apply(
      maps,
      jnp.asarray(image),
      jnp.asarray(rgb, jnp.float32),
      jnp.asarray(opacity, jnp.float32),
      background=tuple(behind),
    )
    np.testing.assert_allclose(mapped, np.array(expected), atol=1e-6)


class FitTest(chex.TestCase):
  def test_finds_a_map(self):
    rng = np.random.default_rng(2)
    matrix, offset = rng.normal(size=(3, 3)), rng.normal(size=3)
    rgb = _random_colors(20)
    found = exposure.fit(rgb, rgb @ matrix.T + offset)
    np.testing.assert_allclose(found.matrix[0], matrix, atol=1e-9)
    np.testing.assert_allclose(found.offset[0], offset, atol=1e-9)

  def test_one_color_is_mapped_to_the_mean_of_the_others(self):
    truth = _random_colors(5)
    found = exposure.fit(np.full((5, 3), 0.5), truth)
    mapped = found.matrix[0] @ np.full(3, 0.5) + found.offset[0]
    np.testing.assert_allclose(mapped, truth.mean(0), atol=1e-9)


class TrainingTest(chex.TestCase):
  def test_the_field_has_the_average_of_two_exposures(self):
    """Grays 0.2 and 0.4 of one thing: it is 0.3 where maps have mean 1."""
    state, scalars = _train(optax.adam(1e-2), 1, steps=300)
    self.assertLess(float(scalars['mse']), 1e-6)
    gray = jax.nn.sigmoid(state.params['coarse']['~']['gray'])
    np.testing.assert_allclose(gray, 0.3, atol=1e-3)
    maps = exposure.color_maps(state.params[exposure.NAME])
    shown = maps.matrix @ np.full(3, gray) + maps.offset
    np.testing.assert_allclose(shown[:, 0], [0.2, 0.4], atol=1e-3)

  def test_two_devices_are_as_one(self):
    one, two = (_train(optax.sgd(1.0), count)[0] for count in (1, 2))
    chex.assert_trees_all_close(one.params, two.params, atol=1e-6)
    offset = one.params[exposure.NAME]['affine']['offset']
    self.assertGreater(float(np.abs(offset).min()), 1e-3)

  def test_gradients_are_finite_on_random_backgrounds(self):
    _, scalars = _train(optax.sgd(1.0), 1, steps=2, random_background=True)
    self.assertEqual(int(scalars['nonfinite']), 0)

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized
from scipy.spatial import transform

from nerf_haiku import (
  camera_paths,
  camera_refinement,
  cameras,
  devices,
  scenes,
  similarity,
  training,
)
from nerf_haiku.renderers import hierarchical

_NAME = camera_refinement.NAME


def _views(count=3):
  return cameras.pinhole(
    camera_paths.circle(count), [[20, 30]] * count, [25.0] * count
  )


def _identities(count, size=6):
  return np.tile(np.eye(size, dtype=np.float32), (count, 1, 1))


def _params(numbers):
  params = camera_refinement.init(len(numbers), focal=np.shape(numbers)[1] > 6)
  return jax.tree.map(lambda _: jnp.asarray(numbers, jnp.float32), params)


def _random(count, size=6, scale=0.02):
  return np.random.default_rng(3).normal(size=(count, size), scale=scale)


def _correct(views, numbers):
  """Corrections by the numbers themselves."""
  factors = _identities(*np.shape(numbers))
  return camera_refinement.correct(views, factors, _params(numbers))


class RotationsTest(chex.TestCase):
  @parameterized.parameters(0.0, 1e-6, 1e-4, 1e-3, 0.1, 1.0, 3.0)
  def test_matches_scipy(self, angle):
    vectors = np.random.default_rng(0).normal(size=(20, 3))
    vectors *= angle / np.linalg.norm(vectors, axis=-1, keepdims=True)
    expected = transform.Rotation.from_rotvec(vectors).as_matrix()
    found = camera_refinement.rotations(jnp.asarray(vectors, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=5e-7)

  def test_derivatives_at_zero_are_the_cross_products(self):
    jacobian = jax.jacfwd(lambda x: camera_refinement.rotations(x[None])[0])
    point = np.array([1.0, 2.0, 3.0])
    expected = np.cross(np.eye(3), point).T
    found = jnp.einsum('ijk,j->ik', jacobian(jnp.zeros(3)), point)
    np.testing.assert_allclose(found, expected, atol=1e-6)


class CorrectTest(chex.TestCase):
  @parameterized.parameters(6, 7)
  def test_zeros_leave_each_number_as_it_is(self, size):
    views = _views()
    found = _correct(views, np.zeros((3, size)))
    chex.assert_trees_all_equal(
      found.camera_to_world, jnp.asarray(views.camera_to_world)
    )
    chex.assert_trees_all_equal(found.intrinsics, jnp.asarray(views.intrinsics))

  def test_turns_moves_and_scales_about_the_cameras_own_axes(self):
    views, numbers = _views(), _random(3, 7)
    found = _correct(views, numbers)
    for i, (turn, move, (focal,)) in enumerate(
      np.split(row, (3, 6)) for row in numbers
    ):
      pose = views.camera_to_world[i]
      rotation = transform.Rotation.from_rotvec(turn).as_matrix()
      np.testing.assert_allclose(
        found.camera_to_world[i, :, :3], pose[:, :3] @ rotation, atol=1e-6
      )
      np.testing.assert_allclose(
        found.camera_to_world[i, :, 3],
        pose[:, 3] + pose[:, :3] @ move,
        atol=1e-6,
      )
      factor = np.exp([focal, focal, 0, 0])
      np.testing.assert_allclose(
        found.intrinsics[i], views.intrinsics[i] * factor, rtol=1e-6
      )

  def test_moved_cameras_have_the_same_corrections(self):
    """A similarity of the scene is applied before or after."""
    views, numbers = _views(), _random(3)
    rotation = transform.Rotation.from_rotvec([0.3, 0.2, 0.1]).as_matrix()
    moved = similarity.Similarity(0.25, rotation, np.array([1.0, 2.0, 3.0]))
    before = _correct(similarity.move_cameras(moved, views), numbers)
    after = jax.tree.map(np.asarray, _correct(views, numbers))
    after = similarity.move_cameras(moved, after)
    np.testing.assert_allclose(
      before.camera_to_world, after.camera_to_world, atol=1e-6
    )


class PreconditionersTest(chex.TestCase):
  @parameterized.parameters(False, True)
  def test_a_unit_moves_what_is_seen_by_a_radian(self, focal):
    """But for the damping, which is a tenth of each number's own part."""
    views, depths = _views(), np.array([3.0, 4.0, 5.0])
    jacobian = self._jacobian(views, depths, 7 if focal else 6)
    found = camera_refinement.make_preconditioners(views, depths, focal=focal)
    for factors, derivatives in zip(found, jacobian, strict=True):
      products = derivatives.T @ derivatives / (len(derivatives) / 2)
      damped = products + 0.1 * np.diag(np.diag(products))
      np.testing.assert_allclose(
        factors @ factors.T, np.linalg.inv(damped), rtol=0.02, atol=0.02
      )

  def _jacobian(self, views, depths, size):
    """By differentiating the projections of points, in focal lengths."""
    place = (np.arange(4) + 0.5) / 4
    rows, columns = np.meshgrid(place * 20, place * 30, indexing='ij')
    positions = np.stack([rows.ravel(), columns.ravel()], -1)
    result = []
    for i, depth in enumerate(depths):
      one = cameras.take(views, slice(i, i + 1))
      camera = np.zeros(16, int)
      local = cameras.image_plane(one, camera, positions)
      points = np.concatenate([local * depth * x for x in (0.5, 1, 2)])
      pose = one.camera_to_world[0]
      points = np.float32(points @ pose[:, :3].T + pose[:, 3])

      def project(numbers, one=one, points=points):
        corrected = _correct(one, numbers[None])
        shown, _ = cameras.project(
          corrected, jnp.zeros(len(points), int), points
        )
        return shown.reshape(-1) / 25.0

      result.append(jax.jit(jax.jacfwd(project))(jnp.zeros(size)))
    return np.float64(result)

  def test_other_units_of_the_scene_change_moves_alone(self):
    views = _views()
    large = views._replace(camera_to_world=views.camera_to_world * [1, 1, 1, 9])
    usual, other = (
      camera_refinement.make_preconditioners(x, y * np.ones(3), focal=True)
      for x, y in ((views, 4.0), (large, 36.0))
    )
    units = np.array([1, 1, 1, 9, 9, 9, 1])[:, None]
    np.testing.assert_allclose(other, usual * units, rtol=1e-5, atol=1e-6)


class GaugeTest(chex.TestCase):
  def _make(self, size=6):
    views = _views(5)
    factors = camera_refinement.make_preconditioners(
      views, np.linspace(3.0, 5.0, 5), focal=size == 7
    )
    return views, factors, camera_refinement.make_gauge(views, factors)

  @parameterized.parameters(6, 7)
  def test_what_turns_moves_and_scales_the_scene_is_taken_away(self, size):
    """A small similarity of all cameras, by its own formula."""
    views, factors, gauge = self._make(size)
    rotation = transform.Rotation.from_rotvec([1e-3, -2e-3, 1e-3]).as_matrix()
    scale, move = 1.002, np.array([2e-3, 1e-3, -3e-3])
    pose = np.float64(views.camera_to_world)
    axes, centers = pose[..., :3], pose[..., 3]
    moves = scale * centers @ rotation.T + move - centers
    numbers = np.zeros((5, size))
    numbers[:, :3] = transform.Rotation.from_matrix(
      axes.mT @ rotation @ axes
    ).as_rotvec()
    numbers[:, 3:6] = np.einsum('nji,nj->ni', axes, moves)
    scaled = np.linalg.solve(np.float64(factors), numbers[..., None])[..., 0]
    (fixed,) = jax.tree.leaves(
      camera_refinement.fix_gauge(_params(scaled), gauge)
    )
    np.testing.assert_allclose(fixed, np.zeros((5, size)), atol=2e-5)
    self.assertGreater(np.abs(scaled).max(), 1e-3)

  def test_all_else_stays(self):
    _, _, gauge = self._make()
    chex.assert_shape(gauge, (30, 7))
    np.testing.assert_allclose(gauge.T @ gauge, np.eye(7), atol=1e-6)
    rest = _random(1, 30)[0]
    rest -= gauge @ (gauge.T @ rest)
    params = _params(rest.reshape(5, 6))
    chex.assert_trees_all_close(
      camera_refinement.fix_gauge(params, gauge), params, atol=1e-7
    )

  def test_of_one_camera_nothing_is_left(self):
    views = _views(1)
    gauge = camera_refinement.make_gauge(views, _identities(1))
    fixed = camera_refinement.fix_gauge(_params(_random(1)), gauge)
    np.testing.assert_allclose(
      jax.tree.leaves(fixed)[0], np.zeros((1, 6)), atol=1e-7
    )


class TypicalDepthsTest(chex.TestCase):
  def test_of_cameras_around_a_point(self):
    views = _views(5)
    depths = camera_refinement.typical_depths(views, 0.1, 100.0)
    distances = np.linalg.norm(views.camera_to_world[..., 3], axis=-1)
    np.testing.assert_allclose(depths, distances, rtol=1e-5)
    depths = camera_refinement.typical_depths(views, 0.1, 2.0)
    np.testing.assert_allclose(depths, 2.0)

  def test_of_cameras_that_face_one_way(self):
    pose = np.tile(np.eye(4)[None, :3], (3, 1, 1))
    views = cameras.pinhole(pose, [[20, 30]] * 3, [25.0] * 3)
    depths = camera_refinement.typical_depths(views, 1.0, 16.0)
    np.testing.assert_allclose(depths, 4.0)


def _waves():
  """A field of one density whose colors are waves; nothing is learned."""

  def apply(params, points, viewdirs):
    del params, viewdirs
    return jnp.full(points.shape[:-1], 0.5), 0.5 + 0.5 * jnp.sin(2.0 * points)

  return hk.Transformed(lambda *_: {}, apply)


def _renderer():
  return hierarchical.make_hierarchical(
    _waves(), None, num_samples=16, num_importance=0, perturb=False
  )


def _cast(views, camera, pixel):
  box = np.array([[-1.5] * 3, [1.5] * 3])
  return cameras.cast(
    views, camera, pixel, near=2.0, far=6.0, box=box, pixel_center=True
  )


class TrainingTest(chex.TestCase):
  def _train(self, optimizer, num_devices, steps=1):
    """Returns the true and the found poses, and the state at the end.

    The true cameras are those of corrections whose mean is 0; photographs are
    what the field shows from them.
    """
    views = _views(4)
    factors = camera_refinement.make_preconditioners(
      views, np.full(4, 4.0), focal=False
    )

    gauge = camera_refinement.make_gauge(views, factors)

    def correct(params):
      params = camera_refinement.fix_gauge(params, gauge)
      return camera_refinement.correct(views, factors, params)

    true = correct(_params(_random(4, scale=0.015)))
    rng = np.random.default_rng(0)
    camera = np.arange(64, dtype=np.int32) % 4
    pixel = rng.integers(0, (20, 30), (64, 2)).astype(np.int32)
    renderer = _renderer()
    rays = _cast(true, camera, pixel)
    variables = renderer.init(jax.random.key(0))
    rgb = renderer.render_eval(variables, rays)[-1].outputs.rgb
    batch = scenes.Batch(camera, pixel, np.asarray(rgb))
    state = training.init_state(
      renderer,
      optimizer,
      jax.random.key(0),
      {_NAME: camera_refinement.init(4, focal=False)},
    )
    update = training.make_update(
      renderer,
      optimizer,
      lambda *_: self.fail('These rays are not refined.'),
      refined_cast_fn=lambda params, *args: _cast(correct(params), *args),
    )
    state = devices.replicate(state, num_devices)
    batch = devices.shard(batch, num_devices)
    for _ in range(steps):
      state, scalars = update(state, batch, jax.random.key(3))
    self.assertEqual(int(scalars['nonfinite']), 0)
    state = devices.unreplicate(state)
    found = correct(state.params[_NAME])
    return true, found, state

  def test_recovers_disturbed_cameras(self):
    rate = optax.cosine_decay_schedule(3e-3, 300, 0.01)
    true, found, _ = self._train(optax.adam(rate, eps=1e-15), 1, steps=300)
    start = np.abs(true.camera_to_world - _views(4).camera_to_world).max()
    self.assertGreater(start, 0.03)
    np.testing.assert_allclose(
      found.camera_to_world, true.camera_to_world, atol=0.02 * start
    )

  def test_two_devices_are_as_one(self):
    one, two = (self._train(optax.sgd(1e-2), count)[2] for count in (1, 2))
    chex.assert_trees_all_close(one.params, two.params, atol=1e-6)
    (numbers,) = jax.tree.leaves(one.params[_NAME])
    self.assertGreater(float(np.abs(numbers).min(axis=-1).max()), 1e-6)

  def test_gradients_do_not_depend_on_where_rays_enter_the_box(self):
    """A ray along a face of the box has no finite derivative there."""
    pose = np.eye(4)[None, :3].copy()
    pose[0, :, 3] = [1.5, 0.0, 4.0]
    views = cameras.pinhole(pose, [[2, 2]], [8.0])
    views = views._replace(intrinsics=np.float32([[8, 8, 0.5, 0.5]]))

    def mean_near(numbers):
      rays = _cast(
        _correct(views, numbers), jnp.zeros(4, int), cameras.pixels(2, 2)
      )
      return jnp.sum(rays.near) + jnp.sum(rays.far)

    gradient = jax.grad(mean_near)(jnp.zeros((1, 6)))
    np.testing.assert_array_equal(gradient, np.zeros((1, 6)))

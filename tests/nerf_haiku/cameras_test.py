import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import camera_paths, cameras
from tests.support import references


def _cast(views, camera, pixel, **settings):
  settings = {
    'near': 2.0,
    'far': 6.0,
    'box': None,
    'pixel_center': True,
  } | settings
  return cameras.cast(
    views, np.asarray(camera, np.int32), np.asarray(pixel, np.int32), **settings
  )


def _uneven_camera():
  """fx != fy, and an axis that misses the middle of a 640 x 800 image."""
  pose = camera_paths.sphere_pose(30.0, -20.0, 4.0)
  return cameras.Cameras(
    pose[None],
    np.array([[900.0, 1100.0, 390.0, 333.0]], np.float32),
    np.array([[640, 800]], np.int32),
  )


class CastTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_matches_reference(self):
    reference = references.load('rays')
    height, width = int(reference['height']), int(reference['width'])
    view = cameras.pinhole(
      reference['c2w'][None], [[height, width]], [reference['focal']]
    )
    pixel = cameras.pixels(height, width)
    cast = functools.partial(
      cameras.cast, near=2.0, far=6.0, box=None, pixel_center=False
    )
    rays = self.variant(cast)(view, np.zeros(len(pixel), np.int32), pixel)
    for name in ('origins', 'directions'):
      np.testing.assert_allclose(
        getattr(rays, name).reshape(height, width, 3),
        reference[name],
        atol=1e-5,
      )

  def test_a_projected_point_meets_the_ray_of_its_pixel(self):
    view = _uneven_camera()
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.8, 0.8, size=(200, 3))
    rotation, center = (
      view.camera_to_world[0, :, :3],
      view.camera_to_world[0, :, 3],
    )
    x, y, z = ((points - center) @ rotation).T  # World to camera: R^T.
    fx, fy, cx, cy = view.intrinsics[0]
    column, row = cx + fx * x / -z, cy - fy * y / -z
    pixel = np.floor(np.stack([row, column], -1))
    rays = _cast(view, np.zeros(200), pixel)
    # Where the ray of the pixel's center is, at the depth of the point.
    seen = rays.origins + rays.directions * (-z[:, None]).astype(np.float32)
    to_center = (pixel + 0.5) - np.stack([row, column], -1)
    expected = (
      points
      + (
        to_center[:, 1:] / fx * rotation[:, 0]
        - to_center[:, :1] / fy * rotation[:, 1]
      )
      * -z[:, None]
    )
    # 1e-3 pixels at a focal length of 900 and a depth of 4.
    np.testing.assert_allclose(seen, expected, atol=1e-3 * 3.0 / 1100)

  def test_directions_are_depth_and_viewdirs_length_one(self):
    view = _uneven_camera()
    rays = _cast(view, np.zeros(3), [[0, 0], [320, 400], [639, 799]])
    axis = -view.camera_to_world[0, :, 2]
    np.testing.assert_allclose(rays.directions @ axis, np.ones(3), rtol=1e-5)
    norm = np.linalg.norm(rays.directions, axis=-1, keepdims=True)
    np.testing.assert_allclose(rays.viewdirs, rays.directions / norm, rtol=1e-5)
    np.testing.assert_array_equal(rays.near, np.full((3, 1), 2.0))
    np.testing.assert_array_equal(rays.far, np.full((3, 1), 6.0))

  def test_pixel_conventions_differ_by_half_a_pixel(self):
    view = _uneven_camera()
    center = _cast(view, np.zeros(1), [[10, 20]], pixel_center=True)
    corners = _cast(view, np.zeros(2), [[10, 20], [11, 21]], pixel_center=False)
    np.testing.assert_allclose(
      center.directions[0], corners.directions.mean(0), atol=1e-6
    )

  def test_each_ray_uses_its_own_camera(self):
    poses = camera_paths.circle(5)
    sizes = [[4, 6], [6, 4], [8, 8], [3, 5], [9, 2]]
    views = cameras.pinhole(poses, sizes, np.arange(5.0, 10.0))
    camera = np.array([3, 0, 4, 4], np.int32)
    pixel = np.array([[2, 1], [1, 1], [0, 0], [8, 1]], np.int32)
    together = _cast(views, camera, pixel)
    for i in range(4):
      one = cameras.take(views, [camera[i]])
      alone = _cast(one, np.zeros(1), pixel[i : i + 1])
      chex.assert_trees_all_close(
        cameras.Rays(*(x[i : i + 1] for x in together)), alone, rtol=1e-6
      )


class ClipTest(chex.TestCase):
  def _clip(self, origin, direction, box=((-1, -1, -1), (1, 1, 1))):
    origin, direction = (
      jnp.array([x], jnp.float32) for x in (origin, direction)
    )
    ends = jnp.array([[1.0]]), jnp.array([[6.0]])
    rays = cameras.Rays(origin, direction, direction, *ends)
    clipped = cameras.clip(rays, jnp.array(box, jnp.float32))
    return float(clipped.near[0, 0]), float(clipped.far[0, 0])

  @parameterized.named_parameters(
    ('through', (4, 0, 0), (-1, 0, 0), (3, 5)),
    ('longer_direction', (4, 0.5, 0), (-2, 0, 0), (1.5, 2.5)),
    ('negative_zeros', (4, 0, 0), (-1, -0.0, -0.0), (3, 5)),
    ('from_inside', (0, 0, 0), (0, 0, -0.5), (1, 2)),
    ('past_far', (9, 0, 0), (-1, 0, 0), (6, 6)),
    ('cut_by_far', (6.5, 0, 0), (-1, 0, 0), (5.5, 6)),
    ('diagonal', (2, 2, 0), (-1, -1, 0), (1, 3)),
  )
  def test_clips_near_and_far_to_the_box(self, origin, direction, expected):
    np.testing.assert_allclose(
      self._clip(origin, direction), expected, rtol=1e-6
    )

  @parameterized.named_parameters(
    ('beside', (4, 2, 0), (-1, 0, 0)),
    ('behind', (4, 0, 0), (1, 0, 0)),
    ('corner', (4, 0, 0), (-1, 0.9, 0)),
  )
  def test_a_ray_that_misses_is_empty(self, origin, direction):
    near, far = self._clip(origin, direction)
    self.assertEqual(near, far)
    self.assertBetween(near, 1.0, 6.0)

  def test_a_ray_along_a_face_is_finite(self):
    near, far = self._clip((4, 1, 0), (-1, 0, 0))  # 0 / 0 without care.
    self.assertBetween(near, 1.0, far)
    self.assertBetween(far, near, 6.0)

  def test_cast_clips(self):
    view = cameras.pinhole(camera_paths.circle(1), [[8, 8]], [8.0])
    box = np.array([[-0.5] * 3, [0.5] * 3], np.float32)
    rays = _cast(view, [0, 0], [[4, 4], [0, 0]], box=box, pixel_center=False)
    self.assertBetween(float(rays.near[0, 0]), 3.0, 3.6)
    self.assertBetween(float(rays.far[0, 0]), 4.4, 5.0)
    self.assertEqual(float(rays.near[1, 0]), float(rays.far[1, 0]))


class PinholeTest(chex.TestCase):
  def test_scale_keeps_the_directions_of_the_corners(self):
    view = _uneven_camera()
    half = cameras.scale(view, [[213, 400]])
    corner = _cast(view, [0], [[640, 800]], pixel_center=False)
    same = _cast(half, [0], [[213, 400]], pixel_center=False)
    np.testing.assert_allclose(same.directions, corner.directions, rtol=1e-5)

  def test_pixels_go_row_by_row(self):
    expected = [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    np.testing.assert_array_equal(cameras.pixels(2, 3), expected)

  def test_with_poses_uses_the_first_intrinsics(self):
    views = cameras.pinhole(
      camera_paths.circle(2), [[4, 6], [8, 9]], [5.0, 7.0]
    )
    moved = cameras.with_poses(np.ones((3, 3, 4)), views)
    expected = cameras.Cameras(
      np.ones((3, 3, 4), np.float32),
      np.array([[5, 5, 3, 2]] * 3, np.float32),
      np.array([[4, 6]] * 3, np.int32),
    )
    chex.assert_trees_all_equal(moved, expected)
    chex.assert_trees_all_equal_dtypes(moved, expected)


_NDC = cameras.Ndc((2.5, 3.25), 1.5)


def _forward_rays(num=200, far=1e3):
  """Rays of a world whose near plane is at 1.5, from before and behind it."""
  rng = np.random.default_rng(0)
  shape = (num, 3)
  origins = rng.uniform([-1, -1, -2.0], [1, 1, 1], shape)
  directions = rng.uniform([-0.5, -0.5, -1.2], [0.5, 0.5, -0.8], shape)
  viewdirs = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
  ends = np.full((num, 1), 0.0), np.full((num, 1), far)
  return cameras.Rays(
    *(x.astype(np.float32) for x in (origins, directions, viewdirs, *ends))
  )


def _project(points, ndc):
  """By the matrix of a perspective projection whose far plane is infinite."""
  matrix = np.diag([*ndc.focal, -1.0, 0.0])
  matrix[2, 3], matrix[3, 2] = -2 * ndc.near, -1.0
  x, y, z, w = matrix @ [*np.moveaxis(points, -1, 0), np.ones(len(points))]
  return np.stack([x, y, z], axis=-1) / w[:, None]


class NdcTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_matches_reference(self):
    reference = references.load('rays')
    height, width = int(reference['height']), int(reference['width'])
    focal, near = float(reference['focal']), float(reference['ndc_near'])
    view = cameras.pinhole(
      reference['ndc_c2w'][None], [[height, width]], [focal]
    )
    rays = _cast(
      view,
      np.zeros(height * width),
      cameras.pixels(height, width),
      pixel_center=False,
    )
    ndc = cameras.Ndc((2 * focal / width, 2 * focal / height), near)
    moved = self.variant(functools.partial(cameras.to_ndc, ndc=ndc))(rays)
    for name in ('origins', 'directions'):
      np.testing.assert_allclose(
        getattr(moved, name).reshape(height, width, 3),
        reference[f'ndc_{name}'],
        atol=1e-5,
      )
    np.testing.assert_array_equal(moved.viewdirs, rays.viewdirs)
    np.testing.assert_array_equal(moved.near, np.zeros((77, 1)))
    np.testing.assert_array_equal(moved.far, np.ones((77, 1)))

  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(1.0, 1.5, 40.0)
  def test_points_are_converted_back(self, near):
    ndc = _NDC._replace(near=near)
    unit = _forward_rays()  # Its near plane is at 1.5.
    rays = unit._replace(
      origins=unit.origins * near / 1.5, far=np.full((200, 1), 1e4, np.float32)
    )
    origins, directions = (np.asarray(x, np.float64) for x in rays[:2])
    # From the near plane to a hundred times as far.
    depth = near * np.geomspace(1.0, 100.0, 200)
    t = (-depth - origins[:, 2]) / directions[:, 2]
    projected = _project(origins + t[:, None] * directions, ndc)
    np.testing.assert_allclose(projected[[0, -1], 2], [-1, 0.98], atol=1e-9)
    position = (projected[:, 2] + 1) / 2  # z' goes from -1 to 1, t' from 0.
    moved = self.variant(functools.partial(cameras.to_ndc, ndc=ndc))(rays)
    on_ray = moved.origins + moved.directions * position[:, None]
    np.testing.assert_allclose(on_ray, projected, atol=1e-5)
    back = self.variant(functools.partial(cameras.from_ndc, ndc=ndc))(
      position.astype(np.float32), rays
    )
    np.testing.assert_allclose(back, t, rtol=1e-5, atol=1e-6 * near)

  def test_image_corners_are_at_one(self):
    # The corner of an image is at -1, 1 for a camera at the origin.
    view = cameras.pinhole(np.eye(3, 4)[None], [[4, 8]], [10.0])
    rays = _cast(view, [0, 0], [[0, 0], [4, 8]], pixel_center=False)
    moved = cameras.to_ndc(rays, cameras.Ndc((2.5, 5.0)))
    np.testing.assert_allclose(
      moved.origins, [[-1, 1, -1], [1, -1, -1]], atol=1e-6
    )
    # Such rays are parallel there.
    np.testing.assert_allclose(moved.directions, [[0, 0, 2]] * 2, atol=1e-6)

  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(30.0, 1e6)
  def test_infinity_is_capped_at_far(self, far):
    rays = _forward_rays(5, far)
    from_ndc = self.variant(functools.partial(cameras.from_ndc, ndc=_NDC))
    np.testing.assert_array_equal(from_ndc(jnp.ones(5), rays), np.full(5, far))
    almost = 1 - jnp.geomspace(1e-7, 1e-3, 5)
    for t in (jnp.ones(5), almost, jnp.zeros(5), 1.0 + almost):
      np.testing.assert_array_less(from_ndc(t, rays), 1.001 * far)
      chex.assert_tree_all_finite(
        jax.grad(lambda t: jnp.sum(from_ndc(t, rays)))(t)
      )

  @chex.variants(with_jit=True, without_jit=True)
  def test_accepts_samples_and_rays(self):
    rays = _forward_rays(4)
    from_ndc = self.variant(functools.partial(cameras.from_ndc, ndc=_NDC))
    t = np.linspace(0.0, 1.0, 12, dtype=np.float32).reshape(4, 3)
    together = from_ndc(t, rays)
    chex.assert_shape(together, (4, 3))
    for i in range(3):
      np.testing.assert_allclose(together[:, i], from_ndc(t[:, i], rays))
    with self.assertRaises(AssertionError):
      from_ndc(t[..., None], rays)

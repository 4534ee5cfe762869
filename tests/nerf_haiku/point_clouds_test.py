"""Points of views of a plane, and how they are thinned."""

import chex
import numpy as np

from nerf_haiku import camera_paths, cameras, image_rendering, point_clouds


def _image(depth, opacity, rgb):
  disparity = np.zeros_like(depth)
  return image_rendering.RenderedImage(
    rgb, depth, disparity, opacity, np.zeros((*depth.shape, 2))
  )


def _plane(camera, normal, offset):
  """Returns the depth `[H, W]` of the plane `normal @ x = offset`."""
  height, width = map(int, camera.sizes[0])
  pose = np.asarray(camera.camera_to_world[0], float)
  fx, fy, cx, cy = np.asarray(camera.intrinsics[0], float)
  depth = np.zeros((height, width))
  for i in range(height):
    for j in range(width):
      local = [(j + 0.5 - cx) / fx, -(i + 0.5 - cy) / fy, -1]
      direction = pose[:, :3] @ local
      depth[i, j] = (offset - normal @ pose[:, 3]) / (normal @ direction)
  return depth


class FromViewsTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    views = cameras.pinhole(camera_paths.circle(5), [[6, 8]] * 5, [90.0] * 5)
    self.camera = cameras.take(views, [1])
    towards = np.asarray(self.camera.camera_to_world[0, :, 3], float)
    self.normal = towards / np.linalg.norm(towards) + np.array([0.2, -0.1, 0.3])
    self.normal /= np.linalg.norm(self.normal)
    self.depth = _plane(self.camera, self.normal, 0.3)
    rng = np.random.default_rng(0)
    self.opacity = rng.uniform(0.8, 1, (6, 8)).astype(np.float32)
    self.rgb = rng.uniform(size=(6, 8, 3)).astype(np.float32)

  def _cloud(self, depth, opacity, **settings):
    image = _image(depth * opacity, opacity, self.rgb)
    return point_clouds.from_views([(self.camera, image)], **settings)

  def test_points_of_a_plane(self):
    cloud = self._cloud(self.depth, self.opacity, min_opacity=0.7)
    self.assertEqual(len(cloud.points), 4 * 6)  # All but the border.
    np.testing.assert_allclose(cloud.points @ self.normal, 0.3, atol=1e-6)
    position, _ = cameras.project(
      self.camera, np.zeros(24, np.int32), cloud.points.astype(np.float32)
    )
    pixels = cameras.pixels(6, 8).reshape(6, 8, 2)[1:-1, 1:-1].reshape(-1, 2)
    np.testing.assert_allclose(position, pixels + 0.5, atol=1e-3)
    # Towards the camera, whatever the pixel.
    np.testing.assert_allclose(
      cloud.normals, np.tile(self.normal, (24, 1)), atol=1e-5
    )
    np.testing.assert_allclose(
      cloud.colors / 255, self.rgb[1:-1, 1:-1].reshape(-1, 3), atol=2e-3
    )

  def test_the_upper_left_corner_of_pixels(self):
    cloud = self._cloud(
      self.depth, self.opacity, min_opacity=0.7, pixel_center=False
    )
    position, _ = cameras.project(
      self.camera, np.zeros(24, np.int32), cloud.points.astype(np.float32)
    )
    np.testing.assert_allclose(position[0], [1, 1], atol=1e-3)

  def test_pixels_beside_empty_ones_have_no_point(self):
    self.opacity[2, 3] = 0.1
    cloud = self._cloud(self.depth, self.opacity, min_opacity=0.7)
    self.assertEqual(len(cloud.points), 24 - 5)
    position, _ = cameras.project(
      self.camera, np.zeros(19, np.int32), cloud.points.astype(np.float32)
    )
    self.assertGreater(
      np.min(np.abs(np.asarray(position) - [2.5, 3.5]).sum(-1)), 1.5
    )

  def test_edges_have_no_point(self):
    self.depth[:, 4:] *= 20
    cloud = self._cloud(self.depth, self.opacity, min_opacity=0.7)
    position, _ = cameras.project(
      self.camera,
      np.zeros(len(cloud.points), np.int32),
      cloud.points.astype(np.float32),
    )
    columns = np.unique(np.floor(np.asarray(position[:, 1])))
    np.testing.assert_array_equal(columns, [1, 2, 5, 6])

  def test_no_views(self):
    for part in point_clouds.from_views([]):
      self.assertEqual(part.shape, (0, 3))


class ThinTest(chex.TestCase):
  def test_one_point_in_each_cube(self):
    points = np.array([[0, 0, 0], [0.4, 0, 0], [0.9, 0, 0], [1.5, 0, 0]])
    normals = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    colors = np.array([[0, 0, 0], [3, 6, 9], [6, 3, 9], [8, 8, 8]], np.uint8)
    thinned = point_clouds.thin(
      point_clouds.PointCloud(points, normals, colors), 1.0
    )
    np.testing.assert_array_equal(thinned.points, points[[1, 3]])
    np.testing.assert_array_equal(thinned.colors, [[3, 3, 6], [8, 8, 8]])
    mean = np.array([1, 2, 0]) / 5**0.5
    np.testing.assert_allclose(thinned.normals, [mean, [0, 0, 1]], atol=1e-6)

  def test_density_is_even(self):
    rng = np.random.default_rng(0)
    points = np.concatenate(
      [rng.uniform(0, 1, (20000, 3)), rng.uniform(1, 2, (500, 3))]
    )
    cloud = point_clouds.PointCloud(
      points, np.zeros((20500, 3), np.float32), np.zeros((20500, 3), np.uint8)
    )
    thinned = point_clouds.thin(cloud, 0.25)
    self.assertLessEqual(len(thinned.points), 2 * 5**3)
    cells = np.unique(np.floor((points - points.min(0)) / 0.25), axis=0)
    self.assertEqual(len(thinned.points), len(cells))

  def test_no_points(self):
    cloud = point_clouds.from_views([])
    self.assertIs(point_clouds.thin(cloud, 1.0), cloud)

"""Points of views of a plane, and how they are thinned."""

import chex
import numpy as np

from nerf_haiku import camera_paths, cameras, image_rendering, point_clouds


def _image(depth, opacity, rgb):
  disparity = np.zeros_like(depth)
  return image_rendering.RenderedImage(
    rgb, depth, disparity, opacity, np.zeros((*depth.shape, 2))
  )


class FromViewsTest(chex.TestCase):
  def test_points_project_to_their_pixels(self):
    views = cameras.pinhole(camera_paths.circle(2), [[6, 8]] * 2, [9.0] * 2)
    rng = np.random.default_rng(0)
    opacity = rng.uniform(0.5, 1, (6, 8)).astype(np.float32)
    true = rng.uniform(2, 4, (6, 8)).astype(np.float32)
    rgb = rng.uniform(size=(6, 8, 3)).astype(np.float32)
    camera = cameras.take(views, [1])
    cloud = point_clouds.from_views(
      [(camera, _image(true * opacity, opacity, rgb))], min_opacity=0.7
    )
    kept = opacity >= 0.7
    self.assertEqual(len(cloud.points), kept.sum())
    position, depth = cameras.project(
      camera, np.zeros(kept.sum(), np.int32), cloud.points.astype(np.float32)
    )
    np.testing.assert_allclose(depth, true[kept], rtol=1e-4)
    centers = np.argwhere(kept) + 0.5
    np.testing.assert_allclose(position, centers, atol=1e-3)
    np.testing.assert_allclose(cloud.colors / 255, rgb[kept], atol=2e-3)

  def test_no_views(self):
    self.assertEqual(point_clouds.from_views([]).points.shape, (0, 3))


class ThinTest(chex.TestCase):
  def test_one_point_in_each_cube(self):
    points = np.array([[0, 0, 0], [0.4, 0, 0], [0.9, 0, 0], [1.5, 0, 0]])
    colors = np.arange(12, dtype=np.uint8).reshape(4, 3)
    thinned = point_clouds.thin(point_clouds.PointCloud(points, colors), 1.0)
    np.testing.assert_array_equal(thinned.points, points[[1, 3]])
    np.testing.assert_array_equal(thinned.colors, colors[[1, 3]])

  def test_density_is_even(self):
    rng = np.random.default_rng(0)
    points = np.concatenate(
      [rng.uniform(0, 1, (20000, 3)), rng.uniform(1, 2, (500, 3))]
    )
    cloud = point_clouds.PointCloud(points, np.zeros((20500, 3), np.uint8))
    thinned = point_clouds.thin(cloud, 0.25)
    self.assertLessEqual(len(thinned.points), 2 * 5**3)
    cells = np.unique(np.floor((points - points.min(0)) / 0.25), axis=0)
    self.assertEqual(len(thinned.points), len(cells))

"""True surfaces, points on meshes and drawings, against closed forms."""

from unittest import mock

import chex
import numpy as np

from experiments.benchmarks import mesh
from nerf_haiku import cameras, meshing
from nerf_haiku.datasets.procedural import paints, solids, still_life

_SQUARE = meshing.Mesh(
  np.array([[0.0, 0, 0], [2, 0, 0], [2, 1, 0], [0, 1, 0], [9, 9, 9]]),
  np.array([[0, 1, 2], [0, 2, 3]]),
)


def _looking_down(*, x=0.0, height=4.0):
  pose = np.array([[[1.0, 0, 0, x], [0, 1, 0, 0], [0, 0, 1, height]]])
  return cameras.pinhole(pose, [[32, 32]], [32.0])


class TrueSurfaceTest(chex.TestCase):
  def test_two_balls_from_above(self):
    """The lower one is hidden from one of three cameras."""
    plain = paints.plain(np.array([0.3, 0.4, 0.5]))
    items = tuple(
      still_life.Item(solids.ellipsoid((0, 0, z), (radius,) * 3), plain)
      for z, radius in ((0.0, 0.5), (2.0, 0.6))
    )
    cams = cameras.concatenate(
      [_looking_down(), _looking_down(x=1.5), _looking_down(x=-1.5)]
    )
    with (
      mock.patch.object(still_life, 'make_items', return_value=items),
      mock.patch.object(mesh, '_RAYS', 40),
    ):
      truth = mesh.true_surface(cams, 0)
    offset = [np.linalg.norm(truth.points - (0, 0, z), axis=-1) for z in (0, 2)]
    on_low, on_high = np.abs(offset[0] - 0.5), np.abs(offset[1] - 0.6)
    np.testing.assert_allclose(np.minimum(on_low, on_high), 0, atol=1e-9)
    is_low = on_low < 1e-9
    self.assertTrue(np.any(is_low))
    np.testing.assert_allclose(
      truth.normals[is_low], truth.points[is_low] / 0.5, atol=1e-6
    )
    self.assertEqual(truth.rgb.shape, truth.points.shape)
    # Both cameras at the sides see the front of the lower ball's top; its far
    # left is seen by the camera there alone.
    seen_low = truth.seen[truth.seen[:, 2] < 1]
    self.assertNotEmpty(seen_low)
    self.assertLess(np.abs(seen_low[:, 0]).max(), 0.45)
    self.assertGreater(np.abs(truth.points[is_low][:, 0]).max(), 0.45)


class SampleTest(chex.TestCase):
  def test_points_are_even(self):
    points = mesh.sample_mesh(_SQUARE, 20_000)
    np.testing.assert_array_equal(points[:, 2], 0)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], (8, 4))
    self.assertEqual(counts.sum(), 20_000)
    # 625 each, give or take five standard deviations.
    self.assertLess(np.abs(counts - 625).max(), 125)

  def test_further_columns_are_interpolated(self):
    values = 3 * _SQUARE.vertices[:, :1] - _SQUARE.vertices[:, 1:2]
    wide = _SQUARE._replace(vertices=np.hstack([_SQUARE.vertices, values]))
    points = mesh.sample_mesh(wide, 100)
    np.testing.assert_allclose(
      points[:, 3], 3 * points[:, 0] - points[:, 1], atol=1e-12
    )


class DrawTest(chex.TestCase):
  def test_what_is_near_hides_what_is_far(self):
    both = meshing.Mesh(
      np.concatenate(
        [_SQUARE.vertices[:4], _SQUARE.vertices[:4] * 0.5 + (0, 0, 2)]
      ),
      np.concatenate([_SQUARE.faces, _SQUARE.faces + 4]),
    )
    values = np.repeat([[1.0, 0, 0], [0, 0, 1.0]], 4, axis=0)
    with mock.patch.object(mesh, '_SAMPLES', 20_000):
      image = mesh.draw(_looking_down(), both, values)
    # A unit at a depth of 4 is 8 pixels, and of 2 it is 16: y is up.
    np.testing.assert_array_equal(image[14, 18], [0, 0, 1])
    np.testing.assert_array_equal(image[9, 18], [0, 0, 1])
    np.testing.assert_array_equal(image[17, 18], [1, 1, 1])
    with mock.patch.object(mesh, '_SAMPLES', 20_000):
      image = mesh.draw(_looking_down(), both, values[::-1])
    np.testing.assert_array_equal(image[14, 18], [1, 0, 0])

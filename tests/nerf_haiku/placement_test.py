"""Where captures lie in the field's coordinates."""

import chex
import numpy as np
from absl.testing import absltest, parameterized

from nerf_haiku import cameras, placement, poses, similarity

_NOWHERE = np.zeros((0, 3))


def _cameras(centers, targets):
  """Cameras that look from points to points; z is up."""
  pose = np.stack(
    [
      poses.from_axes(np.subtract(c, t), (0, 0, 1), c)
      for c, t in zip(centers, targets, strict=True)
    ]
  )
  count = len(pose)
  cams = cameras.pinhole(pose, np.full((count, 2), 20), np.full(count, 10.0))
  return cams._replace(camera_to_world=pose)


def _forward():
  centers = [(x, 0.0, z) for x in (-1, 0, 1) for z in (0, 0.5)]
  return _cameras(centers, [np.add(c, (0, 9, 0)) for c in centers])


class PlacementTest(chex.TestCase):
  def test_the_origin_is_what_cameras_look_at(self):
    cams = _cameras([(4, 0, 5), (0, 4, 5), (-4, 0, 5)], [(0, 0, 2)] * 3)
    placed = placement.place(cams, _NOWHERE, contracted=True)
    origin = similarity.move_points(placed.similarity, np.array([0, 0, 2.0]))
    np.testing.assert_allclose(origin, 0, atol=1e-12)
    np.testing.assert_allclose(placed.similarity.scale, 1 / 5)

  def test_of_cameras_that_face_one_way_it_is_among_the_points(self):
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (999, 3))
    points += (0.5, 6.0, 0.25)
    points[:99] *= 1e4  # Stray ones.
    placed = placement.place(_forward(), points, contracted=True)
    middle = similarity.move_points(placed.similarity, (0.5, 6, 0.25))
    np.testing.assert_allclose(middle, 0, atol=0.02)
    np.testing.assert_allclose(placed.similarity.scale, 1 / 6.2, rtol=0.02)

  def test_without_points_it_is_among_the_cameras(self):
    placed = placement.place(_forward(), _NOWHERE, contracted=True)
    middle = similarity.move_points(placed.similarity, (0, 0, 0.25))
    np.testing.assert_allclose(middle, 0, atol=1e-12)
    self.assertAlmostEqual(placed.near * placed.similarity.scale, 0.05)

  def test_what_surrounds_cameras_lies_within_1(self):
    centers = 0.01 * np.array([(1.0, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)])
    cams = _cameras(centers, 9 * centers)
    angles = np.linspace(0, 2 * np.pi, 1000)
    points = 5 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], -1)
    placed = placement.place(cams, points, contracted=True)
    self.assertBetween(placed.similarity.scale, 1 / 5.1, 1 / 2.5)

  def test_a_stray_camera_does_not_decide_the_scale(self):
    angles = np.linspace(0, 6, 20)
    centers = np.stack([np.cos(angles), np.sin(angles), 0 * angles + 0.2], -1)
    centers[7] *= 100
    cams = _cameras(centers, np.zeros((20, 3)))
    placed = placement.place(cams, _NOWHERE, contracted=True)
    self.assertGreater(placed.similarity.scale, 0.3)

  def test_near_is_a_little_before_the_nearest_points(self):
    cams = _forward()
    points = np.stack([np.linspace(-1, 1, 500)] * 3, axis=-1)
    points[:, 1] += 5
    depths = placement.point_depths(cams, points)
    self.assertBetween(depths.min(), 4.0, 4.1)
    placed = placement.place(cams, points, contracted=True)
    self.assertBetween(placed.near, 0.5 * 4, 4)

  def test_only_points_in_an_image_have_a_depth(self):
    cams = _cameras([(0, 0, 0)], [(0, 1, 0)])  # It sees 45 degrees and less.
    points = [(1.9, 2, 0), (2.1, 2, 0), (0, 3, 2.9), (0, 3, -3.1), (0, -2, 0)]
    np.testing.assert_allclose(
      placement.point_depths(cams, np.array(points, np.float64)), [2, 3]
    )
    self.assertEmpty(placement.point_depths(cams, _NOWHERE))

  @parameterized.parameters(True, False)
  def test_up_is_z_unless_a_box_is_given(self, has_box):
    cams = _forward()
    turn = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])
    cams = cams._replace(camera_to_world=turn @ cams.camera_to_world)
    box = np.array([[-1.0] * 3, [1.0] * 3]) if has_box else None
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    placed = placement.place(cams, points, contracted=False, box=box)
    expected = turn[:, 2] if has_box else (0, 0, 1)
    np.testing.assert_allclose(
      placed.similarity.rotation @ turn[:, 2], expected, atol=1e-12
    )

  def test_rays_reach_the_farthest_corner_of_the_box(self):
    cams = _cameras([(3, 0, 0), (0, 3, 0), (0, -3, 1)], [(0, 0, 0)] * 3)
    box = np.array([[-1.0] * 3, [1.0] * 3])
    placed = placement.place(cams, _NOWHERE, contracted=False, box=box)
    # From (0, -3, 1) to (1, 1, -1): 1, 4 and 2.
    self.assertAlmostEqual(placed.far, 21**0.5, places=6)


if __name__ == '__main__':
  absltest.main()

import chex
import numpy as np

from nerf_haiku import camera_paths, cameras, poses, scene_bounds


def _bounds(cams, box=None, ndc=None):
  return scene_bounds.scene_bounds(cams, 2.0, 6.0, box, ndc)


def _circles():
  """Twenty cameras each on two circles, looking at the origin."""
  poses = [camera_paths.circle(20), camera_paths.circle(20, elevation=-70.0)]
  return cameras.pinhole(
    np.concatenate(poses), np.full((40, 2), 100), np.full(40, 138.9)
  )


class SceneBoundsTest(chex.TestCase):
  def test_keeps_a_given_box(self):
    box = np.array([[-1, -1, -1], [1, 1, 1]], np.float32)
    bounds = _bounds(_circles(), box=box)
    np.testing.assert_array_equal(bounds.box, box)
    # The cameras are at a distance of 4 from its center: 4 / 138.9.
    np.testing.assert_allclose(bounds.pixel_width, 0.0288, rtol=1e-3)

  def test_small_images_do_not_decide_the_width_of_a_pixel(self):
    large = _circles()
    small = cameras.scale(large, np.full((40, 2), 25))
    both = cameras.concatenate([large, small, small])
    box = np.array([[-1, -1, -1], [1, 1, 1]], np.float32)
    self.assertEqual(
      _bounds(both, box=box).pixel_width, _bounds(large, box=box).pixel_width
    )
    self.assertAlmostEqual(scene_bounds.pixel_ratio(both, 50, both), 4.0)
    self.assertAlmostEqual(scene_bounds.pixel_ratio(both, 5, both), 1.0)

  def test_box_holds_what_half_of_the_cameras_see(self):
    """All see a ball of radius 4 sin(19.8 degrees) around the origin."""
    box = _bounds(_circles()).box
    self.assertTrue(np.all(box[0] < -1.2))
    self.assertTrue(np.all(box[1] > 1.2))
    self.assertTrue(np.all(np.abs(box) < 3.5))

  def test_nothing_is_seen_nearer_than_near(self):
    """Two of three cameras see from 2 to 6 before them, the third is apart."""
    poses = np.tile(np.eye(4)[None, :3], (3, 1, 1))
    poses[2, 2, 3] = 5.0  # Between near and the two others it sees alone.
    cams = cameras.pinhole(poses, np.full((3, 2), 10), np.full(3, 20.0))
    box = _bounds(cams).box
    np.testing.assert_allclose(box[:, 2], [-6.0, -2.0], atol=0.25)

  def test_box_holds_what_any_camera_sees_if_no_point_is_seen_by_half(self):
    """Three cameras look apart."""
    poses = np.tile(np.eye(4)[None, :3], (3, 1, 1))
    for i, angle in enumerate((0, 2.1, 4.2)):
      c, s = np.cos(angle), np.sin(angle)
      poses[i, :, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    cams = cameras.pinhole(poses, np.full((3, 2), 10), np.full(3, 20.0))
    box = _bounds(cams).box
    for i in range(3):
      middle = -6.0 * poses[i, :, 2]
      self.assertTrue(np.all((box[0] < middle) & (middle < box[1])))

  def test_device_coordinates_span_a_cube(self):
    """A camera at the origin sees the cube from -1 to 1."""
    cams = cameras.pinhole(np.eye(4)[None, :3], [[6, 8]], [8.0])
    ndc = cameras.Ndc((2.0, 8 / 3))
    bounds = _bounds(cams, ndc=ndc)
    np.testing.assert_allclose(bounds.box, [[-1.04] * 3, [1.04] * 3], atol=1e-3)
    np.testing.assert_allclose(bounds.pixel_width, 2 / 8)


class FittingTest(chex.TestCase):
  def test_bounds_hold_the_ball_that_all_views_show(self):
    cams = _circles()
    target = poses.find_target(cams.camera_to_world)
    fitted = scene_bounds.fit_bounds(cams, target)
    radius = 1.1 * 4 * np.sin(np.arctan(50 / 138.9))
    np.testing.assert_allclose(
      fitted.box, radius * np.array([[-1] * 3, [1] * 3]), rtol=1e-5
    )
    np.testing.assert_allclose(
      [fitted.near, fitted.far], [4 - radius, 4 + radius], rtol=1e-5
    )

  def test_the_wider_side_and_the_nearest_and_farthest_camera_count(self):
    given = camera_paths.circle(8)
    given[::2, :, 3] *= 2
    cams = cameras.pinhole(given, np.full((8, 2), (10, 40)), np.full(8, 20.0))
    target = poses.find_target(given)
    fitted = scene_bounds.fit_bounds(cams, target)
    radius = 1.1 * 6 * np.sin(np.pi / 4)  # The median of 4 and 8.
    np.testing.assert_allclose(fitted.far, 8 + radius, rtol=1e-5)
    np.testing.assert_allclose(fitted.near, 0.05 * 4, rtol=1e-5)
    np.testing.assert_allclose(fitted.box[1], radius, rtol=1e-5)


class FractionTest(chex.TestCase):
  def test_equals_that_of_all_clipped_rays(self):
    cams = _circles()
    box = np.array([[-0.7, -0.2, -0.9], [0.4, 0.6, 1.1]], np.float32)
    rays = [
      cameras.cast(
        cams,
        np.full(10_000, i, np.int32),
        cameras.pixels(100, 100),
        near=3.9,
        far=4.3,
        box=box,
        pixel_center=True,
      )
      for i in (0, 13, 39)
    ]
    hits = np.concatenate([ray.near < ray.far for ray in rays])
    some = cameras.take(cams, [0, 13, 39])
    fraction = scene_bounds.fraction_of_rays(some, 3.9, 4.3, box)
    np.testing.assert_allclose(fraction, hits.mean(), atol=3e-3)

  def test_half_of_the_rays_meet_half_a_space(self):
    """A camera at the origin; the box is where x is over 0."""
    cams = cameras.pinhole(np.eye(4)[None, :3], [[7, 12]], [9.0])
    box = np.array([[0, -99, -99], [99, 99, 99]], np.float32)
    np.testing.assert_allclose(
      scene_bounds.fraction_of_rays(cams, 1.0, 2.0, box), 0.5
    )
    self.assertEqual(scene_bounds.fraction_of_rays(cams, 100, 101, box), 0)
    self.assertEqual(scene_bounds.fraction_of_rays(cams, 1, 2, -box[::-1]), 0.5)

  def test_many_cameras(self):
    given = np.repeat(camera_paths.circle(10), 1000, axis=0)
    cams = cameras.pinhole(given, np.full((10_000, 2), 8), np.full(10_000, 9.0))
    box = np.array([[-9] * 3, [9] * 3], np.float32)
    self.assertEqual(scene_bounds.fraction_of_rays(cams, 2.0, 6.0, box), 1)

import chex
import numpy as np

from nerf_haiku import camera_paths, cameras, scene_bounds


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

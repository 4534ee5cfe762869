import chex
import numpy as np

from nerf_haiku import camera_paths, cameras, scene_bounds, scenes


def _scene(views, **changes):
  parts = (
    dict.fromkeys(scenes.Scene._fields)
    | {'train': scenes.Split(None, views), 'near': 2.0, 'far': 6.0}
    | changes
  )
  return scenes.Scene(**parts)


def _circle(count=40, size=(100, 100), focal=138.9):
  poses = np.concatenate(
    [
      camera_paths.circle(count // 2),
      camera_paths.circle(count // 2, elevation=-70.0),
    ]
    if 'elevation' in camera_paths.circle.__code__.co_varnames
    else [camera_paths.circle(count)]
  )
  return cameras.pinhole(
    poses, np.tile(size, (len(poses), 1)), np.full(len(poses), focal)
  )


class ExtentTest(chex.TestCase):
  def test_a_box_that_is_known(self):
    box = np.array([[-1, -1, -1], [1, 1, 1]], np.float32)
    found = scene_bounds.scene_bounds(_scene(_circle(), box=box))
    np.testing.assert_array_equal(found.box, box)
    # Cameras are 4 away from its middle: 4 / 138.9.
    np.testing.assert_allclose(found.pixel, 0.0288, rtol=1e-3)

  def test_what_half_of_the_cameras_see(self):
    """Around the origin, 4 away: a ball of 4 sin(19.8 degrees) all of them."""
    box = scene_bounds.scene_bounds(_scene(_circle())).box
    self.assertTrue(np.all(box[0] < -1.2))
    self.assertTrue(np.all(box[1] > 1.2))
    self.assertTrue(np.all(np.abs(box) < 3.5))

  def test_cameras_that_look_apart(self):
    """No point is seen by half of three: all that any sees is modelled."""
    poses = np.tile(np.eye(4)[None, :3], (3, 1, 1))
    for i, angle in enumerate((0, 2.1, 4.2)):
      c, s = np.cos(angle), np.sin(angle)
      poses[i, :, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    views = cameras.pinhole(poses, np.full((3, 2), 10), np.full(3, 20.0))
    box = scene_bounds.scene_bounds(_scene(views)).box
    for i in range(3):
      middle = -6.0 * poses[i, :, 2]
      self.assertTrue(np.all((box[0] < middle) & (middle < box[1])))

  def test_device_coordinates(self):
    """A camera at the origin sees the cube from -1 to 1."""
    views = cameras.pinhole(np.eye(4)[None, :3], [[6, 8]], [8.0])
    ndc = cameras.Ndc((2.0, 8 / 3))
    found = scene_bounds.scene_bounds(_scene(views, ndc=ndc))
    np.testing.assert_allclose(found.box, [[-1.04] * 3, [1.04] * 3], atol=1e-3)
    np.testing.assert_allclose(found.pixel, 2 / 8)

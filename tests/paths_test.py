import chex
import numpy as np

from nerf_haiku import paths


class CircleTest(chex.TestCase):
  def test_cameras_stand_around_and_look_at_the_origin(self):
    poses = paths.circle(7, elevation=-30.0, radius=4.0)
    chex.assert_shape(poses, (7, 3, 4))
    rotations, centres = poses[:, :, :3], poses[:, :, 3]
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 4.0, rtol=1e-6)
    np.testing.assert_allclose(centres[:, 2], 2.0, rtol=1e-6)  # 4 sin(30).
    np.testing.assert_allclose(rotations[:, :, 2], centres / 4.0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0, rtol=1e-5)
    # Upright: the cameras' x axes are level, their y axes point up.
    np.testing.assert_allclose(rotations[:, 2, 0], 0.0, atol=1e-6)
    np.testing.assert_array_less(0.5, rotations[:, 2, 1])

  def test_azimuths_are_evenly_spaced(self):
    centres = paths.circle(8)[:, :2, 3]
    azimuths = np.unwrap(np.arctan2(centres[:, 1], centres[:, 0]))
    np.testing.assert_allclose(np.abs(np.diff(azimuths)), np.pi / 4, rtol=1e-5)

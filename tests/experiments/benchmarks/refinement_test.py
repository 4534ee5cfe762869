import chex
import numpy as np

from experiments.benchmarks import refinement
from nerf_haiku import camera_paths, cameras, scenes


class DisturbTest(chex.TestCase):
  def test_every_camera_is_turned_and_moved_as_far(self):
    """The cameras of the circle are 4 from their mean, but for its height."""
    views = cameras.pinhole(camera_paths.circle(6), [[8, 8]] * 6, [8.0] * 6)
    images = scenes.Images(np.zeros((384, 3), np.uint8), [[8, 8]] * 6)
    split = scenes.Split(images, views)
    scene = scenes.Scene(split, split, split, 2.0, 6.0, None, views, ())
    disturbed = refinement.disturb(scene, degrees=2.0, spread=0.1, seed=0)
    old = views.camera_to_world
    radius = np.linalg.norm(old[:, :2, 3], axis=-1)
    found = [disturbed.train, disturbed.test]
    for new in (x.cameras.camera_to_world for x in found):
      turns = np.einsum('nij,nkj->nik', new[..., :3], old[..., :3])
      angles = np.arccos((np.trace(turns, axis1=1, axis2=2) - 1) / 2)
      np.testing.assert_allclose(np.rad2deg(angles), 2.0, rtol=1e-2)
      moves = np.linalg.norm(new[..., 3] - old[..., 3], axis=-1)
      np.testing.assert_allclose(moves, 0.1 * radius, rtol=1e-4)
    # No two alike.
    first, second = (x.cameras.camera_to_world for x in found)
    self.assertGreater(np.abs(first - second).max(axis=(1, 2)).min(), 1e-3)

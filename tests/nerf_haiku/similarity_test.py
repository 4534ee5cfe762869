"""Tests of the map between a data set's coordinates and the field's."""

import chex
import numpy as np
from absl.testing import absltest
from scipy.spatial import transform

from nerf_haiku import camera_paths, cameras, similarity

_ROTATIONS = transform.Rotation.random(4, rng=np.random.default_rng(0))
# Of photographs in a survey's coordinates: float32 has steps of 0.5 there.
_FAR_AWAY = np.array([5e6, 4e5, 120.0])


def _similarity() -> similarity.Similarity:
  rotation = _ROTATIONS[3].as_matrix()
  return similarity.Similarity(
    scale=0.25, rotation=rotation, translation=-0.25 * rotation @ _FAR_AWAY
  )


def _cameras() -> cameras.Cameras:
  centers = _FAR_AWAY + np.array([[4.0, 0, 0], [0, 4, 0], [0, 0, 3]])
  pose = np.concatenate([_ROTATIONS[:3].as_matrix(), centers[..., None]], -1)
  cams = cameras.pinhole(pose, np.array([[6, 8]] * 3), np.array([7.0] * 3))
  return cams._replace(camera_to_world=pose)


class SimilarityTest(chex.TestCase):
  def test_poses_that_are_moved_rigidly(self):
    """Axes keep their length, and centers move as points do."""
    moved = similarity.move_rigidly(_similarity(), _cameras())
    axes, centers = np.split(moved.camera_to_world, [3], axis=-1)
    np.testing.assert_allclose(
      np.swapaxes(axes, 1, 2) @ axes, np.tile(np.eye(3), (3, 1, 1)), atol=1e-9
    )
    given = _cameras().camera_to_world[..., 3]
    np.testing.assert_allclose(
      centers[..., 0], similarity.move_points(_similarity(), given)
    )

  def test_points_at_a_depth_agree_in_both_coordinates(self):
    cams, t = _cameras(), 2.5
    camera = np.array([0, 1, 2], np.int32)
    pixel = np.array([[0, 0], [3, 5], [5, 7]], np.int32)
    rays = cameras.cast(
      similarity.move_cameras(_similarity(), cams),
      camera,
      pixel,
      near=0.0,
      far=1.0,
      box=None,
      pixel_center=True,
    )
    local = t * cameras.image_plane(cams, camera, pixel + 0.5)
    pose = cams.camera_to_world
    points = np.einsum('nij,nj->ni', pose[..., :3], local) + pose[..., 3]
    chex.assert_trees_all_close(
      np.asarray(rays.origins + t * rays.directions),
      similarity.move_points(_similarity(), points).astype(np.float32),
      atol=1e-5,
    )
    lengths = np.linalg.norm(rays.viewdirs, axis=-1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-6)

  def test_points_move_as_stated_and_back(self):
    point = _FAR_AWAY + np.array([0, 0, 4.0])
    moved = similarity.move_points(_similarity(), point)
    expected = _similarity().rotation[:, 2]
    np.testing.assert_allclose(moved, expected, atol=1e-8)
    back = similarity.invert(_similarity())
    np.testing.assert_allclose(
      similarity.move_points(back, moved), point, atol=1e-6
    )

  def test_cameras_are_within_1_of_what_they_look_at(self):
    poses = [
      camera_paths.sphere_pose(azimuth, -30.0, radius)
      for azimuth, radius in ((0, 3.0), (100, 5.0), (200, 4.0))
    ]
    poses = np.asarray(poses, np.float64) + _FAR_AWAY[:, None] * [0, 0, 0, 1]
    cams = _cameras()._replace(camera_to_world=poses)
    fitted = similarity.from_cameras(cams)
    center = similarity.move_points(fitted, _FAR_AWAY)
    np.testing.assert_allclose(center, 0.0, atol=1e-5)
    moved = similarity.move_points(fitted, poses[:, :, 3])
    np.testing.assert_allclose(
      np.linalg.norm(moved, axis=-1), [0.6, 1.0, 0.8], atol=1e-5
    )
    # Looking away, they have their mean in the middle.
    outwards = poses.copy()
    outwards[:, :, [0, 2]] *= -1
    fitted = similarity.from_cameras(cams._replace(camera_to_world=outwards))
    moved = similarity.move_points(fitted, poses[:, :, 3])
    np.testing.assert_allclose(moved.mean(0), 0.0, atol=1e-8)
    self.assertAlmostEqual(np.linalg.norm(moved, axis=-1).max(), 1.0)
    # All in one place, they stay as they are.
    outwards[:, :, 3] = _FAR_AWAY
    fitted = similarity.from_cameras(cams._replace(camera_to_world=outwards))
    self.assertEqual(fitted.scale, 1.0)

  def test_without_a_similarity_cameras_stay_the_same(self):
    cams = _cameras()
    self.assertIs(similarity.move_cameras(None, cams), cams)


if __name__ == '__main__':
  absltest.main()

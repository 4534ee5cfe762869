import chex
import numpy as np
from absl.testing import parameterized
from scipy.spatial import transform

from nerf_haiku import camera_paths
from tests.support import references


class CircleTest(chex.TestCase):
  def test_cameras_surround_and_face_the_origin(self):
    poses = camera_paths.circle(7, elevation=-30.0, radius=4.0)
    chex.assert_shape(poses, (7, 3, 4))
    rotations, centers = poses[:, :, :3], poses[:, :, 3]
    np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 4.0, rtol=1e-6)
    np.testing.assert_allclose(centers[:, 2], 2.0, rtol=1e-6)  # 4 sin(30).
    np.testing.assert_allclose(rotations[:, :, 2], centers / 4.0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0, rtol=1e-5)
    # Upright: the cameras' x axes are level, their y axes point up.
    np.testing.assert_allclose(rotations[:, 2, 0], 0.0, atol=1e-6)
    np.testing.assert_array_less(0.5, rotations[:, 2, 1])

  def test_azimuths_are_evenly_spaced(self):
    centers = camera_paths.circle(8)[:, :2, 3]
    azimuths = np.unwrap(np.arctan2(centers[:, 1], centers[:, 0]))
    np.testing.assert_allclose(np.abs(np.diff(azimuths)), np.pi / 4, rtol=1e-5)


def _turned(camera_to_world):
  """The same cameras in a world that is turned and moved."""
  rotation = transform.Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix()
  return rotation @ camera_to_world + np.pad(
    np.array([[3.0], [-2.0], [5.0]]), ((0, 0), (3, 0))
  )


def _facing(places):
  """Cameras that look along -z, y up."""
  rotations = np.broadcast_to(np.eye(3), (len(places), 3, 3))
  return np.concatenate([rotations, np.asarray(places)[..., None]], axis=-1)


def _spread_out():
  """Their distances from the mean have .9, 1.8 and .45 as 90th percentiles."""
  x = np.linspace(-1.0, 1.0, 21)
  rng = np.random.default_rng(0)
  return _facing(
    np.stack([x, 2 * rng.permutation(x), 0.5 * rng.permutation(x)], -1)
  )


def _assert_look_at(path, target, up):
  """Cameras look at a point, and lean to no side of `up`."""
  x, y, z, centers = np.moveaxis(path, -1, 0)
  towards = centers - target
  towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
  np.testing.assert_allclose(z, towards, atol=1e-6)
  np.testing.assert_allclose(x @ up, 0.0, atol=1e-6)
  np.testing.assert_array_less(0.0, y @ up)
  np.testing.assert_allclose(np.linalg.det(path[:, :, :3]), 1.0, rtol=1e-5)


class SpiralTest(chex.TestCase):
  # Near 2 and far 8: disparity 1 / 2 counts a quarter, 1 / 40 three.
  focal = 1 / (0.25 / 2 + 0.75 / 40)

  @parameterized.parameters(1, 12, 31)
  def test_matches_the_closed_form(self, num_poses):
    path = camera_paths.spiral(_spread_out(), 2.0, 8.0, num_poses)
    self.assertEqual(path.dtype, np.float32)
    angles = 4 * np.pi * np.arange(num_poses) / num_poses
    expected = [
      0.9 * np.cos(angles),
      -1.8 * np.sin(angles),
      -0.45 * np.sin(angles / 2),
    ]
    np.testing.assert_allclose(path[:, :, 3].T, expected, atol=1e-6)
    _assert_look_at(path, [0, 0, -self.focal], [0, 1, 0])

  @parameterized.parameters((1, 1), (24, 12), (31, 15))
  def test_flat_spiral_stays_in_a_plane(self, num_poses, num):
    path = camera_paths.spiral(_spread_out(), 2.0, 8.0, num_poses, flat=True)
    angles = 2 * np.pi * np.arange(num) / num
    expected = [0.9 * np.cos(angles), -1.8 * np.sin(angles), np.full(num, -0.2)]
    np.testing.assert_allclose(path[:, :, 3].T, expected, atol=1e-6)
    _assert_look_at(path, [0, 0, -0.2 - self.focal], [0, 1, 0])

  @parameterized.parameters(True, False)
  def test_moves_with_the_cameras(self, flat):
    given = _spread_out()
    path = camera_paths.spiral(given, 2.0, 8.0, 12, flat=flat)
    turned = camera_paths.spiral(_turned(given), 2.0, 8.0, 12, flat=flat)
    np.testing.assert_allclose(turned, _turned(path), atol=1e-5)

  def test_matches_reference(self):
    reference = references.load('llff')
    bounds = reference['ndc_bounds']
    path = camera_paths.spiral(
      reference['ndc_poses'][:, :, :4], 0.9 * bounds.min(), bounds.max(), 120
    )
    np.testing.assert_allclose(
      path, reference['ndc_render_poses'][:, :, :4], atol=1e-4
    )


class OrbitTest(chex.TestCase):
  def test_matches_the_closed_form(self):
    # Mean height 2, mean square distance 7: the radius is that of 7 - 4.
    given = _facing([[2.0, 0.0, 1.0], [0.0, 0.0, 3.0]])
    path = camera_paths.orbit(given, np.eye(3, 4), 9)
    self.assertEqual(path.dtype, np.float32)
    angles = np.arange(9) * np.pi / 4
    expected = [3**0.5 * np.cos(angles), 3**0.5 * np.sin(angles), np.full(9, 2)]
    np.testing.assert_allclose(path[:, :, 3].T, expected, atol=1e-6)
    _assert_look_at(path, [0, 0, 0], [0, 0, 1])
    np.testing.assert_allclose(path[-1], path[0], atol=1e-6)

  def test_moves_with_the_frame(self):
    given, frame = _spread_out(), _facing([[0.0, 3.0, -4.0]])
    path = camera_paths.orbit(given, frame[0], 7)
    turned = camera_paths.orbit(_turned(given), _turned(frame)[0], 7)
    np.testing.assert_allclose(turned, _turned(path), atol=1e-5)
    _assert_look_at(path, [0, 3, -4], [0, 0, 1])

  def test_matches_reference(self):
    reference = references.load('llff')
    path = camera_paths.orbit(
      reference['spherify_poses'][:, :, :4], np.eye(3, 4), 120
    )
    np.testing.assert_allclose(
      path, reference['spherify_render_poses'][:, :, :4], atol=1e-4
    )


class AroundTest(chex.TestCase):
  def test_is_a_circle_that_follows_the_cameras(self):
    center = np.array([3.0, -2.0, 5.0])
    given = np.concatenate(
      [
        camera_paths.circle(9, elevation=-20.0, radius=0.5),
        camera_paths.circle(9, elevation=-60.0, radius=0.5),
      ]
    )
    given[:, :, 3] += center
    path = camera_paths.around(given, 12)
    chex.assert_shape(path, (12, 3, 4))
    _assert_look_at(path, center, np.array([0.0, 0.0, 1.0]))
    offsets = path[:, :, 3] - center
    # Their mean height, and their distance.
    height = 0.25 * (np.sin(np.deg2rad(20)) + np.sin(np.deg2rad(60)))
    np.testing.assert_allclose(offsets[:, 2], height, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(offsets, axis=-1), 0.5, rtol=1e-5)
    turns = np.unwrap(np.arctan2(offsets[:, 1], offsets[:, 0]))
    np.testing.assert_allclose(np.abs(np.diff(turns)), np.pi / 6, rtol=1e-4)

  @parameterized.named_parameters(
    ('outwards', np.diag([1.0, -1.0, -1.0])), ('to_one_side', None)
  )
  def test_else_it_passes_through_the_cameras(self, turn):
    given = camera_paths.circle(5).astype(np.float64)
    if turn is None:
      given[:, :, :3] = np.eye(3)
    else:
      given[:, :, :3] = given[:, :, :3] @ turn
    path = camera_paths.around(given, 9)
    np.testing.assert_allclose(path[::2], given, atol=1e-5)

  def test_one_camera_stays(self):
    given = camera_paths.circle(1)
    path = camera_paths.around(given, 3)
    np.testing.assert_array_equal(path, np.repeat(given, 3, axis=0))


class ThroughCaptureTest(chex.TestCase):
  def test_a_circle_where_cameras_surround_something(self):
    around = camera_paths.circle(5, elevation=-20.0, radius=3.0)
    around = around[[2, 0, 3, 1, 4]].astype(np.float64)
    around[:, :, 3] += (1, 2, 0)
    path = camera_paths.through_capture(around, 12)
    centers = path[:, :, 3] - (1, 2, 0)
    np.testing.assert_allclose(np.linalg.norm(centers, axis=-1), 3, rtol=1e-5)
    np.testing.assert_allclose(centers[:, 2], around[0, 2, 3], rtol=1e-5)
    np.testing.assert_allclose(path[:, :, 2], centers / 3, atol=1e-5)

  def test_a_spiral_where_they_face_one_way(self):
    pose = np.tile(np.eye(3, 4), (6, 1, 1))
    pose[:, :2, 3] = [(x, y) for x in (-0.2, 0, 0.2) for y in (0, 0.1)]
    path = camera_paths.through_capture(pose, 30)
    self.assertLess(np.abs(path[:, :2, 3] - (0, 0.05)).max(), 0.2001)
    axes = path[:, :, 3] - path[:, :, 2]  # What is 1 before the cameras.
    np.testing.assert_allclose(axes, [[0, 0.05, -1]] * 30, atol=0.03)

  @parameterized.parameters(1, 4)
  def test_else_through_the_cameras(self, count):
    outwards = camera_paths.circle(4).astype(np.float64)
    outwards[:, :, :3] *= (-1, 1, -1)
    outwards = outwards[:count]
    path = camera_paths.through_capture(outwards, 3 * count - 2)
    np.testing.assert_allclose(path[::3], outwards, atol=1e-5)

  def test_cameras_on_one_side_are_not_circled(self):
    half = camera_paths.circle(12)[:7].astype(np.float64)
    path = camera_paths.through_capture(half, 19)
    np.testing.assert_allclose(path[::3], half, atol=1e-5)


class InterpolateTest(chex.TestCase):
  @parameterized.parameters((5, 1), (5, 4), (2, 3), (3, 2))
  def test_passes_through_the_given_poses(self, num, steps):
    rng = np.random.default_rng(num)
    turns = transform.Rotation.from_rotvec(rng.normal(size=(num, 3)))
    given = _facing(rng.normal(size=(num, 3)))
    given[:, :, :3] = turns.as_matrix()
    path = camera_paths.interpolate(given, (num - 1) * steps + 1)
    self.assertEqual(path.dtype, np.float32)
    chex.assert_shape(path, ((num - 1) * steps + 1, 3, 4))
    np.testing.assert_allclose(path[::steps], given, atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(path[:, :, :3]), 1.0, rtol=1e-5)

  @parameterized.named_parameters(('two', 2, 1), ('four', 4, 3))
  def test_interpolates_even_turns_and_smooth_positions(self, num, degree):
    """A turn about one axis at one speed; places that are polynomials."""
    axis = np.array([0.6, 0.0, 0.8])

    def poses_at(times):
      turns = transform.Rotation.from_rotvec(0.9 * times[:, None] * axis)
      path = _facing(np.stack([times**degree, 1 - times, 0 * times], axis=-1))
      return np.concatenate([turns.as_matrix(), path[:, :, 3:]], axis=-1)

    path = camera_paths.interpolate(poses_at(np.arange(num)), 13)
    expected = poses_at(np.linspace(0, num - 1, 13))
    np.testing.assert_allclose(path, expected, atol=1e-5)

  @parameterized.parameters(0, 1)
  def test_refuses_fewer_than_two_poses(self, num):
    with self.assertRaisesRegex(ValueError, f'two cameras.*got {num}'):
      camera_paths.interpolate(np.zeros((num, 3, 4)), 5)

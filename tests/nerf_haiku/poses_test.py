import chex
import numpy as np
from absl.testing import parameterized
from scipy.spatial import transform

from nerf_haiku import poses
from tests.support import references


def _rotations(num, seed=0):
  vectors = np.random.default_rng(seed).normal(size=(num, 3))
  return transform.Rotation.from_rotvec(vectors).as_matrix()


def _poses(rotations, centers):
  centers = np.broadcast_to(centers, (len(rotations), 3))
  return np.concatenate([rotations, centers[..., None]], axis=-1)


def _square(camera_to_world):
  last = np.broadcast_to([[0.0, 0.0, 0.0, 1.0]], (len(camera_to_world), 1, 4))
  return np.concatenate([camera_to_world, last], axis=1)


def _around(target, num=7, seed=0):
  """Cameras that look at a point, turned about their axes anyhow."""
  rotations = _rotations(num, seed)
  distances = np.random.default_rng(seed).uniform(1.0, 3.0, (num, 1))
  return _poses(rotations, target + distances * rotations[:, :, 2])


class FromAxesTest(chex.TestCase):
  def test_axes_match_hand_computed_values(self):
    # Looks along +x from a place; up leans, and has a length.
    pose = poses.from_axes(
      np.array([-3.0, 0.0, 0.0]), np.array([1.0, 0.0, 2.0]), np.arange(3.0)
    )
    expected = [[0, 0, -1, 0], [-1, 0, 0, 1], [0, 1, 0, 2]]
    np.testing.assert_allclose(pose, expected, atol=1e-12)

  def test_reproduces_any_pose(self):
    for pose in _poses(_rotations(5), [1.0, 2.0, 3.0]):
      backward, leaning = 0.3 * pose[:, 2], 2 * pose[:, 1] + pose[:, 2]
      again = poses.from_axes(backward, leaning, pose[:, 3])
      np.testing.assert_allclose(again, pose, atol=1e-12)

  @parameterized.parameters(0.0, 1.0)
  def test_refuses_an_undefined_up_direction(self, length):
    up = np.array([0.0, 0.0, length])
    with self.assertRaisesRegex(ValueError, 'length 0'):
      poses.from_axes(np.array([0.0, 0.0, 1.0]), up, np.zeros(3))


class MeanTest(chex.TestCase):
  def test_is_the_center_of_cameras_that_lean_evenly(self):
    frame = _rotations(1, seed=3)[0]
    for axis in 'xyz':
      turns = transform.Rotation.from_euler(axis, [[0.3], [-0.3], [0.0]])
      places = np.array([[1.0, 0, 0], [2, 5, 0], [6, 1, 3]])
      pose = poses.mean(_poses(frame @ turns.as_matrix(), places))
      np.testing.assert_allclose(pose[:, :3], frame, atol=1e-12)
      np.testing.assert_allclose(pose[:, 3], [3, 2, 1])

  def test_mean_of_the_reference_is_the_identity(self):
    given = references.load('llff')['ndc_poses'][:, :, :4]
    np.testing.assert_allclose(poses.mean(given), np.eye(3, 4), atol=1e-5)

  def test_refuses_opposite_cameras(self):
    given = _poses(np.stack([np.eye(3), np.diag([-1.0, 1, -1])]), np.zeros(3))
    with self.assertRaisesRegex(ValueError, 'length 0'):
      poses.mean(given)


class RelativeToTest(chex.TestCase):
  def test_is_the_inverse_times_the_pose(self):
    given = _poses(_rotations(5), np.arange(15.0).reshape(5, 3))
    squares = _square(given)
    expected = np.linalg.inv(squares[2]) @ squares
    moved = poses.relative_to(given[2], given)
    np.testing.assert_allclose(moved, expected[:, :3], atol=1e-12)
    np.testing.assert_allclose(moved[2], np.eye(3, 4), atol=1e-12)

  def test_leaves_its_arguments_unchanged(self):
    given = _poses(_rotations(2), np.ones(3))
    before = given.copy()
    moved = poses.relative_to(given[0], given)
    moved += 1.0
    np.testing.assert_array_equal(given, before)


class FocusTest(chex.TestCase):
  @parameterized.parameters(2, 3, 20)
  def test_is_the_point_that_all_cameras_look_at(self, num):
    target = np.array([5.0, -2.0, 0.5])
    np.testing.assert_allclose(
      poses.focus(_around(target, num)), target, atol=1e-9
    )

  def test_lies_between_skew_axes(self):
    # Two axes along x at z = 0, one along y at z = 3: z is their mean, 1.
    x, y = np.eye(3)[[1, 2, 0]], np.eye(3)[[2, 0, 1]]
    given = _poses(
      np.stack([x.T, x.T, y.T]), np.array([[7.0, 2, 0], [9, 2, 0], [4, 8, 3]])
    )
    np.testing.assert_allclose(given[:, :, 2], np.eye(3)[[0, 0, 1]])
    np.testing.assert_allclose(poses.focus(given), [4, 2, 1], atol=1e-12)

  def test_forward_and_backward_are_one_axis(self):
    given = _around(np.array([1.0, 2.0, 3.0]))
    given[0, :, [0, 2]] *= -1
    np.testing.assert_allclose(poses.focus(given), [1, 2, 3], atol=1e-9)

  @parameterized.parameters(('x', 0.0), ('x', 0.001), ('z', 40.0), ('x', 180.0))
  def test_refuses_parallel_axes(self, axis, degrees):
    turns = transform.Rotation.from_euler(axis, [[0], [degrees]], degrees=True)
    rotations = _rotations(1)[0] @ turns.as_matrix()
    given = _poses(rotations, np.array([[0.0, 0, 0], [1, 2, 0]]))
    with self.assertRaisesRegex(ValueError, 'one direction'):
      poses.focus(given.astype(np.float32))

  def test_a_few_degrees_suffice(self):
    turns = transform.Rotation.from_euler('y', [[1.0], [-1]], degrees=True)
    frame, target = _rotations(1)[0], np.array([1.0, 0.0, 2.0])
    rotations = frame @ turns.as_matrix()
    given = _poses(rotations, target + 3 * rotations[:, :, 2])
    np.testing.assert_allclose(
      poses.focus(given.astype(np.float32)), target, atol=1e-3
    )


class TargetTest(chex.TestCase):
  def test_is_what_cameras_look_at(self):
    point = np.array([2.0, -1.0, 0.5])
    given = _around(point)
    target = poses.find_target(given)
    distances = np.linalg.norm(given[:, :, 3] - point, axis=-1)
    np.testing.assert_allclose(target.point, point, atol=1e-6)
    np.testing.assert_allclose(target.depths, distances, rtol=1e-6)

  def test_is_behind_cameras_that_look_away(self):
    given = _around(np.zeros(3))
    away = given * np.array([1.0, -1.0, -1.0, 1.0])
    np.testing.assert_allclose(
      poses.find_target(away).depths, -poses.find_target(given).depths
    )

  @parameterized.parameters((3.0, False), (15.0, True))
  def test_axes_must_differ(self, degrees, expected):
    # Evenly on a cone of that half angle; 45 degrees about x would do as well.
    turns = np.arange(0, 360, 45)
    rotations = transform.Rotation.from_euler(
      'xz', [(degrees, turn) for turn in turns], degrees=True
    ).as_matrix()
    given = _poses(rotations, 4 * rotations[:, :, 2])
    self.assertEqual(poses.find_target(given) is not None, expected)

  @parameterized.parameters((0.05, True), (1.5, False))
  def test_axes_must_pass_the_point(self, miss, expected):
    given = _around(np.zeros(3), num=40)
    noise = np.random.default_rng(1).normal(size=(40, 3))
    given[:, :, 3] += miss * noise
    self.assertEqual(poses.find_target(given) is not None, expected)


class UprightTest(chex.TestCase):
  def test_axes_match_hand_computed_values(self):
    up = np.array([1.0, 0.5, 4.0])
    pose = poses.upright(np.array([3.0, 2.0, 1.0]), up)
    axes = pose[:, :3]
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(axes), 1.0)
    np.testing.assert_allclose(axes[:, 2], up / np.linalg.norm(up))
    np.testing.assert_allclose(axes[:, 0] @ [0.1, 0.2, 0.3], 0.0, atol=1e-12)
    self.assertGreater(np.cross([0.1, 0.2, 0.3], up) @ axes[:, 0], 0)
    np.testing.assert_array_equal(pose[:, 3], [3, 2, 1])


class SpherifyTest(chex.TestCase):
  def test_frame_has_the_focus_and_mean_direction(self):
    moved, _ = poses.spherify(_around(np.array([4.0, 5.0, 6.0])))
    places = moved[:, :, 3]
    np.testing.assert_allclose(np.mean(np.sum(places**2, -1)), 1.0)
    np.testing.assert_allclose(poses.focus(moved), np.zeros(3), atol=1e-9)
    across, up = np.split(places.mean(0), [2])
    np.testing.assert_allclose(across, 0.0, atol=1e-12)
    self.assertGreater(up[0], 0.0)

  def test_preserves_poses_up_to_scale(self):
    given = _around(np.array([4.0, 5.0, 6.0]))
    moved, factor = poses.spherify(given)
    distances = np.linalg.norm(given[:, :, 3] - [4, 5, 6], axis=-1)
    np.testing.assert_allclose(factor, np.mean(distances**2) ** -0.5)
    self.assertIsInstance(factor, float)
    expected, got = (
      np.linalg.inv(x[:1]) @ x for x in (_square(given), _square(moved))
    )
    expected[:, :3, 3] *= factor
    np.testing.assert_allclose(got, expected, atol=1e-9)

  def test_matches_reference(self):
    reference = references.load('llff')
    moved, factor = poses.spherify(reference['ndc_poses'][:, :, :4])
    np.testing.assert_allclose(
      moved, reference['spherify_poses'][:, :, :4], atol=1e-4
    )
    np.testing.assert_allclose(
      reference['ndc_bounds'] * factor, reference['spherify_bounds'], rtol=1e-4
    )

  @parameterized.named_parameters(
    ('parallel', np.stack([np.eye(3)] * 3), np.eye(3), 'one direction'),
    ('at_the_focus', _rotations(3), np.zeros(3), 'length 0'),
  )
  def test_refuses_unsuitable_cameras(self, rotations, centers, message):
    with self.assertRaisesRegex(ValueError, message):
      poses.spherify(_poses(rotations, centers))

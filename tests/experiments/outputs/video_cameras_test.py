import json
import pathlib

import chex
import numpy as np
from absl.testing import parameterized

from experiments.outputs import video_cameras
from nerf_haiku import camera_paths, cameras, scenes, similarity

_SIZE = (30, 44)


def _cameras(poses, size=_SIZE):
  sizes = np.tile(size, (len(poses), 1))
  return cameras.pinhole(poses, sizes, np.full(len(poses), 50.0))


def _split(poses, size=_SIZE):
  none = scenes.LazyImages(len(poses), lambda i: np.zeros((*size, 3), np.uint8))
  return scenes.Split(none, _cameras(poses, size))


def _scene(**changes):
  around = camera_paths.circle(8, elevation=-20.0, radius=3.0)
  parts = {
    'train': _split(around),
    'val': _split(around[:2]),
    'test': _split(around[3:6]),
    'near': 2.0,
    'far': 4.0,
    'box': None,
    'path': _cameras(camera_paths.circle(5)),
    'notices': (),
  }
  return scenes.Scene(**(parts | changes))


def _choose(scene=None, **changes):
  settings = {
    'video_set': 'render',
    'path': 'given',
    'num_poses': 9,
    'render_factor': 1,
  }
  return video_cameras.choose_cameras(scene or _scene(), **(settings | changes))


class ChooseTest(chex.TestCase):
  @parameterized.parameters(
    ('render', 'path', 5),
    ('poses', 'path', 5),
    ('train', 'train', 8),
    ('val', 'val', 2),
    ('test', 'test', 3),
  )
  def test_chooses_the_cameras_of_a_set(self, video_set, name, count):
    path = _choose(video_set=video_set)
    given = getattr(_scene(), name)
    given = given if name == 'path' else given.cameras
    chex.assert_trees_all_equal(path, given)
    self.assertLen(path.sizes, count)

  def test_a_smaller_video_has_the_same_angle_of_view(self):
    path = _choose(render_factor=4)
    np.testing.assert_array_equal(path.sizes, [[7, 11]] * 5)
    # Each axis by the ratio of its sizes: 30 to 7, and 44 to 11.
    expected = [50 * 11 / 44, 50 * 7 / 30, 5.5, 3.5]
    np.testing.assert_allclose(path.intrinsics, [expected] * 5, rtol=1e-6)
    chex.assert_trees_all_equal(_choose(render_factor=0), _choose())
    with self.assertRaisesRegex(ValueError, r'config.render_factor: got 31'):
      _choose(render_factor=31)

  def test_interpolation_passes_through_a_split(self):
    path = _choose(video_set='test', path='interpolate', num_poses=5)
    given = _scene().test.cameras
    np.testing.assert_allclose(
      path.camera_to_world[::2], given.camera_to_world, atol=1e-5
    )
    np.testing.assert_allclose(path.intrinsics[::2], given.intrinsics)

  def test_interpolates_intrinsics(self):
    scene = _scene()
    given = scene.test.cameras
    given.intrinsics[1, :2] = 70.0
    path = _choose(scene, video_set='test', path='interpolate', num_poses=5)
    np.testing.assert_allclose(path.intrinsics[:, 0], [50, 60, 70, 60, 50])

  @parameterized.parameters('interpolate', 'circle', 'spiral', 'flat')
  def test_far_from_the_origin_paths_are_the_same(self, path):
    """In a survey's coordinates, where float32 has steps of 0.5."""
    scene = _scene()
    expected = _choose(scene, video_set='train', path=path).camera_to_world
    shift, scale = np.array([5e6, 4e5, 120.0]), 25.0
    pose = np.float64(scene.train.cameras.camera_to_world)
    pose[:, :, 3] = scale * pose[:, :, 3] + shift
    cams = scene.train.cameras._replace(camera_to_world=pose)
    moved = scene._replace(
      train=scene.train._replace(cameras=cams),
      near=scale * scene.near,
      far=scale * scene.far,
      similarity=similarity.Similarity(1 / scale, np.eye(3), -shift / scale),
    )
    chosen = _choose(moved, video_set='train', path=path).camera_to_world
    centers = (chosen[:, :, 3] - shift) / scale
    np.testing.assert_allclose(centers, expected[:, :, 3], atol=1e-5)
    np.testing.assert_allclose(chosen[:, :, :3], expected[:, :, :3], atol=1e-5)

  def test_a_circle_around_what_cameras_look_at(self):
    """Around the origin, and moved with the cameras."""
    shift = np.array([1.0, -2.0, 0.5], np.float32)
    poses = camera_paths.circle(8, elevation=-20.0, radius=3.0)
    poses[:, :, 3] += shift
    moved = _split(poses)
    scene = _scene(train=moved, val=moved, test=moved)
    path = _choose(scene, path='circle')
    self.assertLen(path.sizes, 9)
    away = path.camera_to_world[:, :, 3] - shift
    np.testing.assert_allclose(np.linalg.norm(away, axis=1), 3.0, rtol=1e-5)
    np.testing.assert_allclose(away[:, 2], 3 * np.sin(np.pi / 9), rtol=1e-4)
    np.testing.assert_allclose(
      path.camera_to_world[:, :, 2], away / 3.0, atol=1e-5
    )

  @parameterized.parameters(('spiral', 9), ('flat', 4))
  def test_spirals_go_among_all_cameras(self, path, count):
    chosen = _choose(path=path)
    poses = [
      split.cameras.camera_to_world
      for split in (_scene().train, _scene().test, _scene().val)
    ]
    expected = camera_paths.spiral(
      np.concatenate(poses), 2.0, 4.0, 9, flat=path == 'flat'
    )
    self.assertLen(chosen.sizes, count)
    np.testing.assert_array_equal(chosen.camera_to_world, expected)

  def test_reads_a_file_of_cameras(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    path = _choose(video_set='test')
    video_cameras.save_cameras(str(folder / 'path.json'), path)
    for factor in (1, 3):  # Sizes are those that the file says.
      again = _choose(
        camera_file=str(folder / 'path.json'), render_factor=factor
      )
      chex.assert_trees_all_equal(again, path)
    self.assertLen(json.loads((folder / 'path.json').read_text())['cameras'], 3)
    for name in (str(folder / 'none' / 'x.json'), '~no_such_user/x.json'):
      with self.assertRaisesRegex(ValueError, '--save_path: .* cannot be writ'):
        video_cameras.save_cameras(name, path)

  def test_refuses_impossible_paths(self):
    with self.assertRaisesRegex(
      ValueError, '--path=interpolate: a path needs at least two'
    ):
      _choose(
        _scene(val=_split(camera_paths.circle(1))),
        video_set='val',
        path='interpolate',
      )
    empty = _split(np.zeros((0, 3, 4), np.float32))
    with self.assertRaisesRegex(ValueError, 'there are no val cameras'):
      _choose(_scene(val=empty), video_set='val')
    mixed = _split(camera_paths.circle(2))
    mixed.cameras.sizes[1] = 5
    with self.assertRaisesRegex(ValueError, 'several sizes'):
      _choose(_scene(val=mixed), video_set='val', path='interpolate')
    level = np.repeat(camera_paths.circle(1), 3, axis=0)
    level[:, 0, 3] = range(3)
    with self.assertRaisesRegex(ValueError, '--path=circle: .* no focus'):
      _choose(
        _scene(train=_split(level), val=_split(level), test=_split(level)),
        path='circle',
      )

  def test_refuses_cameras_outside_device_coordinates(self):
    forward = np.repeat(np.eye(4, dtype=np.float32)[None, :3], 3, axis=0)
    forward[:, 0, 3] = [-0.1, 0.0, 0.1]
    ndc = cameras.Ndc((2.0, 2.0))
    scene = _scene(train=_split(forward), path=_cameras(forward), ndc=ndc)
    self.assertLen(_choose(scene).sizes, 3)
    turned, ahead = forward.copy(), forward.copy()
    turned[1, :, :3] = np.diag([-1.0, 1.0, -1.0])
    ahead[2, 2, 3] = -1.5
    for poses, message in (
      (turned, r'camera 1 \(the first of 1\) does not face -z'),
      (ahead, r'camera 2 \(the first of 1\) is beyond the near plane'),
    ):
      with self.assertRaisesRegex(ValueError, f'--path=given: {message}'):
        _choose(scene._replace(path=_cameras(poses)))

  def test_describes_frames_and_sizes(self):
    text = video_cameras.describe_cameras(_choose(render_factor=2))
    self.assertEqual(text, '5 frames of 22x15')

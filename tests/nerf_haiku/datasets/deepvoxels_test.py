import math
import pathlib
import shutil
import tempfile

import chex
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from nerf_haiku import errors
from nerf_haiku.datasets import deepvoxels
from tests.support import references, shared

_SPLITS = ('train', 'validation', 'test')
# Of images of 640x480; the optical axis is off their center.
_LENS = '500. 312. 250. 0.\n0. 0. 0.\n1.\n1.\n480 640\n'
_EYE = '1 0 0 0 0 1 0 0 0 0 1 {} 0 0 0 1'


def _pose(z):
  """The text of a camera at (0, 0, z) whose axes are the world's."""
  return _EYE.format(z)


def _image(height=16, width=16, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


class _SceneTest(chex.TestCase):
  """A test with a scene `toy` in a folder of its own."""

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.root = pathlib.Path(folder.name)
    self.write('train', [_image()], [_pose(2), _pose(-4)])
    self.write('validation', [_image()], [_pose(3)])
    self.write('test', [_image()], [_pose(5)])

  def folder(self, split):
    return self.root / split / 'toy'

  def write(self, split, images, poses, lens=_LENS):
    """Writes views `0.png` and `0.txt`, and so on; all may be of one image."""
    for name in ('rgb', 'pose'):
      (self.folder(split) / name).mkdir(parents=True, exist_ok=True)
    (self.folder(split) / 'intrinsics.txt').write_text(lens)
    for i, pose in enumerate(poses):
      self.write_pose(split, pose, i)
      self.write_image(split, images[i % len(images)], i)

  def write_pose(self, split, text, name=0):
    (self.folder(split) / 'pose' / f'{name}.txt').write_text(text)

  def write_image(self, split, image, name=0):
    Image.fromarray(image).save(self.folder(split) / 'rgb' / f'{name}.png')

  def load(self, shape='toy', data_dir=None, **changes):
    settings = {'testskip': 1, 'down_factor': 1, **changes}
    return deepvoxels.load(str(data_dir or self.root), shape, **settings)


class RealTest(chex.TestCase):
  def test_matches_the_reference(self):
    expected = references.load('deepvoxels')
    scene = deepvoxels.load(
      str(shared.folder('data')), 'lego', testskip=8, down_factor=1
    )
    splits = scene.train, scene.val, scene.test
    np.testing.assert_array_equal(
      [len(split.images) for split in splits], expected['counts']
    )
    poses = np.concatenate([split.cameras.camera_to_world for split in splits])
    np.testing.assert_allclose(poses, expected['poses'], atol=1e-4)
    np.testing.assert_allclose(
      scene.path.camera_to_world, expected['render_poses'], atol=1e-4
    )
    height, width, focal = expected['hwf']
    for views in (*(split.cameras for split in splits), scene.path):
      np.testing.assert_array_equal(
        views.sizes, len(views.sizes) * [[height, width]]
      )
      np.testing.assert_allclose(views.intrinsics[:, :2], focal, rtol=1e-6)
      # 320 of 640 and 240 of 480 in the file.
      np.testing.assert_allclose(
        views.intrinsics[:, 2:], len(views.sizes) * [[width / 2, height / 2]]
      )
    np.testing.assert_allclose(scene.near, expected['near'], atol=1e-4)
    np.testing.assert_allclose(scene.far, expected['far'], atol=1e-4)
    means = [
      np.mean(image / 255, axis=(0, 1))
      for split in splits
      for image in split.images
    ]
    np.testing.assert_allclose(means, expected['image_mean'], atol=1e-4)
    self.assertEqual(scene.notices, ())
    self.assertIsNone(scene.ndc)


class SceneTest(_SceneTest):
  @parameterized.parameters(' ', '\n', '\r\n\t')
  def test_y_and_z_axes_are_flipped(self, space):
    # Columns are right, down, forward and the center.
    text = '0 0.6 0.8 1 -1 0 0 2 0 -0.8 0.6 3 0 0 0 1'
    self.write_pose('train', text.replace(' ', space))
    scene = self.load()
    np.testing.assert_array_equal(
      scene.train.cameras.camera_to_world[0],
      np.float32([[0, -0.6, -0.8, 1], [-1, 0, 0, 2], [0, 0.8, -0.6, 3]]),
    )
    chex.assert_type(
      [*scene.train.cameras[:3]], [np.float32, np.float32, np.int32]
    )

  def test_each_split_has_its_images(self):
    for seed, split in enumerate(_SPLITS):
      self.write_image(split, _image(seed=seed))
    scene = self.load(box=[[-1, -2, -3], [1, 2, 3]])
    for seed, split in enumerate((scene.train, scene.val, scene.test)):
      np.testing.assert_array_equal(split.images[0], _image(seed=seed))
    np.testing.assert_array_equal(scene.box, [[-1, -2, -3], [1, 2, 3]])
    chex.assert_trees_all_equal(scene.path, scene.test.cameras)
    self.assertEqual(scene.notices, ())

  @parameterized.parameters(
    (1, 16, 16, [500 / 30, 500 / 30, 7.8, 250 / 30]),
    (2, 8, 8, [500 / 60, 500 / 60, 3.9, 250 / 60]),
    (3, 5, 5, [500 / 96, 500 / 96, 312 / 128, 250 / 96]),
  )
  def test_intrinsics_are_scaled_to_the_image(
    self, down_factor, height, width, lens
  ):
    """The height scales the focal length, as images were made square."""
    scene = self.load(down_factor=down_factor)
    for views in (scene.train.cameras, scene.val.cameras, scene.path):
      np.testing.assert_array_equal(views.sizes[0], [height, width])
      np.testing.assert_allclose(views.intrinsics[0], lens, rtol=1e-6)
    self.assertEqual(scene.train.images[0].shape, (height, width, 3))

  def test_downscales_by_the_real_ratio_of_each_axis(self):
    for split in _SPLITS:
      self.write(split, [_image(16, 10)], 2 * [_pose(3)])
    views = self.load(down_factor=3).train.cameras
    np.testing.assert_array_equal(views.sizes, 2 * [[5, 3]])
    focal = 500 * 16 / 480
    expected = [focal * 3 / 10, focal * 5 / 16, 312 * 3 / 640, 250 * 5 / 480]
    np.testing.assert_allclose(views.intrinsics, 2 * [expected], rtol=1e-6)

  def test_a_split_without_intrinsics_uses_those_of_train(self):
    text = _LENS.replace('500.', '250.').replace('480 640', '48 64 7')
    (self.folder('validation') / 'intrinsics.txt').write_text(text)
    (self.folder('test') / 'intrinsics.txt').unlink()
    scene = self.load()
    for split, focal in (
      (scene.train, 500 / 30),
      (scene.val, 250 / 3),
      (scene.test, 500 / 30),
    ):
      np.testing.assert_allclose(
        split.cameras.intrinsics[0, :2], focal, rtol=1e-6
      )

  @parameterized.parameters((0, 5), (1, 5), (2, 3), (4, 2), (9, 1))
  def test_testskip_selects_held_out_views(self, testskip, count):
    images = [_image(seed=i) for i in range(5)]
    for split in _SPLITS:
      self.write(split, images, [_pose(2 + i) for i in range(5)])
    scene = self.load(testskip=testskip)
    self.assertLen(scene.train.images, 5)
    used = list(range(5))[:: max(testskip, 1)]
    for split in (scene.val, scene.test):
      self.assertLen(split.images, count)
      np.testing.assert_array_equal(
        split.cameras.camera_to_world[:, 2, 3], np.add(used, 2)
      )
      for image, index in zip(split.images, used, strict=True):
        np.testing.assert_array_equal(image, images[index])
    # Those left out have no part in the mean distance either.
    mean = np.mean([2 + i for i in [*range(5), *used, *used]])
    np.testing.assert_allclose([scene.near, scene.far], [mean - 1, mean + 1])

  @parameterized.parameters(
    (None, None, 2.5, 4.5),
    (1.25, None, 1.25, 4.5),
    (None, 9.0, 2.5, 9.0),
    (0.5, 0.75, 0.5, 0.75),
  )
  def test_default_bounds_follow_the_cameras(self, near, far, *expected):
    """The cameras are 2, 4, 3 and 5 from the origin."""
    scene = self.load(near=near, far=far)
    self.assertSequenceAlmostEqual([scene.near, scene.far], expected)

  def test_cameras_inside_the_object_need_near_and_far(self):
    for split in _SPLITS:
      self.write(split, [_image()], 2 * [_pose(0.75)])
    message = r'train/toy: .*is 0\.75, .* -0\.25 and 1\.75.*Set near'
    with self.assertRaisesRegex(errors.DataError, message):
      self.load()
    self.assertEqual(self.load(near=0.1).near, 0.1)
    with self.assertRaisesRegex(
      errors.DataError, 'near and far are 2 and 1.75'
    ):
      self.load(near=2.0)

  def test_names_of_two_kinds_are_paired_in_order(self):
    for kind in ('rgb/0.png', 'rgb/1.png', 'pose/0.txt', 'pose/1.txt'):
      (self.folder('train') / kind).unlink()
    for z, name in ((2, 'b'), (3, 'a'), (4, 'c')):
      self.write_pose('train', _pose(z), name)
    for seed, name in ((2, 'r_3'), (0, 'r_1'), (1, 'r_2')):
      self.write_image('train', _image(seed=seed), name)
    train = self.load().train
    np.testing.assert_array_equal(
      train.cameras.camera_to_world[:, 2, 3], [3, 2, 4]
    )
    for seed in range(3):
      np.testing.assert_array_equal(train.images[seed], _image(seed=seed))

  def test_numbers_in_names_are_ordered_by_value(self):
    poses = [_pose(2 + i) for i in range(12)]
    self.write('train', [_image(seed=i) for i in range(12)], poses)
    for i in range(12):
      path = self.folder('train') / 'pose' / f'{i}.txt'
      path.rename(path.with_name(f'{i:06}.txt'))
    train = self.load().train
    for z, image in zip(
      train.cameras.camera_to_world[:, 2, 3], train.images, strict=True
    ):
      np.testing.assert_array_equal(image, _image(seed=int(z) - 2))

  def test_ignores_other_files(self):
    for name in ('rgb/._0.png', 'rgb/Thumbs.db', 'pose/.0.txt', 'pose/a.md'):
      (self.folder('train') / name).write_text('no view')
    (self.folder('train') / 'rgb' / '1.png').rename(
      self.folder('train') / 'rgb' / '1.PNG'
    )
    self.assertLen(self.load().train.images, 2)

  def test_finds_a_folder_deepvoxels(self):
    (self.root / 'deepvoxels').mkdir()
    for split in _SPLITS:
      (self.root / split).rename(self.root / 'deepvoxels' / split)
    for place in (self.root, self.root / 'deepvoxels'):
      self.assertLen(self.load(data_dir=place).train.images, 2)

  def test_notices_name_files_relative_to_the_root(self):
    self.write_image('test', _image()[..., 0])
    (notice,) = self.load().notices
    self.assertRegex(notice, r'1 of 4 images is gray.*first test/toy/rgb/0\.pn')


class ExporterTest(_SceneTest):
  """What other programs leave out, or write beside it."""

  @parameterized.parameters('folder', 'rgb', 'files')
  def test_without_validation_images_it_is_the_test_views(self, lacks):
    self.write_image('test', _image(seed=3))
    folder = self.folder('validation')
    if lacks == 'folder':
      shutil.rmtree(folder)
    elif lacks == 'rgb':
      shutil.rmtree(folder / 'rgb')
    else:
      for file in (folder / 'rgb').iterdir():
        file.unlink()
    scene = self.load()
    self.assertIs(scene.val, scene.test)
    np.testing.assert_array_equal(scene.val.images[0], _image(seed=3))
    self.assertRegex(scene.notices[0], 'Validation .* test .*validation/toy')

  def test_without_held_out_views_they_are_made(self):
    for split in _SPLITS[1:]:
      shutil.rmtree(self.folder(split))
    for i in range(5):
      self.write_image('train', _image(seed=i), i)
      self.write_pose('train', _pose(10 + i), i)
    scene = self.load(holdout=2, testskip=4)
    for split, expected in ((scene.train, [1, 3]), (scene.test, [0, 2, 4])):
      places = split.cameras.camera_to_world[:, 2, 3]
      np.testing.assert_array_equal(places, [10 + i for i in expected])
      for image, i in zip(split.images, expected, strict=True):
        np.testing.assert_array_equal(image, _image(seed=i))
    self.assertRegex(
      scene.notices[0], r'Every 2nd training view \(3 of 5\).*holdout=2'
    )

  def test_poses_may_be_inverse(self):
    rotation = [[0, 0.6, 0.8], [-1, 0, 0], [0, -0.8, 0.6]]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, [1, 2, 3]
    expected = self.load_pose(pose, _LENS)
    for text, matrix in (
      (f'{_LENS}0\n', pose),
      (f'{_LENS}\n', pose),
      (f'{_LENS}1\n', np.linalg.inv(pose)),
    ):
      found = self.load_pose(matrix, text)
      np.testing.assert_allclose(found, expected, atol=1e-6)

  def load_pose(self, pose, lens):
    """Returns the first training pose; its text has full precision."""
    (self.folder('train') / 'intrinsics.txt').write_text(lens)
    self.write_pose('train', ' '.join(repr(float(x)) for x in pose.ravel()))
    return self.load().train.cameras.camera_to_world[0]

  @parameterized.parameters(
    ('0. 0. 0.\n1.\n1.', False),
    ('0. .1 0.\n1.\n1.', True),
    ('0. 0. 0.\n2.\n1.', True),
    ('0. 0. 0.\n1.\n2.', True),
  )
  def test_unused_lines_are_reported(self, lines, reported):
    text = _LENS.replace('0. 0. 0.\n1.\n1.', lines)
    (self.folder('train') / 'intrinsics.txt').write_text(text)
    notices = self.load().notices
    self.assertLen(notices, int(reported))
    if reported:
      self.assertRegex(notices[0], 'Lines 2 to 4 of intrinsics.txt')


class ErrorsTest(_SceneTest):
  def assert_refused(self, message, error=errors.DataError, **changes):
    with self.assertRaisesRegex(error, message):
      self.load(**changes)

  @parameterized.parameters(
    ('testskip', -1),
    ('down_factor', 0),
    ('near', 0.0),
    ('far', math.nan),
    ('box', 3),
  )
  def test_refuses_invalid_settings(self, name, value):
    self.assert_refused(f'{name} must.*{value}', ValueError, **{name: value})

  @parameterized.named_parameters(
    ('missing', '1 0 0 0 0 1 0 0 0 0 1 3 0 0 0', '16 numbers.*got 15'),
    ('more', _pose(3) + ' 7', '16 numbers.*got 17'),
    ('empty', '', '16 numbers.*got 0'),
    ('word', _pose('here'), "holds 'here', which is not a number"),
    ('comma', _pose('3,'), "holds '3,', which is not a number"),
    ('nan', _pose('nan'), 'nan, which is not a finite'),
    ('infinite', _pose('-inf'), '-inf, which is not a finite'),
    ('huge', _pose('1e39'), '1e39, which is not a finite'),
    ('scaled', '2' + _pose(3)[1:], 'the pose is not a rigid motion.* by 3'),
    ('mirrored', '-' + _pose(3), 'the pose .*mirrors'),
    ('last_row', _pose(3)[:-1] + '2', r'its last row is \[0.0, 0.0, 0.0, 2.0'),
  )
  def test_refuses_an_invalid_pose(self, text, message):
    self.write_pose('validation', text)
    self.assert_refused(rf'/validation/toy/pose/0\.txt: .*{message}')

  def test_refuses_a_pose_that_is_not_text(self):
    path = self.folder('test') / 'pose' / '0.txt'
    path.write_bytes(b'\xff\xfe')
    self.assert_refused(r'/test/toy/pose/0\.txt: cannot be read')

  @parameterized.named_parameters(
    ('empty', '', 'line 1 must hold at least 3 numbers, got 0'),
    ('center', '500. 312.\n', 'line 1 must hold at least 3 numbers, got 2'),
    (
      'middle',
      '5 3 2 0\n0. 0.\n1.\n1.\n4 6',
      'line 2 must hold at least 3 .* got 2',
    ),
    (
      'near',
      '5 3 2 0\n0 0 0\n\n1.\n4 6',
      'line 3 must hold at least 1 .* got 0',
    ),
    (
      'size',
      '5 3 2 0\n0 0 0\n1.\n1.\n480\n',
      'line 5 must hold at least 2 .* got 1',
    ),
    ('cut', '5 3 2 0\n0 0 0\n1.\n1.\n', 'line 5 must hold at least 2 .* got 0'),
    (
      'word',
      _LENS.replace('312.', 'wide'),
      "holds 'wide', which is not a number",
    ),
    ('nan', _LENS.replace('312.', 'nan'), 'nan, which is not a finite'),
    ('infinite', _LENS.replace('480', 'inf'), 'inf, which is not a finite'),
    ('focal', _LENS.replace('500.', '0.'), 'over 0, got 0, 480 and 640'),
    ('height', _LENS.replace('480', '-480'), 'over 0, got 500, -480 and 640'),
    ('width', _LENS.replace('640', '0'), 'over 0, got 500, 480 and 0'),
  )
  def test_refuses_invalid_intrinsics(self, text, message):
    (self.folder('test') / 'intrinsics.txt').write_text(text)
    self.assert_refused(rf'/test/toy/intrinsics\.txt: .*{message}')

  def test_refuses_missing_intrinsics(self):
    for split in _SPLITS:
      (self.folder(split) / 'intrinsics.txt').unlink()
    self.assert_refused(r'/train/toy/intrinsics\.txt: no such file')

  def test_refuses_more_poses_than_images(self):
    for name in range(7):
      self.write_pose('test', _pose(3), name)
    self.assert_refused(
      r'/test/toy: holds 7 poses .* and 1 images .*unpaired: '
      r'1\.txt, 2\.txt, 3\.txt, 4\.txt, 5\.txt \.\.\.\.$'
    )

  def test_refuses_more_images_than_poses(self):
    self.write_image('train', _image(), 'last')
    self.assert_refused(
      r'/train/toy: holds 2 poses .* and 3 images .*unpaired: last\.png\.$'
    )

  def test_refuses_different_counts_of_two_kinds_of_names(self):
    for i in range(2):
      path = self.folder('train') / 'rgb' / f'{i}.png'
      path.rename(path.with_name(f'r_{i}.png'))
    self.write_pose('train', _pose(3), 2)
    self.assert_refused(
      r'/train/toy: holds 3 poses .* 2 images .*: 0\.txt, .*, r_1\.png\.$'
    )

  def test_refuses_names_that_partly_differ(self):
    path = self.folder('train') / 'rgb' / '1.png'
    path.rename(path.with_name('2.png'))
    self.assert_refused(
      r'/train/toy: holds 2 poses .* 2 images .*unpaired: 1\.txt, 2\.png\.$'
    )

  def test_refuses_an_image_of_another_size(self):
    self.write_image('test', _image(8, 12))
    self.assert_refused(r'/test/toy/rgb/0\.png: is 12x8 pixels.*16x16')

  @parameterized.parameters(*_SPLITS)
  def test_refuses_a_truncated_image(self, split):
    path = self.folder(split) / 'rgb' / '0.png'
    path.write_bytes(path.read_bytes()[:400])
    self.assert_refused(rf'/{split}/toy/rgb/0\.png: cannot be decoded')

  def test_refuses_a_large_down_factor(self):
    self.assert_refused(
      r'down_factor=17 .*/train/toy/rgb/0\.png', ValueError, down_factor=17
    )

  @parameterized.parameters(
    ('train', 'rgb', r'\.png'), ('validation', 'pose', r'\.txt')
  )
  def test_refuses_empty_folders(self, split, name, files):
    path = self.folder(split) / name
    for file in path.iterdir():
      file.unlink()
    self.assert_refused(rf'/{split}/toy/{name}: has no {files} files')
    path.rmdir()
    self.assert_refused(rf'/{split}/toy/{name}: no such folder')

  @parameterized.parameters('2', 'no', '1 1')
  def test_refuses_an_unknown_kind_of_pose(self, flag):
    (self.folder('train') / 'intrinsics.txt').write_text(f'{_LENS}{flag}\n')
    self.assert_refused(rf"intrinsics\.txt: line 6 must be 1 .*got '{flag}'")

  @parameterized.parameters('tyo', '', 'toy/rgb/x')
  def test_refuses_an_unknown_scene(self, shape):
    (self.root / 'deepvoxels' / 'train' / 'cube').mkdir(parents=True)
    message = f"shape='{shape}' is not a folder of train .*scenes: cube, toy"
    self.assert_refused(message, shape=shape)

  def test_refuses_a_folder_without_scenes(self):
    self.assert_refused('Available scenes: none', data_dir=self.folder('train'))

  def test_refuses_a_missing_data_dir(self):
    self.assert_refused('/gone.*folder', data_dir=self.root / 'gone')


if __name__ == '__main__':
  absltest.main()

import json
import math
import pathlib
import shutil
import tempfile

import chex
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from nerf_haiku import backgrounds, errors, scenes
from nerf_haiku.datasets import blender
from tests.support import references, shared

_SPLITS = ('train', 'val', 'test')
_ANGLE = 2 * math.atan(0.5)  # The focal length is the width.
_SETTINGS = {
  'testskip': 1,
  'down_factor': 1,
  'num_poses': 40,
  'near': 2.0,
  'far': 6.0,
  'box': None,
}


def _pose(number):
  """A rotation about z, and a place that tells whose pose it is."""
  turn, pose = 0.1 * number, np.eye(4)
  pose[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
  pose[:3, 3] = [number, 2.0, -3.0]
  return pose


def _image(height, width, channels=4, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, channels), np.uint8)


class _SceneTest(chex.TestCase):
  """A test with a scene `toy` in a folder of its own."""

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.root = pathlib.Path(folder.name)
    self.scene = self.root / 'toy'
    for split in _SPLITS:
      self.write(split, [_image(4, 6)])

  def write(self, split, images, extension='.png', names=None):
    """Writes a split; frame `i` has `_pose(i)`."""
    (self.scene / split).mkdir(parents=True, exist_ok=True)
    names = names or [f'./{split}/r_{i}' for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
      Image.fromarray(image).save(self.scene / f'{name}{extension}')
    self.write_json(
      split,
      camera_angle_x=_ANGLE,
      frames=[
        {'file_path': name, 'transform_matrix': _pose(i).tolist()}
        for i, name in enumerate(names)
      ],
    )

  def write_json(self, split, text=None, **content):
    path = self.scene / f'transforms_{split}.json'
    path.write_text(text or json.dumps(content), 'utf-8')

  def write_frame(self, split, **changes):
    """Changes the first frame of a split."""
    path = self.scene / f'transforms_{split}.json'
    content = json.loads(path.read_text('utf-8'))
    content['frames'][0].update(changes)
    path.write_text(json.dumps(content), 'utf-8')

  def load(self, shape='toy', data_dir=None, **changes):
    settings = {**_SETTINGS, **changes}
    return blender.load(str(data_dir or self.root), shape, **settings)


class RealTest(chex.TestCase):
  def load(self, **changes):
    settings = {**_SETTINGS, 'testskip': 8, **changes}
    return blender.load(str(shared.folder('data')), 'lego', **settings)

  def test_matches_the_reference(self):
    reference = references.load('blender_half')
    scene = self.load(down_factor=2, original_path=True)
    splits = (scene.train, scene.val, scene.test)
    np.testing.assert_array_equal(
      [len(split.images) for split in splits], reference['counts']
    )
    poses = np.concatenate([split.cameras.camera_to_world for split in splits])
    np.testing.assert_allclose(poses, reference['poses'][:, :3], atol=1e-4)
    height, width, focal = reference['hwf']
    for split in splits:
      np.testing.assert_allclose(
        split.cameras.intrinsics[:, [0, 1]], focal, rtol=1e-6
      )
      np.testing.assert_array_equal(
        split.cameras.sizes, len(split.images) * [[height, width]]
      )
    means = [
      np.mean(image / 65535, axis=(0, 1))
      for split in splits
      for image in split.images
    ]
    np.testing.assert_allclose(means, reference['image_mean'], atol=1e-4)
    white = scenes.to_float(scene.train.images[0], background=backgrounds.WHITE)
    np.testing.assert_allclose(
      white[::8, ::8], reference['white_image0'], atol=1e-4
    )
    np.testing.assert_allclose(
      scene.path.camera_to_world, reference['render_poses'][:, :3], atol=1e-4
    )
    self.assertEqual(scene.notices, ())

  def test_the_path_follows_the_cameras(self):
    """Lego's cameras are on a hemisphere of radius 4.03 around the origin."""
    path = self.load().path.camera_to_world
    centers = path[:, :, 3]
    distances = np.linalg.norm(centers, axis=-1)
    np.testing.assert_allclose(distances, 4.03, atol=0.01)
    np.testing.assert_allclose(path[:, :, 2], centers / 4.03, atol=0.02)

  def test_full_size_images_equal_the_files(self):
    scene = self.load()
    folder = shared.folder('data') / 'nerf_synthetic' / 'lego'
    self.assertEqual(scene.train.images.pixels.dtype, np.uint8)
    for split, index, name in (
      (scene.train, 0, 'train/r_0'),
      (scene.train, 57, 'train/r_57'),
      (scene.val, 1, 'val/r_8'),
      (scene.test, 24, 'test/r_192'),
    ):
      expected = np.asarray(Image.open(folder / f'{name}.png'))
      np.testing.assert_array_equal(split.images[index], expected)

  def test_missing_views_suggest_a_testskip(self):
    message = r'val/r_1: no such image.* 261 more.*set testskip=8\.'
    with self.assertRaisesRegex(errors.DataError, message):
      self.load(testskip=1)
    with self.assertRaisesRegex(errors.DataError, r'every 8th.*set testskip=8'):
      self.load(testskip=2)


class SceneTest(_SceneTest):
  def test_scene_has_the_given_settings(self):
    images = [_image(4, 6, seed=i) for i in range(3)]
    self.write('train', images)
    scene = self.load(box=[[-1, -2, -3], [1, 2, 3]], num_poses=5)
    chex.assert_trees_all_equal(list(scene.train.images), images)
    cameras = scene.train.cameras
    expected = np.stack([_pose(i)[:3] for i in range(3)])
    np.testing.assert_allclose(cameras.camera_to_world, expected, atol=1e-6)
    np.testing.assert_allclose(cameras.intrinsics, 3 * [[6, 6, 3, 2]])
    np.testing.assert_array_equal(cameras.sizes, 3 * [[4, 6]])
    self.assertEqual((scene.near, scene.far), (2.0, 6.0))
    np.testing.assert_array_equal(scene.box, [[-1, -2, -3], [1, 2, 3]])
    np.testing.assert_allclose(scene.path.intrinsics, 5 * [[6, 6, 3, 2]])
    np.testing.assert_array_equal(scene.path.sizes, 5 * [[4, 6]])
    chex.assert_shape(scene.path.camera_to_world, (5, 3, 4))
    self.assertEqual(scene.notices, ())
    chex.assert_type(
      [cameras.camera_to_world, cameras.intrinsics, cameras.sizes, scene.box],
      [np.float32, np.float32, np.int32, np.float32],
    )

  def test_images_of_mixed_sizes_have_their_own_focal_lengths(self):
    self.write('train', [_image(48, 32), _image(33, 17)])
    scene = self.load()
    np.testing.assert_allclose(
      scene.train.cameras.intrinsics, [[32, 32, 16, 24], [17, 17, 8.5, 16.5]]
    )
    np.testing.assert_array_equal(
      scene.train.cameras.sizes, [[48, 32], [33, 17]]
    )

  def test_each_split_has_its_own_angle(self):
    self.write('train', [_image(4, 6)])
    frames = [{'file_path': 'val/r_0', 'transform_matrix': _pose(0).tolist()}]
    angle = 2 * math.atan(0.25)
    self.write_json('val', camera_angle_x=angle, frames=frames)
    scene = self.load()
    np.testing.assert_allclose(scene.train.cameras.intrinsics[0, :2], 6)
    np.testing.assert_allclose(scene.val.cameras.intrinsics[0, :2], 12)

  def test_downscales_by_the_real_ratio_of_each_axis(self):
    self.write('train', [_image(33, 17), _image(48, 32)])
    scene = self.load(down_factor=4)
    cameras = scene.train.cameras
    np.testing.assert_array_equal(cameras.sizes, [[8, 4], [12, 8]])
    np.testing.assert_allclose(
      cameras.intrinsics, [[4, 17 * 8 / 33, 2, 4], [8, 8, 4, 6]], rtol=1e-6
    )
    np.testing.assert_allclose(scene.path.intrinsics[0], cameras.intrinsics[0])
    self.assertEqual(scene.train.images[0].shape, (8, 4, 4))
    (notice,) = scene.notices
    self.assertRegex(notice, '3 of 4 images .*down_factor.*train/r_0.png')

  def test_downscales_before_compositing(self):
    image = np.zeros((2, 2, 4), np.uint8)
    image[0, 0] = [200, 0, 0, 255]
    image[0, 1] = [0, 100, 0, 0]
    self.write('train', [image])
    reduced = self.load(down_factor=2).train.images[0]
    np.testing.assert_allclose(
      reduced[0, 0] / 65535 * 255, [50, 25, 0, 63.75], atol=2e-3
    )

  @parameterized.parameters((0, 5), (1, 5), (2, 3), (4, 2), (9, 1))
  def test_testskip_selects_held_out_views(self, testskip, count):
    images = [_image(4, 6, seed=i) for i in range(5)]
    for split in _SPLITS:
      self.write(split, images)
    scene = self.load(testskip=testskip)
    self.assertLen(scene.train.images, 5)
    for split in (scene.val, scene.test):
      expected = list(range(5))[:: max(testskip, 1)]
      self.assertLen(split.images, count)
      np.testing.assert_array_equal(
        split.cameras.camera_to_world[:, 0, 3], expected
      )
      for image, index in zip(split.images, expected, strict=True):
        np.testing.assert_array_equal(image, images[index])

  def test_skipped_images_may_be_missing(self):
    self.write('test', 4 * [_image(4, 6)])
    (self.scene / 'test' / 'r_1.png').unlink()
    self.assertLen(self.load(testskip=2).test.images, 2)

  def test_held_out_images_are_read_on_access(self):
    scene = self.load()
    self.assertIsInstance(scene.train.images, scenes.Images)
    other = _image(4, 6, seed=9)
    for split in _SPLITS:
      Image.fromarray(other).save(self.scene / split / 'r_0.png')
    np.testing.assert_array_equal(scene.train.images[0], _image(4, 6))
    np.testing.assert_array_equal(scene.val.images[0], other)
    np.testing.assert_array_equal(scene.test.images[0], other)

  def test_reads_images_without_alpha(self):
    self.write('train', [_image(4, 6, 3)])
    scene = self.load()
    self.assertEqual(scene.train.images.pixels.shape, (24, 3))
    self.assertEqual(scene.notices, ())

  def test_gray_has_one_notice(self):
    self.write('train', [_image(4, 6, 1, seed=i)[..., 0] for i in range(3)])
    scene = self.load()
    np.testing.assert_array_equal(
      scene.train.images[2], np.repeat(_image(4, 6, 1, seed=2), 3, axis=-1)
    )
    self.assertEqual(
      scene.notices,
      ('3 of 5 images are gray: converted to RGB, first train/r_0.png.',),
    )

  @parameterized.parameters(0.0, 1.0)
  def test_color_under_zero_alpha_has_no_effect(self, level):
    hidden = _image(4, 6)
    hidden[::2, :, 3] = 0
    changed = hidden.copy()
    changed[::2, :, :3] = 255 - changed[::2, :, :3]
    self.write('train', [hidden, changed])
    images = [
      scenes.to_float(image, background=(level,) * 3)
      for image in self.load().train.images
    ]
    np.testing.assert_array_equal(*images)

  @parameterized.parameters('.png', '.PNG', '.jpg', '.jpeg', '.JPG', '.webp')
  def test_finds_images_by_extension(self, extension):
    image = np.full((16, 16, 3), 77, np.uint8)
    self.write('val', [image], extension, ['val/v1.5'])
    self.write('test', [image], '', [f'test/image{extension}'])
    scene = self.load()
    for split in (scene.val, scene.test):
      np.testing.assert_allclose(split.images[0], image, atol=3)

  def test_accepts_any_file_names(self):
    names = ['train/a b', 'train/カメラ', 'r_0']
    self.write('train', [_image(4, 6, seed=i) for i in range(3)], names=names)
    np.testing.assert_array_equal(
      self.load().train.images[1], _image(4, 6, seed=1)
    )

  def test_accepts_poses_of_three_rows_and_a_byte_order_mark(self):
    self.write_frame('train', transform_matrix=_pose(7)[:3].tolist())
    path = self.scene / 'transforms_train.json'
    path.write_text(path.read_text('utf-8'), 'utf-8-sig')
    np.testing.assert_allclose(
      self.load().train.cameras.camera_to_world[0], _pose(7)[:3], atol=1e-6
    )


class FolderTest(_SceneTest):
  def test_finds_the_folder_of_a_scene(self):
    self.assertEmpty(self.load().notices)
    self.assertEmpty(self.load(data_dir=self.scene).notices)
    (self.root / 'nerf_synthetic').mkdir()
    self.scene.rename(self.root / 'nerf_synthetic' / 'toy')
    self.assertEmpty(self.load().notices)

  def test_a_scene_of_another_name_has_a_notice(self):
    (notice,) = self.load('lego', self.scene).notices
    self.assertRegex(notice, "is itself a scene: shape='lego'")

  @parameterized.parameters('lgeo', '', 'toy/train')
  def test_refuses_an_unknown_scene(self, shape):
    (self.root / 'nerf_synthetic' / 'ship').mkdir(parents=True)
    (self.root / 'empty').mkdir()
    text = (self.scene / 'transforms_train.json').read_text('utf-8')
    there = self.root / 'nerf_synthetic' / 'ship' / 'transforms_train.json'
    there.write_text(text, 'utf-8')
    message = f"shape='{shape}'.*Available scenes: ship, toy"
    with self.assertRaisesRegex(errors.DataError, message):
      self.load(shape)

  def test_refuses_a_folder_without_scenes(self):
    with self.assertRaisesRegex(errors.DataError, 'Available scenes: none'):
      self.load(data_dir=self.scene / 'train')

  def test_refuses_a_missing_data_dir(self):
    with self.assertRaisesRegex(errors.DataError, 'data_dir=.*/gone.*folder'):
      self.load(data_dir=self.root / 'gone')


class ExporterTest(_SceneTest):
  """What other programs leave out, or write beside it."""

  def setUp(self):
    super().setUp()
    self.images = [_image(4, 6, seed=i) for i in range(5)]
    self.write('train', self.images)

  def assert_views(self, split, expected):
    """Checks which of the training images a split has, with their poses."""
    for image, i in zip(split.images, expected, strict=True):
      np.testing.assert_array_equal(image, self.images[i])
    np.testing.assert_allclose(
      split.cameras.camera_to_world,
      np.stack([_pose(i)[:3] for i in expected]),
      atol=1e-6,
    )

  def merge(self, **lists):
    """Leaves one `transforms.json`, and no other."""
    path = self.scene / 'transforms_train.json'
    content = json.loads(path.read_text()) | lists
    (self.scene / 'transforms.json').write_text(json.dumps(content))
    for split in _SPLITS:
      (self.scene / f'transforms_{split}.json').unlink()

  @parameterized.parameters(
    ('val', 'test', False, 'Validation .* test .*no transforms_val.json'),
    ('val', 'test', True, 'Validation .* test .*no image of transforms_val'),
    ('test', 'val', False, 'Test .* validation .*no transforms_test.json'),
    ('test', 'val', True, 'Test .* validation .*no image of transforms_test'),
  )
  def test_one_split_replaces_the_other(self, lost, kept, has_json, message):
    self.write(kept, self.images[:3])
    if has_json:
      shutil.rmtree(self.scene / lost)
    else:
      (self.scene / f'transforms_{lost}.json').unlink()
    scene = self.load(testskip=2)
    self.assertIs(scene.val, scene.test)
    self.assert_views(scene.train, range(5))
    self.assert_views(scene.test, [0, 2])
    self.assertLen(scene.notices, 1)
    self.assertRegex(scene.notices[0], message)

  @parameterized.parameters((2, [1, 3], [0, 2, 4]), (8, [1, 2, 3, 4], [0]))
  def test_held_out_views_are_made(self, holdout, train, test):
    (self.scene / 'transforms_val.json').unlink()
    shutil.rmtree(self.scene / 'test')
    scene = self.load(holdout=holdout, testskip=3)
    self.assertIs(scene.val, scene.test)
    self.assert_views(scene.train, train)
    self.assert_views(scene.test, test)
    self.assertRegex(
      scene.notices[0],
      rf'training view \({len(test)} of 5\) .*no image of '
      rf'transforms_test\.json .*holdout={holdout}',
    )

  def test_one_file_of_all_views(self):
    self.merge()
    scene = self.load(holdout=3)
    self.assert_views(scene.train, [1, 2, 4])
    self.assert_views(scene.test, [0, 3])
    self.assertRegex(scene.notices[0], r'3rd .* transforms\.json has all views')

  def test_one_file_lists_its_splits(self):
    names = [f'./train/r_{i}' for i in range(5)]
    self.merge(
      train_filenames=names[:2],
      val_filenames=['train/r_2.png'],
      test_filenames=names[3:],
    )
    scene = self.load()
    self.assert_views(scene.train, [0, 1])
    self.assert_views(scene.val, [2])
    self.assert_views(scene.test, [3, 4])
    self.assertEqual(scene.notices, ())

  @parameterized.named_parameters(
    ('no_train', {'test_filenames': ['train/r_0']}, 'train_filenames'),
    ('unknown', {'train_filenames': ['x']}, "train_filenames has 'x'"),
    ('no_list', {'train_filenames': 'x'}, 'must be a list of names'),
  )
  def test_refuses_lists_of_splits(self, lists, message):
    self.merge(**lists)
    with self.assertRaisesRegex(errors.DataError, message):
      self.load()

  def test_one_view_cannot_be_divided(self):
    self.images = self.images[:1]
    self.write('train', self.images)
    self.merge()
    with self.assertRaisesRegex(errors.UserError, 'one training view'):
      self.load()

  def test_lenses_of_files_and_frames(self):
    self.write_json('val', **self.content('val', fl_x=30, w=12, h=8, cx=7))
    self.write_frame('train', camera_angle_x=2 * math.atan(1.0), fl_y=5)
    scene = self.load()
    np.testing.assert_allclose(
      scene.train.cameras.intrinsics[:2], [[3, 5, 3, 2], [6, 6, 3, 2]]
    )
    np.testing.assert_allclose(scene.val.cameras.intrinsics, [[15, 15, 3.5, 2]])

  def content(self, split, **lens):
    path = self.scene / f'transforms_{split}.json'
    return {**lens, 'frames': json.loads(path.read_text())['frames']}

  def test_a_principal_point_needs_centers_of_pixels(self):
    self.write_json('val', **self.content('val', fl_x=30, cx=3))
    self.load()
    with self.assertRaisesRegex(
      errors.UserError, r'pixel_center=False: .*transforms_val\.json has cx'
    ):
      self.load(pixel_center=False)

  def test_scaled_images_scale_the_principal_point(self):
    for split in _SPLITS:
      self.write_json(split, **self.content(split, fl_x=4, fl_y=6, cx=5, cy=1))
    scene = self.load(down_factor=2)
    np.testing.assert_allclose(scene.val.cameras.intrinsics, [[2, 3, 2.5, 0.5]])

  def test_lenses_with_distortion(self):
    self.write_json('val', **self.content('val', fl_x=30, k1=-0.2, p2=0.01))
    scene = self.load(down_factor=2)
    self.assertIsNone(scene.train.cameras.distortion)
    np.testing.assert_allclose(
      scene.val.cameras.distortion, [[-0.2, 0, 0, 0, 0, 0.01]]
    )
    np.testing.assert_array_equal(scene.val.cameras.fisheye, [False])
    self.assertNotEqual(scene.val.digest, self.digest_without_distortion())
    with self.assertRaisesRegex(errors.UserError, 'pixel_center=False: .*_val'):
      self.load(pixel_center=False)

  def digest_without_distortion(self):
    self.write_json('val', **self.content('val', fl_x=30, k1=0))
    digest = self.load().val.digest
    self.write_json('val', **self.content('val', fl_x=30, k1=-0.2, p2=0.01))
    return digest

  def test_refuses_lenses(self):
    self.write_json('val', **self.content('val', fl_x=3, k1=-1))
    with self.assertRaisesRegex(
      errors.DataError, r'transforms_val\.json: .*val/r_0.*cannot be inverted'
    ):
      self.load()
    self.write('val', [_image(4, 6)])
    self.write_frame('val', mask_path='x.png')
    with self.assertRaisesRegex(errors.DataError, r'frames\[0\]: mask_path'):
      self.load()

  def test_one_file_may_name_images_that_are_gone(self):
    self.merge()
    for i in (1, 4):
      (self.scene / 'train' / f'r_{i}.png').unlink()
    scene = self.load(holdout=2)
    self.assert_views(scene.train, [2])
    self.assert_views(scene.test, [0, 3])
    self.assertRegex(
      scene.notices[0], "2 of 5 .* left out: 'train/r_1', 'train/r_4'\\.$"
    )

  def test_fields_without_effect_are_reported(self):
    fields = {'aabb_scale': 4, 'foo': 1, 'applied_scale': 1.0}
    self.write_json('val', **self.content('val', fl_x=30, **fields))
    self.write_frame('train', bar=2, rotation=0.1, sharpness=3)
    (notice,) = self.load().notices
    self.assertRegex(notice, "not used: 'aabb_scale', 'bar', 'foo'\\.$")

  def test_digests_are_of_the_content(self):
    def digests():
      scene = self.load()
      return [x.digest for x in (scene.train, scene.val, scene.test)]

    self.write('val', [_image(4, 6, seed=3)])
    before = digests()
    self.assertLen(set(before), 3)
    moved = self.root / 'elsewhere'
    shutil.copytree(self.scene, moved / 'toy')
    self.assertEqual([x.digest for x in self.load(data_dir=moved)[:3]], before)
    Image.fromarray(_image(4, 6, seed=9)).save(self.scene / 'val' / 'r_0.png')
    after = digests()
    self.assertEqual([before[0], before[2]], [after[0], after[2]])
    self.assertNotEqual(before[1], after[1])
    self.write_frame('test', transform_matrix=_pose(7).tolist())
    self.write_frame('train', fl_x=5.97)  # Within 1 %.
    for x, y in zip(digests(), after, strict=True):
      self.assertEqual(x == y, y == after[1])

  def test_names_of_another_system(self):
    names = [
      r'.\train\r_0.png',
      str(self.scene / 'train' / 'r_1.png'),
      r'C:\Users\me\toy\train\r_2.png',
      'train/R_3.PNG',
      '/home/me/toy/train/r_4',
    ]
    path = self.scene / 'transforms_train.json'
    content = json.loads(path.read_text())
    for frame, name in zip(content['frames'], names, strict=True):
      frame['file_path'] = name
    path.write_text(json.dumps(content))
    self.assert_views(self.load().train, range(5))


class ErrorsTest(_SceneTest):
  def assert_refused(self, message, error=errors.DataError, **changes):
    with self.assertRaisesRegex(error, message):
      self.load(**changes)

  @parameterized.parameters(
    ('testskip', -1),
    ('testskip', 2.0),
    ('testskip', True),
    ('down_factor', 0),
    ('down_factor', True),
    ('down_factor', 1.5),
    ('num_poses', 0),
    ('near', 0.0),
    ('near', 6.0),
    ('near', math.nan),
    ('far', math.inf),
    ('far', '6'),
    ('holdout', 1),
    ('box', [[0, 0, 0]]),
    ('box', [[0, 0, 1], [1, 1, 1]]),
    ('box', [[0, 0, 0], [1, 1, math.nan]]),
    ('box', 3),
  )
  def test_refuses_invalid_settings(self, name, value):
    self.assert_refused(
      f'{name}.*{value!r}'.replace('[', r'\['), ValueError, **{name: value}
    )

  def test_refuses_a_large_down_factor(self):
    self.assert_refused(
      r'down_factor=5 .*train/r_0\.png.*6x4', ValueError, down_factor=5
    )

  def test_refuses_a_missing_json_file(self):
    (self.scene / 'transforms_train.json').unlink()
    self.assert_refused(r'transforms_train\.json: no such file')

  @parameterized.named_parameters(
    ('json', '{\n"frames": [,]}', 'line 2 is not JSON'),
    ('empty', ' ', 'line 1 is not JSON'),
    ('list', '[]', 'must hold an object'),
    ('nested', '[' * 100_000, 'cannot be read'),
    ('no_angle', '{"frames": []}', 'has no camera_angle_x'),
    ('nan', '{"camera_angle_x": NaN}', 'camera_angle_x.*nan'),
    ('degrees', '{"camera_angle_x": 40}', 'camera_angle_x.*40'),
    ('zero', '{"camera_angle_x": 0.0}', 'camera_angle_x.*0.0'),
    ('text', '{"camera_angle_x": "1"}', "camera_angle_x.*'1'"),
    ('bool', '{"camera_angle_x": true}', 'camera_angle_x.*True'),
    ('huge', f'{{"camera_angle_x": 1{"0" * 400}}}', 'camera_angle_x'),
    ('no_frames', '{"camera_angle_x": 1}', 'frames must be a list'),
    ('empty_frames', '{"camera_angle_x": 1, "frames": []}', 'no frames'),
    ('frame', '{"camera_angle_x": 1, "frames": [3]}', r'frames\[0\].*3'),
  )
  def test_refuses_invalid_json(self, text, message):
    self.write_json('val', text)
    self.assert_refused(rf'transforms_val\.json: .*{message}')

  def test_refuses_json_in_another_encoding(self):
    path = self.scene / 'transforms_val.json'
    path.write_bytes(b'{"\xff": 1}')
    self.assert_refused(r'transforms_val\.json: cannot be read')

  @parameterized.named_parameters(
    ('none', None, 'must be a name, got nothing'),
    ('empty', '', 'a name'),
    ('number', 3, 'a name, got 3'),
    ('absolute', '/etc/x', 'must be inside'),
    ('up', '../x', 'must be inside'),
    ('down_and_up', 'a/../../x', 'must be inside'),
  )
  def test_refuses_an_invalid_file_path(self, name, message):
    self.write_frame('test', file_path=name)
    self.assert_refused(
      rf'transforms_test\.json: frames\[0\]\.file_path .*{message}'
    )

  @parameterized.parameters('x\0y', 'x' * 5000, 'gone')
  def test_refuses_names_that_cannot_be_files(self, name):
    self.write_frame('train', file_path=name)
    self.assert_refused('no such image .*transforms_train.json')

  @parameterized.named_parameters(
    ('none', None, 'got nothing'),
    ('flat', [1.0] * 16, '4 rows'),
    ('text', [['1'] * 4] * 4, '4 rows'),
    ('ragged', [[1.0], []], '4 rows'),
    ('small', np.eye(3).tolist(), '4 rows'),
    ('list', [], '4 rows'),
    ('bools', [[True] * 4] * 4, 'finite numbers'),
    ('nan', (math.nan * np.eye(4)).tolist(), 'finite numbers'),
    ('infinite', [[1e39] * 4] * 4, 'finite numbers'),
    ('huge', [[10**400] * 4] * 4, 'finite numbers'),
    ('scaled', np.diag([2, 2, 2, 1.0]).tolist(), 'differs.* by 3'),
    ('slightly', np.diag([1.002, 1, 1, 1.0]).tolist(), 'differs.*0.004'),
    ('sheared', (np.eye(4) + np.eye(4, k=1)).tolist(), 'rigid'),
    ('giant', (1e30 * np.eye(3, 4)).tolist(), 'differs'),
    ('zero', np.diag([0, 0, 0, 1.0]).tolist(), 'differs.* by 1'),
    ('mirrored', np.diag([1, -1, 1, 1.0]).tolist(), 'mirrors'),
    ('last_row', np.diag([1, 1, 1, 2.0]).tolist(), 'last row .*2.0'),
    ('transposed', _pose(1).T.tolist(), 'last row'),
  )
  def test_refuses_an_invalid_pose(self, value, message):
    self.write_frame('val', transform_matrix=value)
    self.assert_refused(
      r'transforms_val\.json: frames\[0\]\.transform_matrix \(of val/r_0\).*'
      f'{message}'
    )

  def test_accepts_a_pose_with_few_digits(self):
    pose = _pose(3).round(4)
    self.write_frame('val', transform_matrix=pose.tolist())
    np.testing.assert_allclose(
      self.load().val.cameras.camera_to_world[0], pose[:3], rtol=1e-6
    )

  def test_missing_images_are_counted(self):
    self.write('train', 5 * [_image(4, 6)])
    for index in (1, 2, 4):
      (self.scene / 'train' / f'r_{index}.png').unlink()
    self.assert_refused(r'train/r_1: no such image .*, and 2 more\.$')

  def test_one_missing_image_suggests_nothing(self):
    self.write('test', 5 * [_image(4, 6)])
    (self.scene / 'test' / 'r_1.png').unlink()
    self.assert_refused(r'test/r_1: no such image [^,]*(, \.\w+)*\)\.$')

  @parameterized.parameters(*_SPLITS)
  def test_broken_images_are_counted(self, split):
    self.write(split, 3 * [_image(32, 32)])
    for index in (1, 2):
      path = self.scene / split / f'r_{index}.png'
      path.write_bytes(path.read_bytes()[:1000])
    self.assert_refused(rf'{split}/r_1\.png: cannot be decoded.* And 1 more\.$')


if __name__ == '__main__':
  absltest.main()

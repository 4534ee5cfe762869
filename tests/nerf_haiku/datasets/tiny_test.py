import math
import pathlib
import tempfile
import zipfile

import chex
import numpy as np
from absl.testing import absltest, parameterized

from nerf_haiku import errors
from nerf_haiku.datasets import tiny
from tests.support import shared

_SETTINGS = {
  'num_train': 3,
  'testskip': 1,
  'down_factor': 1,
  'num_poses': 4,
  'near': 2.0,
  'far': 6.0,
  'box': None,
}


def _poses(number):
  """Quarter turns about z, and places that tell whose pose it is."""
  turned = np.array([[0, -1, 0, 0], [1, 0, 0, 2], [0, 0, 1, -3], [0, 0, 0, 1]])
  poses = np.stack([turned] * number).astype(np.float64)
  poses[:, 0, 3] = np.arange(number)
  return poses


def _levels(number=5, height=4, width=6, channels=3):
  """Gray levels, 0 and 255 among them."""
  rng = np.random.default_rng(0)
  levels = rng.integers(0, 256, (number, height, width, channels), np.uint8)
  levels[:, 0, 0], levels[:, 0, 1] = 0, 255
  return levels


def _fine(**shape):
  """Colors between gray levels."""
  rng = np.random.default_rng(1)
  return rng.uniform(0, 1, _levels(**shape).shape)


class _Bait:
  """Makes a file where it is unpickled."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self._path,)


class _SceneTest(chex.TestCase):
  """A test with a file `toy.npz` of five views in a folder of its own."""

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.root = pathlib.Path(folder.name)
    self.path = self.root / 'toy.npz'
    self.write()

  def write(self, **changes):
    """Writes the file; None leaves an array out."""
    arrays = {'images': _levels(), 'poses': _poses(5), 'focal': 7.5}
    arrays = {k: v for k, v in (arrays | changes).items() if v is not None}
    np.savez(self.path, **arrays)

  def load(self, shape='toy', data_dir=None, **changes):
    settings = {**_SETTINGS, **changes}
    return tiny.load(str(data_dir or self.root), shape, **settings)


class RealTest(chex.TestCase):
  def test_scene_equals_the_file(self):
    data = shared.folder('data')
    settings = {**_SETTINGS, 'num_train': 100}
    scene = tiny.load(str(data), 'tiny_nerf_data', **settings)
    with np.load(data / 'tiny_nerf_data.npz') as file:
      images, poses, focal = file['images'], file['poses'], file['focal']
    for split, first, last in ((scene.train, 0, 100), (scene.test, 100, 106)):
      self.assertLen(split.images, last - first)
      views = split.cameras
      np.testing.assert_array_equal(
        views.camera_to_world, poses[first:last, :3]
      )
      np.testing.assert_allclose(views.intrinsics[:, :2], focal, rtol=1e-6)
      np.testing.assert_array_equal(views.intrinsics[:, 2:], 50)
      np.testing.assert_array_equal(views.sizes, 100)
      for i, image in enumerate(split.images):
        colors = image / np.iinfo(image.dtype).max
        np.testing.assert_allclose(
          colors, images[first + i], rtol=0, atol=1 / 131070 + 1e-7
        )


class SceneTest(_SceneTest):
  def test_scene_has_the_given_settings(self):
    scene = self.load(num_poses=7, near=1.5, far=5.0, box=[[-1] * 3, [2] * 3])
    for split, first, last in ((scene.train, 0, 3), (scene.test, 3, 5)):
      number, views = last - first, split.cameras
      np.testing.assert_array_equal(
        views.camera_to_world, _poses(5)[first:last, :3]
      )
      np.testing.assert_array_equal(
        views.intrinsics, number * [[7.5, 7.5, 3, 2]]
      )
      np.testing.assert_array_equal(views.sizes, number * [[4, 6]])
      chex.assert_type([*views[:3]], [np.float32, np.float32, np.int32])
    chex.assert_trees_all_equal(scene.val.cameras, scene.test.cameras)
    chex.assert_trees_all_equal([*scene.val.images], [*scene.test.images])
    self.assertEqual((scene.near, scene.far), (1.5, 5.0))
    np.testing.assert_array_equal(scene.box, [[-1] * 3, [2] * 3])
    chex.assert_shape(scene.path.camera_to_world, (7, 3, 4))
    np.testing.assert_array_equal(scene.path.intrinsics, 7 * [[7.5, 7.5, 3, 2]])
    np.testing.assert_array_equal(scene.path.sizes, 7 * [[4, 6]])
    self.assertEqual(scene.notices, ())

  @parameterized.product(
    dtype=[np.uint8, np.float16, np.float32, np.float64, '>f4'], channels=[3, 4]
  )
  def test_8_bit_levels_are_kept_exactly(self, dtype, channels):
    levels = _levels(channels=channels)
    if dtype == np.float16:  # It holds few of the others.
      levels = np.where(levels > 127, 255, 0).astype(np.uint8)
    scale = 1 if dtype == np.uint8 else 255
    self.write(images=(levels / scale).astype(dtype))
    scene = self.load()
    self.assertEqual(scene.train.images.pixels.dtype, np.uint8)
    np.testing.assert_array_equal([*scene.train.images], levels[:3])
    np.testing.assert_array_equal([*scene.test.images], levels[3:])

  @parameterized.parameters(3, 4)
  def test_finer_colors_are_kept_in_16_bits(self, channels):
    images = _fine(channels=channels).astype(np.float32)
    self.write(images=images)
    train = self.load().train.images
    self.assertEqual(train.pixels.dtype, np.uint16)
    np.testing.assert_array_equal([*train], np.rint(images[:3] * 65535.0))

  def test_one_finer_color_is_enough(self):
    images = _levels() / 255
    images[4, 3, 5, 2] = 100.25 / 255
    self.write(images=images)
    scene = self.load()
    np.testing.assert_allclose(
      [*scene.test.images], images[3:] * 65535, rtol=0, atol=0.51
    )

  @parameterized.parameters(True, False)
  def test_clips_rounding_errors_beyond_the_range(self, whole):
    images = _levels() / 255 if whole else _fine()
    images[0, 0, 0], images[0, 0, 1] = -5e-5, 1 + 5e-5
    self.write(images=images)
    image = self.load().train.images[0]
    np.testing.assert_array_equal(image[0, 0], 0)
    np.testing.assert_array_equal(image[0, 1], 255 if whole else 65535)

  @parameterized.parameters(True, False)
  def test_downscales_by_averaging_blocks(self, whole):
    images = _levels() if whole else _fine()
    self.write(images=images)
    train = self.load(down_factor=2).train
    blocks = np.mean(images.reshape(5, 2, 2, 3, 2, 3), axis=(2, 4))
    np.testing.assert_allclose(
      [*train.images], blocks[:3] * (257 if whole else 65535), atol=0.51
    )
    self.assertEqual(train.images.pixels.dtype, np.uint16)
    np.testing.assert_array_equal(
      train.cameras.intrinsics, 3 * [[3.75, 3.75, 1.5, 1]]
    )
    np.testing.assert_array_equal(train.cameras.sizes, 3 * [[2, 3]])

  def test_downscales_by_the_real_ratio_of_each_axis(self):
    self.write(images=_levels(height=7, width=5))
    views = self.load(down_factor=3).train.cameras
    np.testing.assert_array_equal(views.sizes, 3 * [[2, 1]])
    np.testing.assert_allclose(
      views.intrinsics, 3 * [[7.5 / 5, 7.5 * 2 / 7, 0.5, 1]], rtol=1e-6
    )

  @parameterized.parameters(
    (1, 0, [1, 2, 3, 4]),
    (1, 1, [1, 2, 3, 4]),
    (1, 2, [1, 3]),
    (2, 2, [2, 4]),
    (4, 1, [4]),
    (1, 9, [1]),
  )
  def test_views_after_the_training_views_are_held_out(
    self, num_train, testskip, expected
  ):
    scene = self.load(num_train=num_train, testskip=testskip)
    for split, used in (
      (scene.train, range(num_train)),
      (scene.val, expected),
      (scene.test, expected),
    ):
      np.testing.assert_array_equal(
        split.cameras.camera_to_world[:, 0, 3], used
      )
      np.testing.assert_array_equal([*split.images], _levels()[[*used]])

  def test_accepts_a_file_a_folder_or_a_name_with_suffix(self):
    other = self.root / 'data of another name'
    other.write_bytes(self.path.read_bytes())
    for shape, place in (
      ('toy', self.root),
      ('toy.npz', self.root),
      ('lego', self.path),
      ('lego', other),
    ):
      self.assertLen(self.load(shape, place).train.images, 3)

  @parameterized.parameters([[7.5]], [np.float32(7.5)], [[[7.5]]])
  def test_accepts_a_focal_length_in_an_array(self, focal):
    self.write(focal=focal, more=np.zeros(3))
    views = self.load().train.cameras
    np.testing.assert_array_equal(views.intrinsics[:, :2], 7.5)

  def test_accepts_a_compressed_file_and_poses_of_three_rows(self):
    np.savez_compressed(
      self.path, images=_levels(), poses=_poses(5)[:, :3], focal=3
    )
    np.testing.assert_array_equal(
      self.load().train.cameras.camera_to_world, _poses(3)[:, :3]
    )


class ErrorsTest(_SceneTest):
  def assert_refused(self, message, error=errors.DataError, **changes):
    with self.assertRaisesRegex(error, message):
      self.load(**changes)

  @parameterized.parameters(
    ('testskip', -1),
    ('down_factor', 0),
    ('num_poses', 0),
    ('near', 6.0),
    ('far', math.inf),
    ('box', 3),
  )
  def test_refuses_invalid_settings(self, name, value):
    self.assert_refused(f'{name}.*{value}', ValueError, **{name: value})

  def test_refuses_a_large_down_factor(self):
    message = r'down_factor=5 .*toy\.npz \(6x4 pixels\)'
    self.assert_refused(message, ValueError, down_factor=5)

  @parameterized.parameters(5, 6)
  def test_refuses_too_few_views(self, num_train):
    self.assert_refused(
      rf'toy\.npz: holds 5 views.*num_train={num_train} ', num_train=num_train
    )

  @parameterized.parameters(0, -1, 2.5, True, '3')
  def test_refuses_an_invalid_num_train(self, num_train):
    self.assert_refused(
      f'num_train.*{num_train!r}', ValueError, num_train=num_train
    )

  @parameterized.parameters('tyo', '', 'x\0y')
  def test_refuses_a_missing_file(self, shape):
    np.savez(self.root / 'ship.npz', a=1)
    self.assert_refused(r'\.npz: no such file.*scenes: ship, toy', shape=shape)

  def test_refuses_an_empty_folder(self):
    self.path.unlink()
    self.assert_refused(r'toy\.npz: no such file.*Available scenes: none')

  @parameterized.parameters('/gone', '~no such user/x')
  def test_refuses_a_missing_data_dir(self, name):
    self.assert_refused(f'{name}.*folder', data_dir=name)

  @parameterized.parameters(
    b'', b'PK', b'no archive', b'\x93NUMPY', b'\x80\x04.'
  )
  def test_refuses_what_is_not_an_archive(self, content):
    self.path.write_bytes(content)
    self.assert_refused(r'toy\.npz: is not a \.npz file of plain arrays \(.+\)')

  def test_refuses_a_single_array(self):
    with self.path.open('wb') as file:
      np.save(file, _levels())
    self.assert_refused(r'toy\.npz: is not a \.npz file of plain arrays')

  @parameterized.parameters(0.1, 0.5, 0.99)
  def test_refuses_a_truncated_file(self, part):
    content = self.path.read_bytes()
    self.path.write_bytes(content[: int(part * len(content))])
    self.assert_refused(r'toy\.npz: is not a \.npz file of plain arrays')

  @parameterized.parameters((np.savez, 900), (np.savez_compressed, 100))
  def test_refuses_changed_bytes(self, save, place):
    save(self.path, images=_levels(99), poses=_poses(99), focal=3.0)
    content = bytearray(self.path.read_bytes())
    content[place : place + 100] = 100 * b'\xff'
    self.path.write_bytes(content)
    self.assert_refused(r'toy\.npz: is not a \.npz file of plain arrays')

  @parameterized.parameters('images', 'poses', 'focal')
  def test_refuses_a_missing_array(self, key):
    self.write(**{key: None})
    self.assert_refused(
      rf"toy\.npz: has no array '{key}'; .* images, poses, focal"
    )

  @parameterized.parameters('images', 'images.npy')
  def test_refuses_what_is_not_an_array(self, name):
    self.write(images=None)
    with zipfile.ZipFile(self.path, 'a') as file:
      file.writestr(name, 'no array')
    self.assert_refused(r'toy\.npz: .*images')

  @parameterized.parameters('images', 'poses', 'focal')
  def test_nothing_is_unpickled(self, key):
    made = self.root / 'made'
    self.write(**{key: np.array([_Bait(made)], object)})
    self.assert_refused(
      r'toy\.npz: is not a \.npz file of plain arrays .*save it'
    )
    self.assertFalse(made.exists())
    with np.load(self.path, allow_pickle=True) as file:
      file[key]
    self.assertTrue(made.exists())  # As it would have been.

  @parameterized.named_parameters(
    ('one', _levels()[0], r'got \[4, 6, 3\]'),
    ('none', _levels()[:0], r'got \[0, 4, 6, 3\]'),
    ('empty', np.zeros((5, 0, 6, 3)), r'got \[5, 0, 6, 3\]'),
    ('gray', _levels(channels=1), r'got \[5, 4, 6, 1\]'),
    ('number', np.array(3.0), r'got \[\]'),
    ('whole', _levels().astype(int), 'floats or uint8, got int64'),
    ('complex', _levels() * 1j, 'floats or uint8, got complex128'),
    ('text', _levels().astype(str), 'floats or uint8, got <U'),
  )
  def test_refuses_invalid_images(self, images, message):
    self.write(images=images)
    self.assert_refused(rf'toy\.npz: images must be .*{message}')

  @parameterized.parameters(
    (1.01, '0 to 1.01'),
    (-0.01, '-0.01 to 1'),
    (255.0, '0 to 255'),
    (math.nan, 'nan to nan'),
    (math.inf, '0 to inf'),
    (-math.inf, '-inf to 1'),
  )
  def test_refuses_image_values_out_of_range(self, value, message):
    images = np.clip(_levels() / 255, 0, 1)
    images[3, 1, 2, 1] = value
    self.write(images=images)
    self.assert_refused(rf'images\[3\] must be within \[0, 1\], got {message}')

  @parameterized.named_parameters(
    ('fewer', _poses(4), r'for the 5 images, got \[4, 4, 4\]'),
    ('more', _poses(6), r'for the 5 images, got \[6, 4, 4\]'),
    ('flat', _poses(5).reshape(5, 16), r'got \[5, 16\]'),
    ('rotations', _poses(5)[:, :3, :3], r'poses\[0\] must be 4 rows'),
    ('text', _poses(5).astype(str), r'poses\[0\] must be 4 rows'),
    ('llff', np.zeros((5, 3, 5)), r'poses\[0\] must be 4 rows'),
  )
  def test_refuses_invalid_poses(self, poses, message):
    self.write(poses=poses)
    self.assert_refused(rf'toy\.npz: .*{message}')

  @parameterized.parameters(
    (math.nan, 'finite'),
    (math.inf, 'finite'),
    (1e39, 'finite'),
    (3.0, 'not a rigid motion'),
    (1.0, 'mirrors'),
  )
  def test_refuses_invalid_pose_values(self, value, message):
    poses = _poses(5)
    poses[2, 0, 1] = value
    self.write(poses=poses)
    self.assert_refused(rf'toy\.npz: poses\[2\] .*{message}')

  @parameterized.parameters(
    (0.0, '0.0'),
    (-7.5, '-7.5'),
    (math.nan, 'nan'),
    (math.inf, 'inf'),
    ([7.5, 7.5], r'\[7.5, 7.5\]'),
    ([], r'\[\]'),
    ('7.5', "'7.5'"),
    (True, 'True'),
    (1j, '1j'),
  )
  def test_refuses_an_invalid_focal_length(self, focal, message):
    self.write(focal=focal)
    self.assert_refused(
      rf'toy\.npz: focal must be one number over 0.*got {message}\.$'
    )


if __name__ == '__main__':
  absltest.main()

import json
import pathlib
import tempfile

import chex
import imageio.v3 as iio
import numpy as np
from absl.testing import parameterized

from nerf_haiku import camera_paths, cameras, scenes
from nerf_haiku.datasets import blender, deepvoxels, llff, tiny, writers
from nerf_haiku.datasets.procedural import photographs

_FOCAL_OF_WIDTH = 1.25  # Focal length over width.
_RADIUS = 3.6  # Of the sphere that the built-in scene's cameras are on.
_NEAR, _FAR = 2.0, 6.0


def _split(sizes, channels, *, first=0.0, dtype=np.uint8):
  sizes = np.array(sizes)
  rng = np.random.default_rng(int(first))
  pixels = rng.integers(0, 255, (np.sum(np.prod(sizes, 1)), channels), dtype)
  poses = [
    camera_paths.sphere_pose(first + 10 * i, -30.0, 4.0)
    for i in range(len(sizes))
  ]
  views = cameras.pinhole(np.stack(poses), sizes, _FOCAL_OF_WIDTH * sizes[:, 1])
  return scenes.Split(scenes.Images(pixels, sizes), views)


def _scene(**settings):
  parts = {
    'train': _split([(4, 6), (8, 12), (5, 6)], 4),
    'val': _split([(4, 6)], 4, first=50.0),
    'test': _split([(4, 6)] * 12, 3, first=100.0),
    'near': 2.0,
    'far': 6.0,
    'box': None,
    'notices': (),
  }
  parts['path'] = parts['val'].cameras
  return scenes.Scene(**(parts | settings))


class _WriterTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name) / 'new' / 'scene'


class WriteBlenderTest(_WriterTest):
  @parameterized.parameters('train', 'val', 'test')
  def test_written_scene_is_read_back(self, name):
    scene = _scene()
    writers.write_blender(scene, self.folder)
    split = getattr(scene, name)
    text = (self.folder / f'transforms_{name}.json').read_text()
    read = json.loads(text)
    self.assertLen(read['frames'], len(split.images))
    for i, frame in enumerate(read['frames']):
      self.assertEqual(frame['file_path'], f'./{name}/r_{i}')
      image = iio.imread(self.folder / f'{frame["file_path"]}.png')
      np.testing.assert_array_equal(image, split.images[i])
      pose = np.array(frame['transform_matrix'])
      np.testing.assert_array_equal(pose[3], [0, 0, 0, 1])
      np.testing.assert_array_equal(
        pose[:3].astype(np.float32), split.cameras.camera_to_world[i]
      )
      focal = 0.5 * image.shape[1] / np.tan(0.5 * read['camera_angle_x'])
      np.testing.assert_allclose(
        split.cameras.intrinsics[i, :2], focal, rtol=1e-6
      )

  def test_writes_an_empty_split(self):
    empty = scenes.Split(
      scenes.Images(np.zeros((0, 4), np.uint8), np.zeros((0, 2))),
      cameras.pinhole(np.zeros((0, 3, 4)), np.zeros((0, 2)), np.zeros(0)),
    )
    writers.write_blender(_scene(val=empty), self.folder)
    read = json.loads((self.folder / 'transforms_val.json').read_text())
    self.assertEqual(read['frames'], [])
    self.assertAlmostEqual(read['camera_angle_x'], 2 * np.arctan(0.4), places=6)

  @parameterized.parameters(
    (0, 1.01, 'angle of view'), (1, 1.01, 'square'), (2, 1.2, 'central')
  )
  def test_refuses_cameras(self, which, factor, message):
    split = _split([(4, 6), (4, 6)], 4)
    split.cameras.intrinsics[1, which] *= factor
    with self.assertRaisesRegex(ValueError, message):
      writers.write_blender(_scene(train=split), self.folder)

  def test_refuses_16_bit_images(self):
    split = _split([(4, 6)], 4, dtype=np.uint16)
    with self.assertRaisesRegex(ValueError, 'uint16'):
      writers.write_blender(_scene(train=split), self.folder)


class ReadBackTest(_WriterTest):
  """The built-in scene, written and then read by the reader of the layout."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.scene = photographs.make_scene(
      seed=0,
      size=(12, 16),
      num_train=6,
      num_val=3,
      num_test=4,
      num_poses=2,
      near=_NEAR,
      far=_FAR,
    )

  def assert_same(self, read, written, *, background=None):
    """Poses alike, lenses too; colors as stored, or over a background."""
    chex.assert_trees_all_close(read.cameras, written.cameras, rtol=1e-6)
    self.assertLen(read.images, len(written.images))
    for i in range(len(read.images)):
      image, expected = read.images[i], written.images[i]
      if background is None:
        np.testing.assert_array_equal(image, expected)
        continue
      opacity = expected[..., 3:] / 255
      colors = opacity * expected[..., :3] / 255
      colors += (1 - opacity) * background
      most = np.iinfo(image.dtype).max
      np.testing.assert_allclose(image / most, colors, atol=0.501 / most)

  def test_blender_scene_is_read_back(self):
    writers.write_blender(self.scene, self.folder)
    read = blender.load(
      str(self.folder),
      'scene',
      testskip=1,
      down_factor=1,
      num_poses=1,
      near=_NEAR,
      far=_FAR,
      box=None,
    )
    self.assert_same(read.train, self.scene.train)
    self.assert_same(read.val, self.scene.val)
    self.assert_same(read.test, self.scene.test)

  def test_deepvoxels_scene_is_read_back(self):
    writers.write_deepvoxels(self.scene, self.folder, 'still_life')
    read = deepvoxels.load(
      str(self.folder), 'still_life', testskip=1, down_factor=1
    )
    self.assert_same(read.train, self.scene.train, background=1.0)
    self.assert_same(read.val, self.scene.val, background=1.0)
    self.assert_same(read.test, self.scene.test, background=1.0)
    self.assertAlmostEqual(read.near, _RADIUS - 1, places=5)
    self.assertAlmostEqual(read.far, _RADIUS + 1, places=5)

  def test_tiny_scene_is_read_back(self):
    writers.write_tiny(self.scene, self.folder / 'still_life.npz')
    read = tiny.load(
      str(self.folder),
      'still_life',
      num_train=6,
      testskip=1,
      down_factor=1,
      num_poses=1,
      near=_NEAR,
      far=_FAR,
    )
    self.assertEqual(read.train.images.pixels.dtype, np.uint16)
    self.assert_same(read.train, self.scene.train, background=0.0)
    self.assert_same(read.test, self.scene.test, background=0.0)

  def test_llff_scene_is_read_back(self):
    """Cameras on a sphere about the origin: spherified, its radius is 1."""
    writers.write_llff(self.scene, self.folder)
    read = llff.load(
      str(self.folder),
      'scene',
      down_factor=1,
      hold=4,
      spherify=True,
      num_poses=1,
    )
    images = [*self.scene.train.images, *self.scene.test.images]
    written = cameras.concatenate(
      [self.scene.train.cameras, self.scene.test.cameras]
    )
    # Every fourth view is held out.
    order = [1, 2, 3, 5, 6, 7, 9, 0, 4, 8]
    found = cameras.take(
      cameras.concatenate([read.train.cameras, read.test.cameras]),
      np.argsort(order),
    )
    poses, expected = found[0], written[0]
    np.testing.assert_allclose(
      np.einsum('aji,bjk->abik', poses[..., :3], poses[..., :3]),
      np.einsum('aji,bjk->abik', expected[..., :3], expected[..., :3]),
      atol=1e-5,
    )
    # Seen from its own axes, the origin is straight ahead of each camera.
    np.testing.assert_allclose(
      np.einsum('aji,aj->ai', poses[..., :3], poses[..., 3]),
      np.tile([0.0, 0.0, 1.0], (10, 1)),
      atol=1e-5,
    )
    np.testing.assert_allclose(found[1], written[1], rtol=1e-6)
    np.testing.assert_array_equal(found[2], written[2])
    self.assertAlmostEqual(read.near, 0.9 * _NEAR / _RADIUS, places=5)
    self.assertAlmostEqual(read.far, _FAR / _RADIUS, places=5)
    for i, image in enumerate((*read.train.images, *read.test.images)):
      np.testing.assert_array_equal(image, images[order[i]])

  def test_deepvoxels_keeps_an_off_center_axis(self):
    """Of these layouts only DeepVoxels stores it."""
    train, val, test = (
      scenes.Split(
        split.images,
        split.cameras._replace(
          intrinsics=split.cameras.intrinsics + np.float32([0, 0, 1.5, -2.25])
        ),
      )
      for split in (self.scene.train, self.scene.val, self.scene.test)
    )
    scene = self.scene._replace(train=train, val=val, test=test)
    writers.write_deepvoxels(scene, self.folder, 'off')
    read = deepvoxels.load(str(self.folder), 'off', testskip=1, down_factor=1)
    self.assert_same(read.val, val, background=1.0)

  def test_order_of_many_views_is_kept(self):
    train, test = _split([(1, 1)] * 1000, 3), _split([(1, 1)], 3, first=7.0)
    scene = _scene(train=train, val=test, test=test)
    writers.write_llff(scene, self.folder)
    last = sorted((self.folder / 'images').iterdir())[-1]
    np.testing.assert_array_equal(iio.imread(last), test.images[0])


def _write_deepvoxels(scene, folder):
  writers.write_deepvoxels(scene, folder, 'toy')


class RefusedTest(_WriterTest):
  """Scenes that layouts with one lens cannot represent."""

  def assert_refused(self, write, splits, message):
    scene = _scene(**dict(zip(('train', 'val', 'test'), splits, strict=True)))
    with self.assertRaisesRegex(ValueError, message):
      write(scene, self.folder / 'toy')

  @parameterized.parameters(
    writers.write_blender, writers.write_llff, _write_deepvoxels
  )
  def test_refuses_distorted_lenses(self, write):
    splits = [_split([(4, 6)] * 2, 3) for _ in range(3)]
    views = cameras.with_lenses(splits[1].cameras)
    splits[1] = splits[1]._replace(cameras=views)
    self.assert_refused(write, splits, 'without distortion')

  @parameterized.product(
    write=[writers.write_llff, _write_deepvoxels, writers.write_tiny],
    which=[0, 1, 2],
  )
  def test_refuses_different_sizes(self, write, which):
    splits = [_split([(4, 6)] * 2, 3) for _ in range(3)]
    splits[which] = _split([(4, 6), (6, 4)], 3)
    self.assert_refused(write, splits, 'one lens and one size')

  @parameterized.product(
    write=[writers.write_llff, _write_deepvoxels, writers.write_tiny],
    field=[0, 1, 2, 3],
  )
  def test_refuses_different_intrinsics(self, write, field):
    splits = [_split([(4, 6)] * 2, 3) for _ in range(3)]
    splits[2].cameras.intrinsics[1, field] *= 1.01
    self.assert_refused(write, splits, 'one lens and one size')

  @parameterized.parameters(
    (writers.write_llff, 1, 'square'),
    (_write_deepvoxels, 1, 'square'),
    (writers.write_tiny, 1, 'square'),
    (writers.write_llff, 2, 'central'),
    (writers.write_llff, 3, 'central'),
    (writers.write_tiny, 2, 'central'),
    (writers.write_tiny, 3, 'central'),
  )
  def test_refuses_unsupported_intrinsics(self, write, field, message):
    splits = [_split([(4, 6)] * 2, 3) for _ in range(3)]
    for split in splits:
      split.cameras.intrinsics[:, field] *= 1.01
    self.assert_refused(write, splits, message)

  @parameterized.parameters(writers.write_llff, _write_deepvoxels)
  def test_refuses_16_bit_images(self, write):
    splits = [_split([(4, 6)] * 2, 3, dtype=np.uint16) for _ in range(3)]
    self.assert_refused(write, splits, 'uint16')

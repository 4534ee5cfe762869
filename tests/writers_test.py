import json
import pathlib
import tempfile

import imageio.v3 as iio
import numpy as np
from absl.testing import parameterized

from nerf_haiku import cameras, paths
from nerf_haiku.datasets import base, writers

_FOCAL_OF_WIDTH = 1.25  # Focal length over width.


def _split(sizes, channels, *, first=0.0, dtype=np.uint8):
  sizes = np.array(sizes)
  rng = np.random.default_rng(int(first))
  pixels = rng.integers(0, 255, (np.sum(np.prod(sizes, 1)), channels), dtype)
  poses = [
    paths.sphere_pose(first + 10 * i, -30.0, 4.0) for i in range(len(sizes))
  ]
  views = cameras.pinhole(np.stack(poses), sizes, _FOCAL_OF_WIDTH * sizes[:, 1])
  return base.Split(base.Images(pixels, sizes), views)


def _scene(**settings):
  parts = {
    'train': _split([(4, 6), (8, 12), (5, 6)], 4),
    'val': _split([(4, 6)], 4, first=50.0),
    'test': _split([(4, 6)] * 12, 3, first=100.0),
    'near': 2.0, 'far': 6.0, 'box': None, 'notices': (),
  }  # fmt: skip
  parts['path'] = parts['val'].cameras
  return base.Scene(**(parts | settings))


class WriteBlenderTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name) / 'new' / 'scene'

  @parameterized.parameters('train', 'val', 'test')
  def test_reads_back(self, name):
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

  def test_empty_split(self):
    empty = base.Split(
      base.Images(np.zeros((0, 4), np.uint8), np.zeros((0, 2))),
      cameras.pinhole(np.zeros((0, 3, 4)), np.zeros((0, 2)), np.zeros(0)),
    )
    writers.write_blender(_scene(val=empty), self.folder)
    read = json.loads((self.folder / 'transforms_val.json').read_text())
    self.assertEqual(read['frames'], [])
    self.assertAlmostEqual(read['camera_angle_x'], 2 * np.arctan(0.4), places=6)

  @parameterized.parameters(
    (0, 1.01, 'angle of view'), (1, 1.01, 'square'), (2, 1.2, 'central'),
  )  # fmt: skip
  def test_refuses_cameras(self, which, factor, message):
    split = _split([(4, 6), (4, 6)], 4)
    split.cameras.intrinsics[1, which] *= factor
    with self.assertRaisesRegex(ValueError, message):
      writers.write_blender(_scene(train=split), self.folder)

  def test_refuses_fine_images(self):
    split = _split([(4, 6)], 4, dtype=np.uint16)
    with self.assertRaisesRegex(ValueError, 'uint16'):
      writers.write_blender(_scene(train=split), self.folder)

"""Cameras that are written are those that readers and COLMAP find."""

import pathlib

import chex
import numpy as np
import pycolmap
from absl.testing import parameterized

from nerf_haiku import cameras, errors
from nerf_haiku.datasets import camera_writers, colmap_files
from nerf_haiku.datasets import colmap as colmap_reader
from nerf_haiku.datasets import transforms as transforms_reader
from tests.support import captures

_SIZE = (captures.HEIGHT, captures.WIDTH)


def _cameras(count=8, **changes):
  cams = cameras.Cameras(
    camera_to_world=captures.poses(count)[:, :3],
    intrinsics=np.tile(
      np.array([[*captures.FOCAL, *captures.CENTER]], np.float32), (count, 1)
    ),
    sizes=np.tile(np.array([_SIZE], np.int32), (count, 1)),
  )
  return cams._replace(**changes)


def _distorted(values, count=8, fisheye=False):
  return {
    'distortion': np.tile(np.array([values], np.float32), (count, 1)),
    'fisheye': np.full(count, fisheye),
  }


class WritersTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.names = captures.names(8)
    captures.write_photos(self.folder / 'images', self.names)

  @parameterized.parameters(
    {},
    _distorted([0.02, -0.01, 0.0, 0.0, 0.003, -0.002]),
    _distorted([0.02, -0.01, 0.004, 0.0, 0.003, -0.002]),
    _distorted([0.02, -0.01, 0.004, -0.001, 0.0, 0.0], fisheye=True),
  )
  def test_our_readers_get_them_back(self, **lens):
    cams = _cameras(**lens)
    folder = self.folder / 'sparse' / '0'
    folder.mkdir(parents=True)
    camera_writers.write_colmap(folder, cams, self.names, pixel_center=True)
    camera_writers.write_transforms(
      self.folder / 'transforms.json',
      cams,
      [f'images/{name}' for name in self.names],
      pixel_center=True,
    )
    for reader in (colmap_reader, transforms_reader):
      scene = reader.load(
        str(self.folder), '', down_factor=1, num_poses=4, holdout=0
      )
      order = [
        self.names.index(name.removeprefix('images/'))
        for name in scene.train.names
      ]
      read, given = scene.train.cameras, cameras.take(cams, order)
      np.testing.assert_allclose(
        read.camera_to_world, given.camera_to_world, atol=1e-6
      )
      np.testing.assert_allclose(read.intrinsics, given.intrinsics, rtol=1e-6)
      np.testing.assert_array_equal(read.sizes, given.sizes)
      if lens:
        np.testing.assert_allclose(read.distortion, given.distortion, atol=1e-7)
        np.testing.assert_array_equal(read.fisheye, given.fisheye)

  @parameterized.parameters(True, False)
  def test_pycolmap_projects_as_we_do(self, pixel_center):
    lens = _distorted([0.02, -0.01, 0.0, 0.0, 0.003, -0.002])
    cams = _cameras(**lens)
    # COLMAP ends a name in a text file at a space.
    names = [name.replace(' ', '_') for name in self.names]
    camera_writers.write_colmap(
      self.folder, cams, names, pixel_center=pixel_center
    )
    model = pycolmap.Reconstruction(str(self.folder))
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3))
    for image in model.images.values():
      index = names.index(image.name)
      expected, _ = cameras.project(
        cams, np.full(20, index, np.int32), points.astype(np.float32)
      )
      local = image.cam_from_world() * points
      found = model.cameras[image.camera_id].img_from_cam(local)
      shift = 0.0 if pixel_center else 0.5
      np.testing.assert_allclose(
        found[:, ::-1], np.asarray(expected) + shift, atol=1e-3
      )
    self.assertLen(model.cameras, 1)

  def test_points_come_back(self):
    names = [name.replace(' ', '_') for name in self.names]
    points = np.random.default_rng(0).uniform(-1e6, 1e6, (5, 3))
    colors = np.arange(15, dtype=np.uint8).reshape(5, 3)
    camera_writers.write_colmap(
      self.folder,
      _cameras(),
      names,
      pixel_center=True,
      points=points,
      colors=colors,
    )
    model = pycolmap.Reconstruction(str(self.folder))
    read = [model.points3D[i] for i in range(1, 6)]
    np.testing.assert_array_equal([x.xyz for x in read], points)
    np.testing.assert_array_equal([x.color for x in read], colors)
    ours = colmap_files.read_points(self.folder / 'points3D.txt')
    np.testing.assert_array_equal(ours, points)

  @parameterized.parameters(
    _distorted([0.1, 0.0, 0.0, 0.02, 0.0, 0.0]),
    _distorted([0.1, 0.0, 0.0, 0.0, 0.01, 0.0], fisheye=True),
  )
  def test_lenses_that_colmap_has_not(self, **lens):
    with self.assertRaisesRegex(
      errors.DataError, 'left cam/1.png: COLMAP has no lens'
    ):
      camera_writers.write_colmap(
        self.folder, _cameras(**lens), self.names, pixel_center=True
      )
    self.assertFalse((self.folder / 'cameras.txt').exists())

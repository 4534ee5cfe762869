"""Faults and choices of captures with a model, through the loader."""

import math
import struct

import numpy as np
from absl.testing import absltest, parameterized

from nerf_haiku import errors
from tests.nerf_haiku.datasets import captures_test
from tests.support import captures, colmap


class ColmapTest(captures_test.CaptureTest):
  def load(self, **changes):
    return super().load('colmap', **changes)

  def refused(self, message, **changes):
    with self.assertRaisesRegex(errors.DataError, message):
      self.load(**changes)

  @parameterized.parameters('images', 'input', 'photos', '')
  def test_folders_of_photographs(self, place):
    captures.write_colmap(self.folder, captures.names(3), captures.poses(3))
    captures.write_photos(self.folder / place, captures.names(3))
    names = self.load().train.names
    self.assertEqual(names[0], f'{place}/left cam/2.png'.removeprefix('/'))

  def test_a_folder_of_a_data_set(self):
    captures.write(self.folder / 'room')
    self.assertLen(self.load(shape='room').train.images, 8)
    with self.assertRaisesRegex(errors.DataError, 'Available scenes: room'):
      self.load(shape='hall')

  def test_photographs_without_a_pose(self):
    captures.write(self.folder, 12)
    captures.write_colmap(self.folder, captures.names(4), captures.poses(4))
    (self.folder / 'images' / 'notes.txt').write_text('no photograph')
    (self.folder / 'images' / '._1.png').write_bytes(b'made by a Mac')
    scene = self.load()
    (notice,) = [x for x in scene.notices if 'no pose' in x]
    self.assertRegex(
      notice, "^8 of 12 .* left out: 'left cam/10.png', 'left cam/11.png'"
    )

  @parameterized.parameters('../../../x.png', 'a/../../../../x.png')
  def test_a_name_that_leads_out(self, name):
    captures.write(self.folder, 3)
    captures.write_colmap(
      self.folder, [name, *captures.names(2)], captures.poses(3)
    )
    self.refused(r"sparse/0: the image '.*x.png' leads out of the folder")

  def test_a_truncated_file(self):
    captures.write(self.folder, 3)
    path = self.folder / 'sparse' / '0' / 'images.bin'
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    self.refused(r'images.bin: .*byte \d+')

  @parameterized.parameters('cameras', 'images', 'points3D')
  def test_counts_that_no_file_can_hold(self, name):
    captures.write(self.folder, 3)
    path = self.folder / 'sparse' / '0' / f'{name}.bin'
    path.write_bytes(colmap.records(path.read_bytes()[8:], count=2**63))
    self.refused(rf'{name}.bin: .*9223372036854775808')

  def test_poses_that_are_no_numbers(self):
    captures.write(self.folder, 3)
    path = self.folder / 'sparse' / '0' / 'images.bin'
    content = bytearray(path.read_bytes())
    struct.pack_into('<d', content, 44, math.nan)  # After id and quaternion.
    path.write_bytes(content)
    self.refused("translation of image 'left cam/1.png' must be 3 finite")

  def test_no_registered_image(self):
    captures.write(self.folder, 3)
    path = self.folder / 'sparse' / '0' / 'images.bin'
    path.write_bytes(colmap.records())
    self.refused('there are no registered images')

  def test_a_lens_that_is_not_supported(self):
    captures.write(self.folder, 3)
    camera = colmap.camera(
      model=7, width=12, height=8, params=(9, 9, 6, 4, 0.3)
    )
    captures.write_colmap(
      self.folder, captures.names(3), captures.poses(3), cameras=[camera]
    )
    self.refused('of model FOV, which is not read: undistort .* image_undist')

  def test_two_cameras_of_one_id(self):
    captures.write(self.folder, 3)
    captures.write_colmap(
      self.folder,
      captures.names(3),
      captures.poses(3),
      cameras=[colmap.camera(), colmap.camera()],
    )
    self.refused('two cameras have the id 1')

  def test_a_lens_that_folds(self):
    captures.write(self.folder, 3)
    camera = colmap.camera(
      model=3, width=12, height=8, params=(9, 6, 4, -3.0, 0.0)
    )
    captures.write_colmap(
      self.folder, captures.names(3), captures.poses(3), cameras=[camera]
    )
    self.refused('distortion of images/left cam/.*png cannot be inverted')

  def test_distortion_is_kept(self):
    captures.write(self.folder, 3)
    camera = colmap.camera(
      model=4, width=12, height=8, params=(9, 9, 6, 4, 0.1, 0.2, 0.03, 0.04)
    )
    captures.write_colmap(
      self.folder, captures.names(3), captures.poses(3), cameras=[camera]
    )
    cams = self.load().train.cameras
    np.testing.assert_allclose(
      cams.distortion[0], (0.1, 0.2, 0, 0, 0.03, 0.04), rtol=1e-6
    )


if __name__ == '__main__':
  absltest.main()

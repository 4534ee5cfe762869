"""Faults of the readers that generated bad input once uncovered."""

import json
import os
import pathlib
import shutil
import tempfile
from unittest import mock

import chex
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from nerf_haiku import errors
from nerf_haiku.datasets import image_files
from nerf_haiku.io import memory
from tests.support import bad_scenes, scene_faults

_TOY = bad_scenes.SHAPE


class _SceneTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.root = pathlib.Path(folder.name) / 'data'

  def write(self, name):
    self.layout = bad_scenes.LAYOUTS[name]
    self.layout.write(bad_scenes.make_scene(), self.root)
    self.views = self.layout.read(self.root)

  def assert_loads(self, **settings):
    scene = self.layout.load(self.root, **settings)
    problem = bad_scenes.compare(self.layout, scene, self.views)
    self.assertIsNone(problem)

  def assert_refused(self, message, error=errors.DataError, **settings):
    with self.assertRaisesRegex(error, message) as caught:
      self.layout.load(self.root, **settings)
    self.assertIs(type(caught.exception), error)


class LinksTest(_SceneTest):
  def move(self, path):
    """Puts a link in place of a file or folder of the scene."""
    moved = self.root.parent / 'moved'
    path.rename(moved)
    path.symlink_to(moved)

  @parameterized.parameters(
    ('blender', ''),
    ('blender', _TOY),
    ('blender', f'{_TOY}/train'),
    ('blender', f'{_TOY}/transforms_val.json'),
    ('llff', f'{_TOY}/images'),
    ('llff', f'{_TOY}/images/image000001.png'),
    ('deepvoxels', f'train/{_TOY}'),
    ('deepvoxels', f'test/{_TOY}/rgb'),
    ('tiny', f'{_TOY}.npz'),
  )
  def test_links_are_followed(self, name, path):
    self.write(name)
    self.move(self.root / path if path else self.root)
    self.assert_loads()

  @parameterized.parameters('train/r_1.png', 'train/more')
  def test_links_out_of_a_scene_need_permission(self, link):
    self.write('blender')
    folder = self.root / _TOY
    if link == 'train/more':
      (folder / link).mkdir()
      shutil.move(folder / 'train/r_1.png', folder / link / 'r_1.png')
      json_ = folder / 'transforms_train.json'
      json_.write_text(json_.read_text().replace('/r_1', '/more/r_1'))
    self.move(folder / link)
    self.assert_refused('r_1.png: is a link out of the scene.*follow_links')
    self.assert_loads(follow_links=True)

  def test_links_inside_a_scene_are_followed(self):
    self.write('blender')
    images = self.root / _TOY / 'train'
    (images / 'r_1.png').rename(images / 'kept.png')
    (images / 'r_1.png').symlink_to('kept.png')
    self.assert_loads()


class BlenderTest(_SceneTest):
  def test_an_image_has_one_pose(self):
    self.write('blender')
    path = self.root / _TOY / 'transforms_test.json'
    content = json.loads(path.read_text())
    content['frames'].append(dict(content['frames'][0]))
    path.write_text(json.dumps(content))
    self.assert_loads()
    content['frames'][1]['file_path'] = './test/r_0.png'
    path.write_text(json.dumps(content))
    self.assert_refused(r'transforms_test.json: .*r_0.png has two poses')

  @parameterized.parameters(1e-12, np.pi - 1e-9)
  def test_refuses_extreme_angles_of_view(self, angle):
    self.write('blender')
    path = self.root / _TOY / 'transforms_val.json'
    content = json.loads(path.read_text()) | {'camera_angle_x': angle}
    path.write_text(json.dumps(content))
    self.assert_refused('val.json: camera_angle_x=.* focal length of')


class ImagesTest(_SceneTest):
  @parameterized.parameters(
    (50_000, 50_000), (12_000, 12_000), (8_200, 8_200), (2**31 - 1, 2)
  )
  def test_checks_the_size_before_decoding(self, width, height):
    self.write('llff')
    path = self.root / _TOY / 'images' / 'image000002.png'
    # Decoding would end in another error: there are no pixels.
    path.write_bytes(scene_faults.png(width, height, b''))
    self.assert_refused('image000002.png: has .* pixels by its header; at most')

  def test_no_program_is_run(self):
    # Pillow knows PostScript, whatever the name, and would ask Ghostscript.
    self.write('deepvoxels')
    (self.root / 'test' / _TOY / 'rgb' / '000000.png').write_bytes(
      b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\n'
    )
    self.assert_refused('000000.png: is not an image of a supported format')

  def test_refuses_images_that_exceed_memory(self):
    self.write('blender')
    with mock.patch.object(memory, 'available', return_value=400):
      self.assert_refused('4 training images need.*set a larger down_factor')

  def test_loads_where_the_system_has_no_sysconf(self):
    # As on Windows.
    self.write('blender')
    sysconf = os.sysconf
    del os.sysconf
    self.addCleanup(setattr, os, 'sysconf', sysconf)
    self.assert_loads()

  def test_notices_can_print_names_that_are_not_unicode(self):
    name = os.fsdecode(b'\xff.png')
    path = pathlib.Path(self.root.parent / name)
    Image.new('L', (2, 2)).save(path)
    files = image_files.open_splits([[path]], down_factor=1)
    (notice,) = image_files.notices(files, path.parent)
    self.assertIn('\\udcff.png', notice.encode().decode())


class NamesTest(_SceneTest):
  def test_refuses_a_deepvoxels_shape_outside_the_split(self):
    self.write('deepvoxels')
    for shape in (str(self.root / 'train' / _TOY), f'../train/{_TOY}'):
      self.assert_refused('shape=.* is not a folder of train', shape=shape)


class NumbersTest(_SceneTest):
  def test_refuses_extreme_depths_of_llff(self):
    self.write('llff')
    path = self.root / _TOY / 'poses_bounds.npy'
    rows = np.load(path)
    rows[1, 15] = 1e-30
    np.save(path, rows)
    self.assert_refused('poses_bounds.npy: .* smallest depth, 1e-30')

  @parameterized.parameters('1e-30 6 8', '1e20 6 8', '7 1e-30 8', '7 6 1e20')
  def test_refuses_extreme_intrinsics_of_deepvoxels(self, text):
    self.write('deepvoxels')
    focal, height, width = text.split()
    path = self.root / 'train' / _TOY / 'intrinsics.txt'
    path.write_text(f'{focal} 4 3\n0 0 0\n1\n1\n{height} {width}\n')
    self.assert_refused('train/toy/intrinsics.txt: .* must be')

  @parameterized.parameters(1e-30, 1e20)
  def test_refuses_extreme_focal_lengths_of_tiny(self, focal):
    self.write('tiny')
    content = dict(np.load(self.root / f'{_TOY}.npz')) | {'focal': focal}
    np.savez(self.root / f'{_TOY}.npz', **content)
    self.assert_refused('toy.npz: focal: is a focal length of')

  @parameterized.parameters('blender', 'llff', 'tiny')
  def test_refuses_paths_of_too_many_poses(self, name):
    self.write(name)
    self.assert_refused(
      'num_poses must be at most 100000, got 100001',
      errors.UserError,
      num_poses=100_001,
    )


if __name__ == '__main__':
  absltest.main()

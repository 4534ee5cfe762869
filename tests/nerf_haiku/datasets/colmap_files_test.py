import os
import pathlib
import struct
import tempfile
from unittest import mock

import chex
import numpy as np
from absl.testing import absltest, parameterized

from nerf_haiku import errors
from nerf_haiku.datasets import colmap_files
from tests.support import colmap

_READERS = {
  'cameras': colmap_files.read_cameras,
  'images': colmap_files.read_images,
  'points3D': colmap_files.read_points,
}
_CAMERAS = colmap.records(
  colmap.camera(7, 4, 9, 8, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)),
  colmap.camera(2, 0, 5, 6, (1.0, 2.0, 3.0)),
)
_IMAGES = colmap.records(
  colmap.image(9, camera=7, name='b/ü 1.png'.encode(), num_points=3),
  colmap.image(4, range(1, 8), 2, num_points=0),
)
_POINTS = colmap.records(
  colmap.point(3), colmap.point(8, (4.0, 5.0, -6.5), 0), colmap.point(1)
)
_CAMERAS_TXT = (
  b'# Number of cameras: 2\r\n\r\n'
  b'7 OPENCV 9 8 1 2 3 4 5 6 7 8\r\n2 SIMPLE_PINHOLE\t5 6 1 2e0 3.0\r\n'
)
_IMAGES_TXT = (
  '\ufeff# Number of images: 2, mean observations: 1.5\n'
  '9 1 0 0 0 0.5 0.25 2 7 b/ü 1.png\n3.5 4e-3 -1 1 2 5  3 4 6\n'
  '\n4 1 2 3 4 5 6 7 2 a.png\n'
).encode()
_POINTS_TXT = (
  b'# Number of points: 3\n3 1 2 3 9 8 7 0.5 1 0 1 0\n'
  b'8 4 5 -6.5 9 8 7 -1\n1 1 2 3 9 8 7 0.5 1 0\n'
)


class _FilesTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def read(self, name, content):
    path = self.folder / name
    path.write_bytes(content)
    return _READERS[path.stem](path)

  def assert_refused(self, message, name, content):
    with self.assertRaisesRegex(
      errors.DataError, f'^{self.folder}/{name}: {message}'
    ) as context:
      self.read(name, content)
    self.assertNotIn('\n', str(context.exception))


class ContentTest(_FilesTest):
  """Files that were written by their definition, number by number."""

  @parameterized.parameters(
    ('cameras.bin', _CAMERAS, ('byte 8', 'byte 96')),
    ('cameras.txt', _CAMERAS_TXT, ('line 3', 'line 4')),
  )
  def test_cameras(self, name, content, places):
    first, second = (f'{self.folder}/{name}: {place}' for place in places)
    expected = {
      7: colmap_files.Camera(first, 'OPENCV', 9, 8, tuple(range(1, 9))),
      2: colmap_files.Camera(second, 'SIMPLE_PINHOLE', 5, 6, (1, 2, 3)),
    }
    self.assertEqual(self.read(name, content), expected)

  @parameterized.parameters(
    ('images.bin', _IMAGES, ('byte 8', 'byte 163')),
    ('images.txt', _IMAGES_TXT, ('line 2', 'line 5')),
  )
  def test_images(self, name, content, places):
    first, second = (f'{self.folder}/{name}: {place}' for place in places)
    expected = [
      colmap_files.Image(first, colmap.POSE, 7, 'b/ü 1.png'),
      colmap_files.Image(second, tuple(range(1, 8)), 2, 'a.png'),
    ]
    self.assertEqual(self.read(name, content), expected)

  @parameterized.parameters(
    ('points3D.bin', _POINTS), ('points3D.txt', _POINTS_TXT)
  )
  def test_points(self, name, content):
    points = self.read(name, content)
    np.testing.assert_array_equal(points, [[1, 2, 3], [4, 5, -6.5], [1, 2, 3]])
    self.assertEqual(points.dtype, np.float64)

  @parameterized.parameters(
    ('points3D.bin', colmap.records()), ('points3D.txt', b'# None.\n')
  )
  def test_no_points(self, name, content):
    self.assertEqual(self.read(name, content).shape, (0, 3))


class DamageTest(_FilesTest):
  """What no file should hold is one error, with its byte or line."""

  @parameterized.parameters(
    ('cameras.bin', _CAMERAS),
    ('images.bin', _IMAGES),
    ('points3D.bin', _POINTS),
  )
  def test_a_binary_file_may_be_cut_anywhere(self, name, content):
    self.read(name, content)
    for size in reversed(range(len(content))):
      os.truncate(self.folder / name, size)
      with self.assertRaisesRegex(
        errors.DataError, f'^{self.folder}/{name}: byte [0-9]+: '
      ):
        _READERS[name[:-4]](self.folder / name)

  @parameterized.parameters(
    ('cameras.bin', _CAMERAS),
    ('images.bin', _IMAGES),
    ('points3D.bin', _POINTS),
    ('cameras.txt', _CAMERAS_TXT),
    ('images.txt', _IMAGES_TXT),
    ('points3D.txt', _POINTS_TXT),
  )
  def test_any_byte_may_be_wrong(self, name, content):
    num_refused = 0
    for i in range(len(content)):
      for byte in (b'\xff', b'\n', b''):
        try:
          self.read(name, content[:i] + byte + content[i + 1 :])
        except errors.DataError as error:
          self.assertRegex(str(error), f'^{self.folder}/{name}: (byte|line) ')
          num_refused += 1
    self.assertGreater(num_refused, 0)

  @parameterized.parameters(
    ('cameras.txt', _CAMERAS_TXT),
    ('images.txt', _IMAGES_TXT),
    ('points3D.txt', _POINTS_TXT),
  )
  def test_a_text_file_may_be_cut_anywhere(self, name, content):
    # In numbers that are not used, or the last one, that cannot be noticed.
    num_refused = 0
    for size in range(len(content)):
      try:
        self.read(name, content[:size])
      except errors.DataError as error:
        self.assertRegex(str(error), f'^{self.folder}/{name}: line ')
        num_refused += 1
    self.assertGreater(num_refused, len(content) // 2)

  @parameterized.product(
    name=('cameras', 'images', 'points3D'), count=(3, 2**32, 2**63, 2**64 - 1)
  )
  def test_refuses_counts_that_the_file_cannot_hold(self, name, count):
    record = {
      'cameras': colmap.camera(),
      'images': colmap.image(),
      'points3D': colmap.point(),
    }[name]
    self.assert_refused(
      f'byte 0: {count} .* are declared, but [0-9]+ bytes follow',
      f'{name}.bin',
      colmap.records(record, count=count),
    )

  @parameterized.parameters(2**63, 2**60, 2**64 - 1, 3)
  def test_refuses_lists_that_the_file_cannot_hold(self, count):
    last = struct.pack('<Q', count)
    image = colmap.image(num_points=0)[:-8] + last
    # After the number of images, and 64 bytes and a name of 6.
    self.assert_refused(
      f'byte 78: {count} points in image 1 are declared, but 0 bytes follow',
      'images.bin',
      colmap.records(image),
    )
    point = colmap.point(length=0)[:-8] + last
    self.assert_refused(
      'byte 59: ends within the track of a point, which begins at byte 59',
      'points3D.bin',
      colmap.records(point),
    )

  @parameterized.parameters('cameras', 'images', 'points3D')
  def test_refuses_what_follows_the_records(self, name):
    content = {'cameras': _CAMERAS, 'images': _IMAGES, 'points3D': _POINTS}
    self.assert_refused(
      f'byte {len(content[name])}: .* 3 bytes follow',
      f'{name}.bin',
      content[name] + b'abc',
    )

  @parameterized.parameters(
    (b'', "'' is not the name"),
    (b'\xff.png', r"the name b'\\xff.png' is not UTF-8"),
    (b'a\xcc', 'is not UTF-8'),
    (b'x' * 4096, 'the name of image 1 has no end'),
  )
  def test_refuses_names(self, name, message):
    image = colmap.image(name=name)
    self.assert_refused(
      f'byte .*{message}', 'images.bin', colmap.records(image)
    )

  def test_refuses_a_name_without_an_end(self):
    image = struct.pack('<I7dI', 1, *colmap.POSE, 1) + b'x' * 30
    self.assert_refused(
      'byte 72: the name of image 1 has no end within 30 bytes',
      'images.bin',
      colmap.records(image),
    )

  def test_refuses_equal_ids(self):
    self.assert_refused(
      'byte 64: two cameras have the id 1',
      'cameras.bin',
      colmap.records(colmap.camera(), colmap.camera(width=3)),
    )
    self.assert_refused(
      'byte 134: two images have the id 1',
      'images.bin',
      colmap.records(colmap.image(), colmap.image(name=b'b')),
    )

  def test_refuses_more_records_than_any_model_has(self):
    content = colmap.records(colmap.camera(), colmap.camera(2))
    with mock.patch.object(colmap_files, '_MAX_RECORDS', 2):
      self.assertLen(self.read('cameras.bin', content), 2)
    with mock.patch.object(colmap_files, '_MAX_RECORDS', 1):
      self.assert_refused(
        'byte 64: there are more than 1 cameras', 'cameras.bin', content
      )

  @parameterized.parameters(-1, 18, 2**31 - 1)
  def test_refuses_unknown_camera_models(self, model):
    self.assert_refused(
      f'byte 8: camera 1 is of model {model}',
      'cameras.bin',
      colmap.records(colmap.camera(model=model)),
    )

  @parameterized.product(
    axis=(0, 1, 2),
    value=(np.nan, np.inf, -np.inf, 1e10, -1e10),
    suffix=('bin', 'txt'),
  )
  def test_refuses_points_that_are_nowhere(self, axis, value, suffix):
    position = np.insert([1.0, 2.0], axis, value)
    if suffix == 'bin':
      place = 'byte 75'
      content = colmap.records(colmap.point(), colmap.point(2, position))
    else:
      place = 'line 2'
      line = '2 {} {} {} 9 8 7 0.5 1 0\n'.format(*position)
      content = b'1 1 2 3 9 8 7 0.5\n' + line.encode()
    self.assert_refused(
      f'{place}: the point is not finite', f'points3D.{suffix}', content
    )

  @parameterized.parameters(
    (
      'cameras',
      '1 PINHOLE 64',
      'has 3 columns, but must have CAMERA_ID, MODEL',
    ),
    ('cameras', '1 PINHOLE 64 48 1 2 3', 'has 3 parameters, but PINHOLE has 4'),
    ('cameras', '1 PINHOLE 64 48 1 2 3 4 5', 'has 5 parameters'),
    ('cameras', f'1 PINHOLE 64 48{" 1" * 999}', 'has 29 parameters'),
    ('cameras', '1 PINHOLE 64 48 1 2 x 4', "cx must be a number, got 'x'"),
    ('cameras', '1 PINHOLE 64.5 48 1 2 3 4', 'WIDTH must be a whole number'),
    ('cameras', '1 PINHOLE 64 -8 1 2 3 4', "HEIGHT must be .* got '-8'"),
    ('cameras', f'1 PINHOLE 64 {"9" * 5000} 1 2 3 4', 'HEIGHT must be a whole'),
    ('cameras', 'x PINHOLE 64 48 1 2 3 4', 'CAMERA_ID must be a whole number'),
    ('cameras', '1 PINHOLES 64 48 1 2 3 4', "MODEL is 'PINHOLES'"),
    ('images', '1 1 0 0 0 0 0 0 1', 'has 9 columns, but must have IMAGE_ID'),
    ('images', '1 1 0 0 0 0 word 0 1 a.png', "TY must be .* got 'word'"),
    ('images', '1 1 0 0 0 0 0 0 -1 a.png', 'CAMERA_ID must be a whole number'),
    ('images', '1.5 1 0 0 0 0 0 0 1 a.png', 'IMAGE_ID must be a whole number'),
    ('images', '1 1 0 0 0 0 0 0 1 a\0b', r"'a\\x00b' is not the name"),
    ('points3D', '1 2 3 4 5 6 7', 'has 7 columns, but must have POINT3D_ID'),
    ('points3D', '1 2 y 4 5 6 7 8', "Y must be a number, got 'y'"),
    ('points3D', '1 2 3 4 red 6 7 8', "R must be a number, got 'red'"),
  )
  def test_refuses_lines(self, name, line, message):
    content = f'# Comment\n{line}\n'.encode()
    self.assert_refused(f'line 2: .*{message}', f'{name}.txt', content)

  @parameterized.parameters(
    '2 1 0 0 0 0 0 0 1 b.png', '3 4', '3 4 5 6', 'x y z', '# Comment'
  )
  def test_a_second_line_of_an_image_has_its_points(self, line):
    # Otherwise every second image would be lost where no line is empty.
    content = f'1 1 0 0 0 0 0 0 1 a.png\n{line}\n'.encode()
    self.assert_refused('line 2: must be the points', 'images.txt', content)

  @parameterized.parameters(
    ('cameras', _CAMERAS_TXT, 4),
    ('images', _IMAGES_TXT, 5),
    ('points3D', _POINTS_TXT, 4),
  )
  def test_refuses_fewer_lines_than_a_comment_declares(
    self, name, content, last
  ):
    cut = content.splitlines(keepends=True)[: last - 1]
    self.assert_refused(
      f'line {last - 1}: ends after [12] .* declares [23]',
      f'{name}.txt',
      b''.join(cut),
    )

  def test_refuses_a_file_that_is_not_text(self):
    self.assert_refused('line 1: ', 'images.txt', _IMAGES)
    self.assert_refused('line 1: ', 'cameras.txt', '1 PINHOLE'.encode('utf-16'))


if __name__ == '__main__':
  absltest.main()

import io
import os
import pathlib
import struct
import tempfile
import zipfile
from unittest import mock

import chex
import numpy as np
from absl.testing import absltest, parameterized

from nerf_haiku import errors
from nerf_haiku.datasets import image_files
from nerf_haiku.io import safe_reading


class _Bait:
  """Makes a file where it is unpickled."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self._path,)


def _npy(shape, content):
  """Returns a file whose header declares this shape, of float64."""
  file = io.BytesIO()
  header = {'descr': '<f8', 'fortran_order': False, 'shape': shape}
  np.lib.format.write_array_header_1_0(file, header)
  return file.getvalue() + content


class _FilesTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.path = pathlib.Path(folder.name) / 'some'

  def assert_refused(self, message, read, *args):
    with self.assertRaisesRegex(errors.DataError, f'{self.path}.*{message}'):
      read(*args)


class FilesTest(_FilesTest):
  @parameterized.parameters('pipe', 'folder', 'device', 'link to a device')
  def test_opens_regular_files_only(self, kind):
    # A pipe would wait for a writer, and this device has no end.
    if kind == 'pipe':
      os.mkfifo(self.path)
    elif kind == 'folder':
      self.path.mkdir()
    elif kind == 'device':
      self.path = pathlib.Path('/dev/zero')
    else:
      self.path.symlink_to('/dev/zero')
    message = 'cannot be .*folder, pipe or device'
    self.assert_refused(message, safe_reading.read_bytes, self.path, 9)
    self.assert_refused(message, safe_reading.read_npy, self.path)
    self.assert_refused(message, safe_reading.read_npz, self.path, ['a'])
    self.assert_refused(message, safe_reading.read_text, self.path)
    self.assert_refused(message, image_files.read_header, self.path)
    self.assert_refused(message, image_files.decode, self.path)

  def test_checks_the_size_before_reading(self):
    self.path.write_bytes(b'123456789')
    self.assertEqual(safe_reading.read_bytes(self.path, 9), b'123456789')
    self.assert_refused('is of 0 MB', safe_reading.read_bytes, self.path, 8)
    os.truncate(self.path, 1 << 40)  # Sparse.
    message = '1099512 MB; at most'
    self.assert_refused(message, safe_reading.read_json, self.path)
    self.assert_refused(message, safe_reading.read_npy, self.path)

  def test_system_errors_name_the_file(self):
    message = 'cannot be read: No such file or directory'
    with safe_reading.wrap_os_errors():
      pass
    with (
      self.assertRaisesRegex(errors.DataError, f'{self.path}: {message}'),
      safe_reading.wrap_os_errors(),
    ):
      self.path.read_bytes()


class LinesTest(_FilesTest):
  def read(self, max_bytes=99):
    return list(safe_reading.read_lines(self.path, max_bytes))

  def test_numbers_lines(self):
    self.path.write_bytes(b'\xef\xbb\xbfa\r\n\n\xef\xbb\xbfb c')
    expected = [(1, b'a\r\n'), (2, b'\n'), (3, b'\xef\xbb\xbfb c')]
    self.assertEqual(self.read(), expected)
    self.path.write_bytes(b'')
    self.assertEqual(self.read(), [])

  def test_checks_the_sizes_of_file_and_lines(self):
    self.path.write_bytes(b'12345\n1234567')
    self.assertLen(self.read(13), 2)
    self.assert_refused('is of 0 MB', self.read, 12)
    with mock.patch.object(safe_reading, 'MAX_LINE_BYTES', 7):
      self.assertLen(self.read(), 2)
    with mock.patch.object(safe_reading, 'MAX_LINE_BYTES', 6):
      self.assert_refused('line 2 has more than 6 bytes', self.read)


class BinaryTest(_FilesTest):
  _PAIR = struct.Struct('<HB')
  _BYTE = struct.Struct('<B')

  def read(self, *calls):
    """Calls methods of a reader, and returns what they return."""
    with safe_reading.open_binary(self.path, 99) as reader:
      return [getattr(reader, name)(*args) for name, *args in calls]

  def test_fields_in_their_order(self):
    self.path.write_bytes(b'\x01\x02\x03ab\0cde\x02xy')
    results = self.read(
      ('unpack', self._PAIR, 'a pair'),
      ('text', 50, 'a name'),
      ('skip', 3, 'some'),
      ('count', self._BYTE, 1, 'pairs'),
      ('skip', 2, 'the rest'),
      ('finish',),
    )
    self.assertEqual(results, [(0x201, 3), b'ab', None, 2, None, None])

  @parameterized.parameters(
    (
      'byte 5: ends within a b, which begins at byte 3',
      ('unpack', _PAIR, 'a b'),
    ),
    ('byte 5: ends within some, which begins at byte 3', ('skip', 3, 'some')),
    ('byte 3: it has no end within 2 bytes', ('text', 50, 'it')),
    ('byte 3: it has no end within 1 bytes', ('text', 1, 'it')),
    ('byte 3: 98 things are declared, but 1 b', ('count', _BYTE, 1, 'things')),
    ('byte 5: ends within the number', ('count', _PAIR, 1, 'things')),
    ('byte 3: the file should end here, but 2 bytes follow', ('finish',)),
  )
  def test_errors_name_the_byte(self, message, call):
    self.path.write_bytes(b'123bc')
    self.assert_refused(message, self.read, ('skip', 3, ''), call)

  @parameterized.parameters((0, 1), (1, 1), (1, 2), (2, 1))
  def test_a_count_that_just_fits(self, count, size):
    self.path.write_bytes(bytes([count]) + bytes(count * size))
    self.assertEqual(self.read(('count', self._BYTE, size, 'things')), [count])

  def test_checks_the_size_of_the_file(self):
    self.path.write_bytes(bytes(100))
    self.assert_refused('is of 0 MB', self.read)


class ArraysTest(_FilesTest):
  @parameterized.parameters('C', 'F')
  def test_written_arrays_are_read_back(self, order):
    arrays = {'a': np.arange(6.0).reshape(2, 3), 'b': np.array(3)}
    arrays = {k: np.asarray(v, order=order) for k, v in arrays.items()}
    np.savez(self.path.with_suffix('.npz'), **arrays, c=np.zeros(1))
    path = self.path.with_suffix('.npz')
    read, others = safe_reading.read_npz(path, ['a', 'b', 'd'])
    chex.assert_trees_all_equal(read, arrays)
    self.assertEqual(others, ['c'])
    np.save(self.path.with_suffix('.npy'), arrays['a'])
    read = safe_reading.read_npy(self.path.with_suffix('.npy'))
    np.testing.assert_array_equal(read, arrays['a'])

  @parameterized.parameters(
    ((3,),), ((1,),), ((10**9, 10**9),), ((2**62, 4),), ((-1, -2),), ((),)
  )
  def test_refuses_a_header_that_disagrees_with_the_content(self, shape):
    # A header of fewer rows would drop views without notice.
    content = _npy(shape, bytes(16))
    self.path.write_bytes(content)
    self.assert_refused('16 bytes follow', safe_reading.read_npy, self.path)
    with zipfile.ZipFile(self.path, 'w') as archive:
      archive.writestr('a.npy', content)
    self.assert_refused(
      'a: .*16 bytes', safe_reading.read_npz, self.path, ['a']
    )

  def test_large_arrays_are_not_decompressed(self):
    with zipfile.ZipFile(self.path, 'w', zipfile.ZIP_DEFLATED) as archive:
      archive.writestr('a.npy', _npy((10**6,), bytes(8 * 10**6)))
    self.assertLess(self.path.stat().st_size, 10_000)
    with mock.patch.object(safe_reading, 'MAX_ARRAY_BYTES', 10**6):
      with mock.patch.object(zipfile.ZipFile, 'read') as read:
        self.assert_refused(
          'is of 8 MB', safe_reading.read_npz, self.path, ['a']
        )
      read.assert_not_called()
      self.assertEqual(safe_reading.read_npz(self.path, ['b']), ({}, ['a']))

  def test_nothing_is_unpickled(self):
    made = self.path.with_name('exploded')
    array = np.array([_Bait(made)] * 2, object)
    for save, read in (
      (np.save, safe_reading.read_npy),
      (np.savez, lambda path: safe_reading.read_npz(path, ['arr_0'])),
    ):
      with self.path.open('wb') as file:
        save(file, array, allow_pickle=True)
      self.assert_refused('of object', read, self.path)
    self.assertFalse(made.exists())
    with np.load(self.path, allow_pickle=True) as file:
      file['arr_0']  # The bait is live.
    self.assertTrue(made.exists())


if __name__ == '__main__':
  absltest.main()

import pathlib

import chex

from nerf_haiku.io import files


class WriteTest(chex.TestCase):
  def test_replaces_a_file_and_leaves_nothing_else(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    for content in (b'one', b'two'):
      files.write(folder / 'a b.txt', content)
      self.assertEqual((folder / 'a b.txt').read_bytes(), content)
    self.assertLen(list(folder.iterdir()), 1)

  def test_a_failure_leaves_the_existing_file(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / 'taken').mkdir()
    (folder / 'taken' / 'inside').write_text('kept')
    with self.assertRaises(OSError):
      files.write(folder / 'taken', b'new')
    self.assertEqual((folder / 'taken' / 'inside').read_text(), 'kept')
    self.assertLen(list(folder.iterdir()), 1)


class SealTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self._path = pathlib.Path(self.create_tempdir().full_path) / 'x'
    (self._path / 'in').mkdir(parents=True)
    (self._path / 'in' / 'a').write_bytes(bytes(1000))
    (self._path / 'b').write_bytes(b'')
    self.assertFalse(files.has_digests(self._path))
    files.write_digests(self._path)
    self.assertTrue(files.has_digests(self._path))

  def test_an_unchanged_folder_is_intact(self):
    self.assertIsNone(files.find_corruption(self._path))
    (self._path / 'later').write_text('')
    self.assertIsNone(files.find_corruption(self._path))

  def test_finds_a_flipped_bit(self):
    (self._path / 'in' / 'a').write_bytes(bytes(999) + b'\x01')
    self.assertEqual(
      files.find_corruption(self._path), 'in/a is not as it was written'
    )

  def test_finds_a_truncated_file(self):
    (self._path / 'in' / 'a').write_bytes(bytes(999))
    self.assertEqual(
      files.find_corruption(self._path), 'in/a is not as it was written'
    )

  def test_finds_a_missing_file(self):
    (self._path / 'b').unlink()
    self.assertEqual(files.find_corruption(self._path), 'b is missing')

  def test_finds_damaged_digests(self):
    for content in (b'', b'{"in', b'[1]', b'7', b'{"c": "0"}'):
      (self._path / 'digests.json').write_bytes(content)
      self.assertIsNotNone(files.find_corruption(self._path), content)

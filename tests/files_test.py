import pathlib

import chex

from nerf_haiku import files


class WriteTest(chex.TestCase):
  def test_replaces_and_leaves_nothing_else(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    for content in (b'one', b'two'):
      files.write(folder / 'a b.txt', content)
      self.assertEqual((folder / 'a b.txt').read_bytes(), content)
    self.assertLen(list(folder.iterdir()), 1)

  def test_a_failure_leaves_the_old_file(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / 'taken').mkdir()
    (folder / 'taken' / 'inside').write_text('kept')
    with self.assertRaises(OSError):
      files.write(folder / 'taken', b'new')
    self.assertEqual((folder / 'taken' / 'inside').read_text(), 'kept')
    self.assertLen(list(folder.iterdir()), 1)

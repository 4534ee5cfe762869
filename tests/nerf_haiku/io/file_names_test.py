import os
import pathlib
import tempfile
import unicodedata

import chex
from absl.testing import absltest, parameterized

from nerf_haiku.io import file_names

_NAME = 'Zürich'
_COMPOSED, _DECOMPOSED = (
  unicodedata.normalize(form, _NAME) for form in ('NFC', 'NFD')
)


class FinderTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name) / 'lego'
    self.folder.mkdir()

  def find(self, name):
    """Returns the found name, relative to the folder."""
    finder = file_names.Finder(self.folder, ('.png', '.jpg'))
    path = finder.find(name.replace('FOLDER', str(self.folder)))
    return path and path.relative_to(self.folder).as_posix()

  def write(self, *names):
    for name in names:
      path = self.folder / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.touch()

  @parameterized.named_parameters(
    ('as_written', 'train/r_0.png', 'train/r_0.png'),
    ('without_suffix', './train/r_0', 'train/r_0.png'),
    ('upper_suffix_of_the_file', 'train/r_0', 'train/r_0.PNG'),
    ('mixed_suffix_of_the_file', 'train/r_0', 'train/r_0.Png'),
    ('upper_suffix_of_the_name', 'train/r_0.PNG', 'train/r_0.png'),
    ('other_suffix', 'train/r_0', 'train/r_0.jpg'),
    ('backslashes', r'.\train\r_0', 'train/r_0.png'),
    ('case_of_a_folder', 'Train/R_0.png', 'train/r_0.png'),
    ('composed', f'{_COMPOSED}/r_0', f'{_DECOMPOSED}/r_0.png'),
    ('decomposed', f'a/{_DECOMPOSED}', f'a/{_COMPOSED}.png'),
    ('absolute', 'FOLDER/train/r_0', 'train/r_0.png'),
    ('of_another_disk', '/home/me/lego/train/r_0.png', 'train/r_0.png'),
    ('of_windows', r'C:\Users\me\lego\train\r_0.png', 'train/r_0.png'),
    ('of_windows_with_slashes', 'D:/lego/train/r_0.png', 'train/r_0.png'),
    ('up_and_back', '../lego/train/r_0.png', 'train/r_0.png'),
    ('a_backslash_in_a_name', r'a\b.png', r'a\b.png'),
  )
  def test_finds(self, name, file):
    self.write(file, 'other.png')
    self.assertEqual(self.find(name), file)

  @parameterized.named_parameters(
    ('missing', 'train/r_1'),
    ('empty_folder', 'val/r_0'),
    ('a_folder', 'train'),
    ('nul', 'x\0y'),
    ('long', 'x' * 5000),
    ('absolute', '/etc/passwd'),
    ('up', '../secret.png'),
    ('up_by_backslashes', r'..\secret.png'),
    ('down_and_up', 'train/../../secret.png'),
    ('up_on_a_drive', r'C:\..\..\secret.png'),
  )
  def test_finds_nothing(self, name):
    self.write('train/r_0.png')
    (self.folder.parent / 'secret.png').touch()
    self.assertIsNone(self.find(name))

  def test_the_name_as_written_comes_first(self):
    self.write('r.png', 'R.png', 'r', 'a/r.jpg', 'a/r.png')
    self.assertEqual(self.find('R.png'), 'R.png')
    self.assertEqual(self.find('r'), 'r')
    self.assertEqual(self.find('a/r'), 'a/r.png')

  def test_of_several_similar_names_none_is_taken(self):
    self.write('r_A.png', 'R_a.png')
    self.assertIsNone(self.find('r_a.png'))

  def test_the_longest_end_of_a_foreign_name_counts(self):
    self.write('r_0.png', 'train/r_0.png')
    self.assertEqual(self.find('/x/lego/train/r_0.png'), 'train/r_0.png')
    self.assertEqual(self.find('/x/lego/val/r_0.png'), 'r_0.png')

  def test_a_folder_may_be_a_link(self):
    self.write('train/r_0.png')
    link = self.folder.with_name('link')
    os.symlink(self.folder, link)
    finder = file_names.Finder(link, ())
    for folder in (link, self.folder):
      path = finder.find(f'{folder}/train/r_0.png')
      self.assertEqual(path, link / 'train' / 'r_0.png')

  @parameterized.parameters(
    ('../x', True),
    ('a/../../x', True),
    (r'..\x', False),  # A file may have this name.
    ('a/../x', False),
    ('/etc/x', False),
  )
  def test_names_that_lead_outside(self, name, expected):
    finder = file_names.Finder(self.folder)
    self.assertEqual(finder.is_outside(name), expected)


if __name__ == '__main__':
  absltest.main()

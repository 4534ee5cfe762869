import os
import pathlib
import re
from unittest import mock

from absl.testing import absltest, parameterized

from nerf_haiku import errors
from nerf_haiku.datasets import scene_folders
from nerf_haiku.io import messages


class ListScenesTest(parameterized.TestCase):
  def test_lists_readable_scenes_up_to_a_limit(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    for i in range(23):
      (folder / f'{i:02}').mkdir()

    def is_scene(path):
      if path.name == '01':
        raise PermissionError(13, 'Permission denied', str(path))
      return path.name != '02'

    text = scene_folders.list_scenes([folder, folder / 'gone'], is_scene)
    self.assertStartsWith(text, '00, 03, 04')
    self.assertEndsWith(text, ', 21 and 1 more')
    self.assertEqual(
      scene_folders.list_scenes([folder], lambda _: False), 'none'
    )


class CheckFolderTest(parameterized.TestCase):
  def test_expands_the_home_folder(self):
    home = self.create_tempdir().full_path
    (pathlib.Path(home) / 'data').mkdir()
    with mock.patch.dict(os.environ, {'HOME': home}):
      folder = scene_folders.check_folder('~/data')
    self.assertEqual(str(folder), f'{home}/data')

  @parameterized.parameters('~no user of that name/data', 'a\0b', 'x' * 300)
  def test_refuses_what_is_not_a_folder(self, name):
    message = re.escape(f'data_dir={messages.shorten(name)} is not a folder.')
    with self.assertRaisesRegex(errors.DataError, message):
      scene_folders.check_folder(name)


if __name__ == '__main__':
  absltest.main()

import os
import pathlib

from absl.testing import absltest, parameterized

from nerf_haiku.io import messages


class ShortenTest(parameterized.TestCase):
  @parameterized.parameters(
    (None, 'nothing'), ('é', "'é'"), (list(range(99)), '[0, 1, 2, 3')
  )
  def test_result_fits_a_message(self, value, start):
    text = messages.shorten(value)
    self.assertStartsWith(text, start)
    self.assertLessEqual(len(text), 100)


class PrintableTest(parameterized.TestCase):
  def test_escapes_what_is_not_unicode(self):
    path = pathlib.Path('folder', os.fsdecode(b'\xff.png'))
    self.assertEqual(messages.printable(path), 'folder/\\udcff.png')

  def test_keeps_other_names(self):
    self.assertEqual(messages.printable(pathlib.Path('a/画像')), 'a/画像')


if __name__ == '__main__':
  absltest.main()

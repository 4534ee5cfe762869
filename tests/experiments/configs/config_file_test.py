from unittest import mock

from absl.testing import absltest, parameterized

from experiments.configs import config_file, default, reference
from nerf_haiku import errors
from nerf_haiku.io import safe_reading

_START = 'from experiments.configs import default\n\ndef get_config():\n'


class LoadTest(parameterized.TestCase):
  def _file(self, text, name='mine.py'):
    return self.create_tempfile(name, content=text).full_path

  @parameterized.parameters(
    ('def get_config(:\n  pass', ', line 1: SyntaxError: invalid syntax'),
    ('import numpyy', ", line 1: ModuleNotFoundError: No module named 'nu"),
    (f'{_START}  return nosuch', ", line 4: NameError: name 'nosuch' is not"),
    (f'{_START}  return int("x")', ', line 4: ValueError: invalid literal'),
    (f'{_START}  open("nosuch")', ', line 4: FileNotFoundError: .*nosuch'),
    (f'{_START}  return default.get_config(3)', ', line 4: TypeError: get_c'),
    (f'{_START}  default.get_config().nosuch', ", line 4: .*: 'nosuch'"),
    (f'{_START}  pass', r': get_config\(\) returned nothing; must return a C'),
    (f'{_START}  return 3', r': get_config\(\) returned 3; must return a Co'),
    ('x = 3', r' defines no get_config\(\)'),
  )
  def test_one_line_names_the_place(self, text, message):
    file = self._file(text)
    with self.assertRaisesRegex(
      errors.UserError, f'^--config: {file}{message}'
    ) as caught:
      config_file.load(file)
    self.assertNotIn('\n', str(caught.exception))

  def test_a_bug_of_ours_is_raised_as_it_is(self):
    """In code that the file calls, and in our readers of other formats."""
    broken = mock.patch.object(default.renamed_fields, 'Section', None)
    with broken, self.assertRaises(TypeError):
      config_file.load(self._file(f'{_START}  return default.get_config()'))
    broken = mock.patch.object(safe_reading, 'read_text', return_value=None)
    with broken, self.assertRaises(AttributeError):
      config_file.load(f'{reference.__file__}:x.txt')

  def test_an_argument(self):
    text = 'def get_config(x):\n  return ConfigDict({"x": x})\n'
    file = self._file(f'from ml_collections import ConfigDict\n{text}')
    config = config_file.load(f'{file}:a:b')
    self.assertEqual(config.x, 'a:b')
    self.assertTrue(config.is_locked)
    for other in (file, f'{self._file("x = 3", "other.py")}:arg'):
      with self.assertRaises(errors.UserError):
        config_file.load(other)

  @parameterized.parameters(
    ('a.py', ('a.py', None)),
    ('a:b/c.py:d:e', ('a:b/c.py', 'd:e')),
    ('a:b', ('a', 'b')),
  )
  def test_split(self, config, expected):
    self.assertEqual(config_file.split(config), expected)


if __name__ == '__main__':
  absltest.main()

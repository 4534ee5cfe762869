import os
import pathlib
import subprocess
import sys

import chex

from nerf_haiku.io import lazy_tensorflow

_IMPORT = """
from nerf_haiku.io import lazy_tensorflow
lazy_tensorflow.module()
"""
_ROOT = pathlib.Path(__file__).parents[3]


class ModuleTest(chex.TestCase):
  def test_accelerators_are_hidden(self):
    tf = lazy_tensorflow.module()
    self.assertIs(tf, lazy_tensorflow.module())
    kinds = {x.device_type for x in tf.config.get_visible_devices()}
    self.assertEqual(kinds, {'CPU'})

  def test_settings_of_keras_are_not_read(self):
    """They may be another user's, where the home folder is read-only."""
    home = self.create_tempdir()
    home.create_file('.keras/keras.json', content='{"floatx": "float1"}')
    variables = {x: y for x, y in os.environ.items() if x != 'KERAS_HOME'}
    done = subprocess.run(
      [sys.executable, '-c', _IMPORT],
      capture_output=True,
      text=True,
      check=False,
      cwd=_ROOT,
      env=variables | {'HOME': home.full_path},
    )
    self.assertEqual((done.returncode, done.stderr), (0, ''))


class QuietTest(chex.TestCase):
  def _errors_of(self, work):
    """Returns what `work` writes to the real standard error."""
    path = self.create_tempfile().full_path
    sys.stderr.flush()
    kept = os.dup(2)
    with open(path, 'wb') as text:
      os.dup2(text.fileno(), 2)
      try:
        work()
      finally:
        os.dup2(kept, 2)
        os.close(kept)
    with open(path) as text:
      return text.read()

  def test_output_is_dropped_until_the_end_of_the_block(self):
    def work():
      with lazy_tensorflow._quiet_stderr():
        os.write(2, b'chatter')
      os.write(2, b'after')

    self.assertEqual(self._errors_of(work), 'after')

  def test_a_failure_shows_the_dropped_output(self):
    def work():
      with (
        self.assertRaisesRegex(ImportError, 'broken'),
        lazy_tensorflow._quiet_stderr(),
      ):
        os.write(2, b'the cause')
        raise ImportError('broken')

    self.assertEqual(self._errors_of(work), 'the cause')

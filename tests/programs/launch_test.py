"""How a program ends: what is one line, and what keeps its traceback."""

import os
import pathlib
import subprocess
import sys
from unittest import mock

import chex
from absl.testing import parameterized

from experiments.processes import command_line
from nerf_haiku import checkpoints, errors
from tests.support import environment

_ROOT = pathlib.Path(__file__).parents[2]
_PROGRAM = """
import numpy as np
from experiments import launch
from experiments.processes import command_line
from nerf_haiku import errors
from nerf_haiku.io import files

def task():
  {statement}

launch.run(task, launch.quickstart_config)
"""


def _run(statement, *arguments):
  """Runs a task of one statement; returns its exit code and both outputs."""
  done = subprocess.run(
    [sys.executable, '-c', _PROGRAM.format(statement=statement), *arguments],
    cwd=_ROOT,
    env=environment.make(1),
    capture_output=True,
    text=True,
    timeout=120,
  )
  return done.returncode, done.stdout, done.stderr


class LaunchTest(chex.TestCase):
  @parameterized.named_parameters(
    (
      'user_error',
      'raise errors.DataError("x.png: is no image.")',
      'Error: x.png: is no image.',
    ),
    (
      'file_that_cannot_be_written',
      'files.write("/proc/no folder/x.json", b"")',
      'Error: .*No such file or directory',
    ),
  )
  def test_an_error_of_the_user_is_one_line(self, statement, message):
    status, out, err = _run(statement, '--verbosity=0')
    self.assertEqual((status, out), (1, ''))
    self.assertRegex(err, rf'^{message}[^\n]*\n$')

  @parameterized.named_parameters(
    ('value', 'np.zeros(3) + np.zeros(4)', 'ValueError: operands could not be'),
    ('file', 'open("no such file")', 'FileNotFoundError: [Errno 2] No such'),
  )
  def test_any_other_error_keeps_its_traceback(self, statement, message):
    status, out, err = _run(statement)
    self.assertEqual((status, out), (1, ''))
    self.assertIn('Traceback (most recent call last)', err)
    self.assertIn(f'\n{message}', err)

  def test_an_encoding_never_ends_a_run(self):
    with mock.patch.dict(os.environ, PYTHONIOENCODING='ascii'):
      status, out, err = _run('print("\\xe9 \\udcff")')
    self.assertEqual((status, out, err), (0, '\\xe9 \\udcff\n', ''))

  def test_old_names_of_fields(self):
    """On the command line and in a config file, with one notice."""
    config = self.create_tempfile(
      'mine.py',
      content='from experiments.configs import quickstart\n\n'
      'def get_config():\n'
      '  config = quickstart.get_config()\n'
      '  config.hash.finest = 64\n'
      '  config.batch_growth = 3\n'
      '  return config\n',
    ).full_path
    statement = 'print(launch.CONFIG.value.to_dict())'
    status, out, err = _run(
      statement, '--config.hash.finest=32', f'--config={config}'
    )
    self.assertEqual(status, 0, err)
    self.assertIn("'max_resolution': 32", out)
    self.assertIn("'batch_warmup_steps': 3", out)
    self.assertNotIn('finest', out)
    self.assertEqual(
      err,
      'Renamed config fields: batch_growth -> batch_warmup_steps, hash.finest '
      '-> hash.max_resolution. The old names still work.\n',
    )

  def test_both_names_of_a_field(self):
    status, out, err = _run(
      'pass', '--config.hash.finest', '32', '--config.hash.max_resolution=32'
    )
    self.assertEqual((status, out), (1, ''))
    self.assertEqual(
      err,
      'Error: --config.hash.finest and --config.hash.max_resolution are the '
      'old and the new name of one field: set --config.hash.max_resolution '
      'only.\n',
    )

  def test_what_a_user_can_fix(self):
    for kind in (
      errors.DataError,
      checkpoints.DamagedError,
      checkpoints.SaveError,
    ):
      self.assertTrue(issubclass(kind, command_line.USER_ERRORS), kind)

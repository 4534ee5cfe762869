import importlib.metadata
import pathlib
import sys
from unittest import mock

import chex
from absl.testing import parameterized

from experiments.reconstruction import child, sfm, stages
from nerf_haiku import errors

_PROGRAM = """
import json, os, signal, sys
settings = json.loads(sys.stdin.readline())

def send(**message):
  print(json.dumps(message), flush=True)

send(stage='mapping', total=4)
send(done=3)
{statement}
"""


class ChildTest(chex.TestCase):
  def _run(self, statement, settings=None):
    """Runs a program of one statement in place of structure from motion."""
    folder = pathlib.Path(self.create_tempdir().full_path)
    program = folder / 'program.py'
    program.write_text(_PROGRAM.format(statement=statement))
    with (
      mock.patch.object(sfm, '__file__', str(program)),
      stages.Stages() as shown,
    ):
      return child.run(settings, folder / 'log.txt', shown)

  def test_returns_the_result(self):
    result = self._run("send(result=settings['names'])", {'names': ['é']})
    self.assertEqual(result, ['é'])

  @parameterized.named_parameters(
    (
      'killed',
      'os.kill(os.getpid(), signal.SIGKILL)',
      r'ended with SIGKILL\. If memory',
    ),
    (
      'check_failed',
      "print('Check failed: x', file=sys.stderr, flush=True); os.abort()",
      'ended with SIGABRT: Check failed: x. If',
    ),
    ('ended', 'sys.exit(3)', 'ended with exit code 3'),
  )
  def test_a_process_that_ends_early(self, statement, message):
    with self.assertRaisesRegex(errors.UserError, message):
      self._run(statement)

  def test_a_bug_keeps_its_traceback(self):
    with self.assertRaisesRegex(RuntimeError, r'Traceback(.|\n)*ZeroDivision'):
      self._run('1 / 0')

  def test_an_interrupt_ends_the_process(self):
    processes = []
    popen = child.subprocess.Popen

    def start(*args, **kwargs):
      processes.append(popen(*args, **kwargs))
      return processes[0]

    with (
      mock.patch.object(child.subprocess, 'Popen', start),
      mock.patch.object(child, '_follow', side_effect=KeyboardInterrupt),
      self.assertRaises(KeyboardInterrupt),
    ):
      self._run('sys.stdin.read()')
    self.assertEqual(processes[0].returncode, -9)

  def test_the_process_ends_when_its_parent_does(self):
    program = (
      'import threading, time; from experiments.reconstruction import sfm;'
      'sfm._exit_with_parent()'
    )
    process = child.subprocess.Popen(
      [sys.executable, '-c', program],
      stdin=child.subprocess.PIPE,
      cwd=pathlib.Path(__file__).parents[3],
    )
    process.stdin.close()
    self.assertEqual(process.wait(timeout=60), 1)

  def test_packages(self):
    versions = child.check_installed()
    self.assertEqual(list(versions), ['pycolmap', 'pillow-heif'])

  @parameterized.named_parameters(
    ('missing', None, 'pycolmap is not installed: pip install .*photos'),
    ('old', '3.13.0', 'pycolmap is of version 3.13.0.*pip install .*photos'),
    ('new', '5.0.1', 'pycolmap is of version 5.0.1.*before 5.0'),
  )
  def test_other_packages(self, version, message):
    def find(package):
      del package
      if version is None:
        raise importlib.metadata.PackageNotFoundError
      return version

    with (
      mock.patch.object(importlib.metadata, 'version', find),
      self.assertRaisesRegex(errors.UserError, message),
    ):
      child.check_installed()

"""What a wheel and a source distribution hold."""

import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

from absl.testing import absltest

_ROOT = pathlib.Path(__file__).parents[2]
_BUILD = 'from setuptools import build_meta as x; print(x.build_{kind}("out"))'


class PackagingTest(absltest.TestCase):
  def _build(self, kind):
    """Builds a copy of the checkout, without an environment of its own."""
    copy = pathlib.Path(self.create_tempdir().full_path) / 'copy'
    copy.mkdir()
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
      shutil.copy(_ROOT / name, copy)
    for name in ('nerf_haiku', 'experiments', 'tests'):
      ignore = shutil.ignore_patterns('__pycache__', '*.npz')
      shutil.copytree(_ROOT / name, copy / name, ignore=ignore)
    (copy / 'out').mkdir()
    done = subprocess.run(
      [sys.executable, '-W', 'ignore', '-c', _BUILD.format(kind=kind)],
      cwd=copy,
      capture_output=True,
      text=True,
      timeout=120,
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    return copy / 'out' / done.stdout.splitlines()[-1]

  def _check(self, names):
    """The library with all its packages, and nothing else of ours."""
    found = {x for x in names if x.endswith('.py') and x != 'setup.py'}
    library = (_ROOT / 'nerf_haiku').rglob('*.py')
    self.assertEqual(found, {x.relative_to(_ROOT).as_posix() for x in library})

  def test_a_wheel_holds_the_library_alone(self):
    with zipfile.ZipFile(self._build('wheel')) as wheel:
      self._check(wheel.namelist())

  def test_a_source_distribution_holds_the_library_alone(self):
    with tarfile.open(self._build('sdist')) as archive:
      self._check(x.partition('/')[2] for x in archive.getnames())


if __name__ == '__main__':
  absltest.main()

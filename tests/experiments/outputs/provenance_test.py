import pathlib
import shutil
import subprocess
from unittest import mock

import chex

from experiments.outputs import provenance


def _git(folder, *arguments):
  identity = ('-c', 'user.name=x', '-c', 'user.email=x@y.example')
  subprocess.run(['git', *identity, *arguments], cwd=folder, check=True)


class CommitTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self._repository = pathlib.Path(self.create_tempdir().full_path).resolve()
    (self._repository / 'file').write_text('one')
    _git(self._repository, 'init', '--quiet')
    _git(self._repository, 'add', 'file')
    _git(self._repository, 'commit', '--quiet', '--message=one')

  def _commit(self, root, library=None):
    """The commit that is found where the packages lie in these folders."""
    files = []
    for folder, module in (
      (root, 'experiments/outputs/provenance.py'),
      (library or root, 'nerf_haiku/errors.py'),
    ):
      files.append(folder / module)
      files[-1].parent.mkdir(parents=True, exist_ok=True)
    with (
      mock.patch.object(provenance, '__file__', str(files[0])),
      mock.patch.object(provenance.errors, '__file__', str(files[1])),
    ):
      return provenance.collect()['commit']

  def test_the_commit_of_a_checkout(self):
    commit = self._commit(self._repository)
    self.assertRegex(commit, '^[0-9a-f]{7,}$')
    (self._repository / 'file').write_text('two')
    self.assertEqual(self._commit(self._repository), f'{commit}-dirty')

  def test_another_repository_around_the_packages(self):
    packages = self._repository / 'venv' / 'site-packages'
    self.assertIsNone(self._commit(packages))
    self.assertIsNone(self._commit(self._repository, packages))

  def test_no_repository(self):
    shutil.rmtree(self._repository / '.git')
    self.assertIsNone(self._commit(self._repository))

"""No module of ours hides another in a folder that Python searches first."""

import importlib.metadata
import pathlib
import re
import sys

from absl.testing import absltest

_ROOT = pathlib.Path(__file__).parents[2]
# Folders of programs: Python puts the folder of the one that it runs first.
_FOLDERS = ('experiments', 'experiments/benchmarks', 'tests/support')
# In the standard library of some of Python 3.11 to 3.15, not of all.
_NOT_IN_ALL = """
aifc annotationlib asynchat asyncore audioop cgi cgitb chunk compression crypt
distutils imghdr imp lib2to3 mailcap msilib nis nntplib ossaudiodev pipes
profiling smtpd sndhdr spwd sunau telnetlib uu xdrlib
"""


def _normalize(distribution):
  return re.sub('[-_.]+', '-', distribution).lower()


def _required(distribution):
  """All distributions that one needs, extras too, as far as installed."""
  needed, open_ = set(), [distribution]
  while open_:
    try:
      requirements = importlib.metadata.requires(open_.pop()) or []
    except importlib.metadata.PackageNotFoundError:
      continue  # Of another system, or of an extra that is not installed.
    names = {_normalize(re.match(r'[\w.-]+', x)[0]) for x in requirements}
    open_ += names - needed
    needed |= names
  return needed


def _installed_modules():
  required = _required('nerf_haiku')
  by_module = importlib.metadata.packages_distributions()
  return {
    module
    for module, distributions in by_module.items()
    if required & set(map(_normalize, distributions))
  }


class ModuleNamesTest(absltest.TestCase):
  def test_no_name_of_the_standard_library_or_of_a_package(self):
    packages = _installed_modules()
    self.assertContainsSubset(
      {'absl', 'haiku', 'jax', 'PIL', 'tensorflow', 'yaml'}, packages
    )
    taken = packages | set(_NOT_IN_ALL.split()) | sys.stdlib_module_names
    for folder in _FOLDERS:
      names = {x.stem for x in (_ROOT / folder).iterdir()} - {'__pycache__'}
      self.assertContainsSubset({'__init__'}, names)
      self.assertEmpty(names & taken, folder)


if __name__ == '__main__':
  absltest.main()

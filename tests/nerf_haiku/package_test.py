import importlib
import pkgutil

import chex

import nerf_haiku


class PackageTest(chex.TestCase):
  def test_all_names_every_module_and_folder(self):
    modules = {x.name for x in pkgutil.iter_modules(nerf_haiku.__path__)}
    self.assertEqual(set(nerf_haiku.__all__), modules - {'arrays'})
    for name in nerf_haiku.__all__:
      module = importlib.import_module(f'nerf_haiku.{name}')
      self.assertIs(getattr(nerf_haiku, name), module)

  def test_the_version_is_that_of_the_release_or_of_what_follows(self):
    self.assertRegex(nerf_haiku.__version__, r'^\d+\.\d+\.\d+(\.dev\d+)?$')

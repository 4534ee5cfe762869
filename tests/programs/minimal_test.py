import importlib.util
import pathlib

import chex
import numpy as np

_PATH = pathlib.Path(__file__).parents[2] / 'docs' / 'minimal.py'


class MinimalTest(chex.TestCase):
  def test_the_example_trains_and_renders(self):
    spec = importlib.util.spec_from_file_location('minimal', _PATH)
    minimal = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(minimal)
    rgb = minimal.train(num_steps=2, size=8)
    chex.assert_shape(rgb, (8, 8, 3))
    self.assertTrue(np.all((rgb >= 0) & (rgb <= 1)))
    self.assertGreater(np.ptp(rgb), 0)

  def test_readme_shows_it(self):
    readme = (_PATH.parents[1] / 'README.md').read_text()
    body = _PATH.read_text().partition('def train')[2].partition('\n\n\n')[0]
    self.assertIn(f'def train{body}', readme)
    self.assertLessEqual(len(_PATH.read_text().splitlines()), 60)

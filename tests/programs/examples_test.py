"""The examples of the library that README shows."""

import contextlib
import importlib.util
import io
import pathlib

import chex
import numpy as np

from tests.support import trained

_ROOT = pathlib.Path(__file__).parents[2]


def _load(name):
  spec = importlib.util.spec_from_file_location(name, _ROOT / f'docs/{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _body(name, function):
  text = (_ROOT / f'docs/{name}.py').read_text()
  body = text.partition(f'def {function}')[2].partition('\n\n\n')[0]
  return f'def {function}{body}'


class ExamplesTest(chex.TestCase):
  def test_minimal_trains_and_renders(self):
    rgb = _load('minimal').train(num_steps=2, size=8)
    chex.assert_shape(rgb, (8, 8, 3))
    self.assertTrue(np.all((rgb >= 0) & (rgb <= 1)))
    self.assertGreater(np.ptp(rgb), 0)

  def test_trained_opens_a_run(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    trained.write_run(folder, trained.record(), trained.scene())
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
      rgb = _load('trained').look(str(folder), size=8)
    chex.assert_shape(rgb, (8, 8, 3))
    self.assertGreater(np.ptp(rgb), 0)
    self.assertRegex(
      printed.getvalue(), r'step 0: .* density \S+, color \[.*\n.* middle: \S+'
    )

  def test_readme_shows_them(self):
    readme = (_ROOT / 'README.md').read_text()
    self.assertIn(_body('minimal', 'train'), readme)
    self.assertIn(_body('trained', 'look'), readme)
    text = (_ROOT / 'docs/minimal.py').read_text()
    self.assertLessEqual(len(text.splitlines()), 60)

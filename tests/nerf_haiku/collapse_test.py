import chex
import numpy as np
from absl.testing import parameterized

from nerf_haiku import collapse, training


def _describe(target, predicted):
  """Describes target and predicted colors `[steps, R, 3]`."""
  means = [x.mean((0, 1)) for x in (target, target**2, predicted, predicted**2)]
  stats = training.ColorStats(*means, mse=np.mean((target - predicted) ** 2))
  return collapse.describe_collapse(4, stats)


def _scene(kind, steps=4):
  """Returns target colors, of a kind of scene."""
  rng = np.random.default_rng(0)
  noise = rng.normal(size=(steps, 500, 3))
  white = np.ones((steps, 500, 3))
  thing = rng.uniform(size=(steps, 500, 1)) < 0.1
  return {
    'thing on white': np.where(thing, 0.3 + 0.1 * noise, white),
    'dark': np.where(thing, 0.02, 0.0 * white),
    'uniform': 0.5 + 0.005 * noise,
    'photo': np.clip(0.5 + 0.2 * noise, 0.0, 1.0),
  }[kind]


class CollapseTest(chex.TestCase):
  def test_an_all_white_run_has_collapsed(self):
    target = _scene('thing on white')
    self.assertRegex(
      _describe(target, np.ones_like(target)),
      r'After 4 steps the run has collapsed: its PSNR of 13.\d+ dB is that of '
      r'one color \(13.\d+ dB\)',
    )

  @parameterized.parameters(0.0, 0.5, 0.9)
  def test_a_run_of_any_one_color_has_collapsed(self, share):
    """The best color, with noise of 1 % times the share."""
    target = _scene('photo')
    rng = np.random.default_rng(1)
    predicted = (
      target.mean(axis=(0, 1)) + 0.01 * rng.normal(size=target.shape) * share
    )
    self.assertIn('has collapsed', _describe(target, predicted))

  @parameterized.parameters('thing on white', 'dark', 'uniform', 'photo')
  def test_a_run_with_some_structure_has_not_collapsed(self, kind):
    """It is a third of the way from one color to the truth."""
    target = _scene(kind)
    predicted = (
      target.mean(axis=(0, 1)) + (target - target.mean(axis=(0, 1))) / 3
    )
    self.assertIsNone(_describe(target, predicted))

  def test_colors_that_vary_are_no_collapse_however_wrong(self):
    """They are other rays' colors, a fifth as far from the mean."""
    target = _scene('photo')
    mean = target.mean(axis=(0, 1))
    self.assertIsNone(_describe(target, mean + 0.2 * (target[:, ::-1] - mean)))

  @parameterized.parameters('dark', 'uniform')
  def test_one_color_that_is_nearly_right_is_no_collapse(self, kind):
    target = _scene(kind)
    predicted = np.broadcast_to(target.mean(axis=(0, 1)), target.shape)
    self.assertIsNone(_describe(target, predicted))

  def test_varied_but_wrong_colors_are_no_collapse(self):
    """A healthy run that has only begun."""
    target = _scene('photo')
    predicted = 0.5 + 0.1 * np.random.default_rng(1).normal(size=target.shape)
    self.assertIsNone(_describe(target, predicted))

  def test_images_of_one_color_each_are_no_collapse(self):
    """With a step's rays from one image, only several steps vary."""
    steps = np.linspace(0.1, 0.9, 4)[:, None, None]
    target = np.broadcast_to(steps, (4, 50, 3))
    self.assertIsNone(_describe(target, target))
    self.assertIn('collapsed', _describe(target, np.full_like(target, 0.5)))

  def test_the_best_constant_is_the_mean(self):
    target = np.array([[0.0, 0.2, 0.4], [1.0, 0.2, 0.4]])
    means = training.ColorStats(*[target.mean(0), (target**2).mean(0)] * 2, 0.0)
    expected = -10 * np.log10(0.25 / 3)
    self.assertAlmostEqual(collapse.constant_psnr(means), expected, places=5)

  def test_restarts_have_different_seeds(self):
    seeds = [0]
    for _ in range(3):
      seeds.append(collapse.next_seed(seeds[-1]))
    self.assertLen(set(seeds), 4)
    self.assertLess(collapse.next_seed(2**31 - 1), 2**31)

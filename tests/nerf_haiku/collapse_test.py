import chex
import numpy as np
from absl.testing import parameterized

from nerf_haiku import collapse, training


def _look(true, seen):
  """What is said of true and rendered colors `[steps, R, 3]`."""
  means = [x.mean((0, 1)) for x in (true, true**2, seen, seen**2)]
  moments = training.ColorStats(*means, np.mean((true - seen) ** 2))
  return collapse.describe_collapse(4, moments)


def _scene(kind, steps=4):
  """True colors: images of one color each, or with a thing on white."""
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
  def test_all_white_is(self):
    true = _scene('thing on white')
    self.assertRegex(
      _look(true, np.ones_like(true)),
      r'After 4 steps the run has collapsed: its PSNR of 13.\d+ dB is that of '
      r'one color \(13.\d+ dB\)',
    )

  @parameterized.parameters(0.0, 0.5, 0.9)
  def test_any_one_color_is(self, share):
    """Of the best color's share; the rest is noise of 1 %."""
    true = _scene('photo')
    rng = np.random.default_rng(1)
    seen = true.mean(axis=(0, 1)) + 0.01 * rng.normal(size=true.shape) * share
    self.assertIn('has collapsed', _look(true, seen))

  @parameterized.parameters('thing on white', 'dark', 'uniform', 'photo')
  def test_a_run_that_sees_something_is_not(self, kind):
    """It is a third of the way from one color to the truth."""
    true = _scene(kind)
    seen = true.mean(axis=(0, 1)) + (true - true.mean(axis=(0, 1))) / 3
    self.assertIsNone(_look(true, seen))

  @parameterized.parameters('dark', 'uniform')
  def test_one_color_that_is_nearly_right_is_not(self, kind):
    true = _scene(kind)
    seen = np.broadcast_to(true.mean(axis=(0, 1)), true.shape)
    self.assertIsNone(_look(true, seen))

  def test_varied_but_wrong_colors_are_not(self):
    """A healthy run that has only begun."""
    true = _scene('photo')
    seen = 0.5 + 0.1 * np.random.default_rng(1).normal(size=true.shape)
    self.assertIsNone(_look(true, seen))

  def test_images_of_one_color_each_are_no_scene_of_one_color(self):
    """With a step's rays from one image, only several steps vary."""
    steps = np.linspace(0.1, 0.9, 4)[:, None, None]
    true = np.broadcast_to(steps, (4, 50, 3))
    self.assertIsNone(_look(true, true))
    self.assertIn('collapsed', _look(true, np.full_like(true, 0.5)))

  def test_the_best_constant_is_the_mean(self):
    true = np.array([[0.0, 0.2, 0.4], [1.0, 0.2, 0.4]])
    means = training.ColorStats(*[true.mean(0), (true**2).mean(0)] * 2, 0.0)
    expected = -10 * np.log10(0.25 / 3)
    self.assertAlmostEqual(collapse.constant_psnr(means), expected, places=5)

  def test_seeds(self):
    seeds = [0]
    for _ in range(3):
      seeds.append(collapse.next_seed(seeds[-1]))
    self.assertLen(set(seeds), 4)
    self.assertLess(collapse.next_seed(2**31 - 1), 2**31)

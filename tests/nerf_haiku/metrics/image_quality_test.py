import math

import numpy as np
from absl.testing import parameterized

from nerf_haiku.io import lazy_tensorflow
from nerf_haiku.metrics import image_quality


def _noisy_pair(height, width):
  """A smooth image, and the same with noise: SSIM well between 0 and 1."""
  rng = np.random.default_rng(0)
  row, column = np.mgrid[:height, :width]
  truth = 120 + 60 * np.sin(np.stack([row, column, row + column], -1) / 3)
  image = truth + rng.normal(scale=25, size=truth.shape)
  return np.uint8(image.clip(0, 255)), np.uint8(truth)


def _ssim_loop(image, truth):
  """Equation 13 of Wang et al. 2004 for each whole window and channel."""
  x = np.arange(11) - 5
  window = np.exp(-(x[:, None] ** 2 + x**2) / (2 * 1.5**2))
  window /= window.sum()
  c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
  values = []
  for row in range(image.shape[0] - 10):
    for column in range(image.shape[1] - 10):
      for channel in range(3):
        a, b = (
          np.float64(i[row : row + 11, column : column + 11, channel])
          for i in (image, truth)
        )
        mean_a, mean_b = np.sum(window * a), np.sum(window * b)
        var_a = np.sum(window * (a - mean_a) ** 2)
        var_b = np.sum(window * (b - mean_b) ** 2)
        cov = np.sum(window * (a - mean_a) * (b - mean_b))
        values.append(
          (2 * mean_a * mean_b + c1)
          * (2 * cov + c2)
          / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
        )
  return np.mean(values)


class PsnrTest(parameterized.TestCase):
  @parameterized.parameters(1, 5, 100)
  def test_matches_the_closed_form_of_a_constant_offset(self, offset):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256 - offset, (4, 5, 3), np.uint8)
    image = truth + np.uint8(offset)
    expected = 20 * math.log10(255 / offset)
    self.assertAlmostEqual(image_quality.psnr(image, truth), expected)
    self.assertAlmostEqual(image_quality.psnr(truth, image), expected)

  def test_black_and_white_differ_by_0_db(self):
    black, white = np.zeros((2, 3, 3), np.uint8), np.full((2, 3, 3), 255)
    self.assertEqual(image_quality.psnr(black, white.astype(np.uint8)), 0.0)

  def test_averages_over_pixels_and_channels(self):
    image = np.zeros((2, 5, 3), np.uint8)
    image[1, 4, 2] = 30  # Mean squared error 900 / 30.
    self.assertAlmostEqual(
      image_quality.psnr(image, np.zeros_like(image)),
      10 * math.log10(255**2 / 30),
    )

  def test_equal_images_have_the_best_score(self):
    image, _ = _noisy_pair(4, 5)
    with np.errstate(all='raise'):
      self.assertEqual(image_quality.psnr(image, image), math.inf)

  def test_masked_pixels_have_no_effect(self):
    image = np.zeros((2, 5, 3), np.uint8)
    image[0, 0], image[1, 4] = 200, 30
    mask = np.ones((2, 5), bool)
    mask[0, 0] = False  # Of 9 pixels one differs, by 30.
    self.assertAlmostEqual(
      image_quality.psnr(image, np.zeros_like(image), mask),
      10 * math.log10(255**2 / 100),
    )

  def test_refuses_invalid_images(self):
    image = np.zeros((4, 5, 3), np.uint8)
    for other in (image[:1], image[..., :1], image.astype(np.float32)):
      with self.assertRaises(AssertionError):
        image_quality.psnr(image, other)


class SsimTest(parameterized.TestCase):
  def test_matches_the_definition(self):
    image, truth = _noisy_pair(14, 17)
    expected = _ssim_loop(image, truth)
    self.assertBetween(expected, 0.2, 0.9)
    # It is computed in float32.
    self.assertAlmostEqual(
      image_quality.ssim(image, truth), expected, delta=1e-5
    )

  def test_matches_tensorflow(self):
    image, truth = _noisy_pair(40, 23)
    truth[:20] = 77  # Flat windows as well.
    expected = lazy_tensorflow.module().image.ssim(image, truth, max_val=255)
    self.assertAlmostEqual(
      image_quality.ssim(image, truth), float(expected), delta=1e-5
    )

  def test_of_a_mask_the_windows_around_its_pixels_count(self):
    image, truth = _noisy_pair(14, 17)
    mask = np.zeros((14, 17), bool)
    mask[:, :9] = True  # Of the windows those around columns 5 to 8.
    filled = image_quality.fill(image, truth, mask)
    np.testing.assert_array_equal(filled[mask], image[mask])
    np.testing.assert_array_equal(filled[~mask], truth[~mask])
    expected = _ssim_loop(filled[:, :14], truth[:, :14])
    self.assertAlmostEqual(
      image_quality.ssim(filled, truth, mask), expected, delta=1e-5
    )
    mask[:] = False
    self.assertIsNone(image_quality.ssim(image, truth, mask))

  def test_unrelated_images_have_a_low_score(self):
    rng = np.random.default_rng(1)
    image, truth = rng.integers(0, 256, (2, 13, 12, 3), np.uint8)
    expected = _ssim_loop(image, truth)
    self.assertAlmostEqual(
      image_quality.ssim(image, truth), expected, delta=1e-5
    )

  @parameterized.parameters(100, 2)  # K1 counts where it is dark.
  def test_matches_the_closed_form_of_constants(self, level):
    image = np.full((11, 11, 3), level, np.uint8)
    other, c1 = level // 2, 2.55**2
    expected = (2 * level * other + c1) / (level**2 + other**2 + c1)
    # The variances of flat windows are all rounding: 1e-7 beside K2^2, 9e-4.
    self.assertAlmostEqual(
      image_quality.ssim(image, image // np.uint8(2)), expected, delta=2e-4
    )

  def test_equal_images_have_the_best_score(self):
    image, _ = _noisy_pair(12, 12)
    self.assertAlmostEqual(image_quality.ssim(image, image), 1.0, delta=1e-6)

  def test_small_images_have_no_score(self):
    for size in ((10, 40), (40, 10)):
      image = np.zeros((*size, 3), np.uint8)
      self.assertIsNone(image_quality.ssim(image, image))


class DefinitionsTest(parameterized.TestCase):
  def test_every_metric_has_a_definition(self):
    self.assertSameElements(image_quality.DEFINITIONS, ['psnr', 'ssim'])

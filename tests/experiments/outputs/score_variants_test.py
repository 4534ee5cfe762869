import chex
import numpy as np

from experiments.outputs import score_variants
from tests.support import configs


class ExposureTest(chex.TestCase):
  def test_only_with_exposure(self):
    self.assertEqual(score_variants.make_variants(configs.changed()), {})
    variants = score_variants.make_variants(configs.changed(exposure=True))
    self.assertEqual(set(variants), {'right_half', 'right_half_fitted'})
    self.assertEqual(set(variants), set(score_variants.DEFINITIONS))

  def test_halves(self):
    """The photograph is half as bright, but for the last column."""
    variants = score_variants.make_variants(configs.changed(exposure=True))
    rgb = np.random.default_rng(0).integers(0, 128, (6, 5, 3)) * 2
    truth = rgb // 2
    truth[:, -1] = 255
    rgb, truth = np.uint8(rgb), np.uint8(truth)
    image, right = variants['right_half'](0, rgb, truth)
    np.testing.assert_array_equal(image, rgb[:, 2:])
    np.testing.assert_array_equal(right, truth[:, 2:])
    image, right = variants['right_half_fitted'](0, rgb, truth)
    np.testing.assert_array_equal(image, rgb[:, 2:] // 2)
    np.testing.assert_array_equal(right, truth[:, 2:])

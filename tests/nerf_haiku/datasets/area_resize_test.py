import chex
import numpy as np
from absl.testing import absltest, parameterized

from nerf_haiku.datasets import area_resize
from tests.support import slow_area


def _noise(height, width, channels, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, channels), np.uint8)


class DownscaleTest(chex.TestCase):
  @parameterized.named_parameters(
    ('odd', 33, 17, 16, 8),
    ('thirds', 16, 11, 5, 3),
    ('same', 4, 6, 4, 6),
    ('rows_only', 9, 5, 4, 5),
    ('one', 7, 5, 1, 1),
    ('almost', 9, 8, 8, 7),
  )
  def test_matches_the_definition(self, height, width, rows, columns):
    image = _noise(height, width, 4)
    actual = area_resize.downscale(image, rows, columns)
    expected = slow_area.downscale(image, rows, columns)
    chex.assert_shape(actual, (rows, columns, 4))
    np.testing.assert_allclose(actual / 255, expected / 255, rtol=0, atol=1e-6)

  @parameterized.parameters((2, 2), (3, 3), (8, 8), (2, 4))
  def test_averages_of_whole_blocks_are_exact(self, down, across):
    image = _noise(48, 96, 3)
    blocks = image.reshape(48 // down, down, 96 // across, across, 3)
    actual = area_resize.downscale(image, 48 // down, 96 // across)
    expected = blocks.sum((1, 3)) / (down * across)
    np.testing.assert_array_equal(actual, expected.astype(np.float32))

  def test_refuses_to_enlarge(self):
    with self.assertRaisesRegex(ValueError, 'Cannot downscale 4x4 to 5x2'):
      area_resize.downscale(_noise(4, 4, 3), 5, 2)


if __name__ == '__main__':
  absltest.main()

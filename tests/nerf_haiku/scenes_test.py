import chex
import numpy as np
from absl.testing import parameterized

from nerf_haiku import backgrounds, scenes

_SIZES = [[5, 4], [3, 7], [6, 6]]


class ImagesTest(chex.TestCase):
  def test_images_are_views_of_one_buffer(self):
    images = scenes.Images(
      np.array(
        [
          (i, j // w, j % w)
          for i, (h, w) in enumerate(_SIZES)
          for j in range(h * w)
        ],
        np.uint8,
      ),
      _SIZES,
    )
    self.assertLen(images, 3)
    for i, image in enumerate(images):
      chex.assert_shape(image, (*_SIZES[i], 3))
      self.assertTrue(np.shares_memory(image, images.pixels))
      np.testing.assert_array_equal(image[2, 3], [i, 2, 3])

  def test_sizes_must_add_up(self):
    with self.assertRaisesRegex(ValueError, '12 pixels, got 11'):
      scenes.Images(np.zeros((11, 3), np.uint8), [[3, 4]])

  def test_lazy_images_are_read_on_access(self):
    reads = []
    images = scenes.LazyImages(3, lambda i: reads.append(i) or np.full((1,), i))
    self.assertEqual(reads, [])
    self.assertEqual([int(x[0]) for x in images], [0, 1, 2])
    self.assertEqual(reads, [0, 1, 2])


_BACKGROUNDS = backgrounds.BLACK, backgrounds.WHITE, (0.3, 0.4, 0.5)


class ToFloatTest(chex.TestCase):
  def test_bit_depths_agree(self):
    image = np.arange(256, dtype=np.uint8).reshape(8, 8, 4)
    deep = image.astype(np.uint16) * 257
    for background in _BACKGROUNDS:
      np.testing.assert_allclose(
        scenes.to_float(image, background=background),
        scenes.to_float(deep, background=background),
        atol=1e-6,
      )

  @parameterized.parameters((np.uint8, 255), (np.uint16, 65535))
  def test_is_a_mean_of_color_and_background(self, dtype, most):
    """Of a fifth and of three fifths, weighted by an alpha of two fifths."""
    image = np.array([[[most // 5, most * 3 // 5, 0, most * 2 // 5]]], dtype)
    found = scenes.to_float(image, background=(0.3, 0.4, 0.5))
    self.assertEqual(found.dtype, np.float32)
    np.testing.assert_allclose(
      found,
      [[[0.4 * 0.2 + 0.6 * 0.3, 0.4 * 0.6 + 0.6 * 0.4, 0.6 * 0.5]]],
      atol=1e-6,
    )
    opaque = scenes.to_float(image[..., :3], background=(0.3, 0.4, 0.5))
    np.testing.assert_allclose(opaque, [[[0.2, 0.6, 0.0]]], atol=1e-6)

  def test_color_under_zero_alpha_has_no_effect(self):
    image = np.array([[[9, 99, 199, 0]]], np.uint8)
    for background in _BACKGROUNDS:
      seen = scenes.to_float(image, background=background)
      np.testing.assert_array_equal(seen, np.float32([[background]]))

import chex
import numpy as np

from nerf_haiku import scenes

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


class ToFloatTest(chex.TestCase):
  def test_bit_depths_agree(self):
    image = np.arange(256, dtype=np.uint8).reshape(8, 8, 4)
    deep = image.astype(np.uint16) * 257
    for white in (False, True):
      np.testing.assert_allclose(
        scenes.to_float(image, white_background=white),
        scenes.to_float(deep, white_background=white),
        atol=1e-6,
      )

  def test_color_under_zero_alpha_has_no_effect(self):
    image = np.array([[[9, 99, 199, 0]]], np.uint8)
    for white in (False, True):
      seen = scenes.to_float(image, white_background=white)
      np.testing.assert_array_equal(seen, np.full((1, 1, 3), float(white)))

"""Photographs at several sizes are means of areas, with cameras to match."""

import chex
import numpy as np

from nerf_haiku import camera_paths, cameras, scenes
from nerf_haiku.datasets import scales


def _split(lazy=False, channels=4, masks=None):
  sizes = np.array([[8, 12], [7, 5]])
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (8 * 12 + 7 * 5, channels), np.uint8)
  images = scenes.Images(pixels, sizes)
  if lazy:
    images = scenes.LazyImages(2, images.__getitem__)
  views = cameras.pinhole(camera_paths.circle(2), sizes, [20.0, 30.0])
  return scenes.Split(images, views, 'digest', ('a', 'b'), masks)


class AddScalesTest(chex.TestCase):
  def test_pixels_are_means_of_blocks(self):
    split = _split()
    scaled = scales.add_scales(split, 3)
    chex.assert_equal(len(scaled.images), 6)
    np.testing.assert_array_equal(
      scaled.images.sizes, [[8, 12], [7, 5], [4, 6], [3, 2], [2, 3], [1, 1]]
    )
    image = split.images[0].astype(np.float64)
    for index, factor in ((0, 1), (2, 2), (4, 4)):
      blocks = image.reshape(8 // factor, factor, 12 // factor, factor, 4)
      np.testing.assert_allclose(
        scaled.images[index], 257 * blocks.mean((1, 3)), atol=0.51
      )
    whole = split.images[1].astype(np.float64).mean((0, 1))
    np.testing.assert_allclose(scaled.images[5][0, 0], 257 * whole, atol=0.51)

  def test_cameras_see_the_same_from_the_same_places(self):
    scaled = scales.add_scales(_split(), 2)
    np.testing.assert_array_equal(
      scaled.cameras.camera_to_world[:2], scaled.cameras.camera_to_world[2:]
    )
    # 7 x 5 becomes 3 x 2: each side by its own factor.
    np.testing.assert_allclose(
      scaled.cameras.intrinsics[2:],
      [[10, 10, 3, 2], [30 * 2 / 5, 30 * 3 / 7, 1, 1.5]],
      rtol=1e-6,
    )
    self.assertEqual(scaled.names, ('a', 'b', 'a_2', 'b_2'))

  def test_images_that_are_read_later_are_scaled_then(self):
    now, later = (scales.add_scales(_split(x), 2) for x in (False, True))
    self.assertIsInstance(later.images, scenes.LazyImages)
    for i in range(4):
      np.testing.assert_array_equal(now.images[i], later.images[i])

  def test_a_pixel_counts_where_all_of_it_does(self):
    shown = np.ones((8, 12), np.uint8)
    shown[0, 3] = 0
    pixels = np.concatenate([shown.ravel(), np.ones(35, np.uint8)])[:, None]
    masks = scenes.Images(pixels, [[8, 12], [7, 5]])
    scaled = scales.add_scales(_split(masks=masks), 2).masks
    counts = np.ones((4, 6), bool)
    counts[0, 1] = False
    np.testing.assert_array_equal(scaled[2][..., 0] > 0, counts)
    self.assertTrue(np.all(scaled[3] > 0))

  def test_one_scale_is_the_photographs(self):
    split = _split()
    self.assertIs(scales.add_scales(split, 1), split)

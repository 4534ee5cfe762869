import chex
import jax
import numpy as np
from absl.testing import parameterized

from nerf_haiku import backgrounds, scenes
from nerf_haiku.datasets import batches

_SIZES = [[5, 4], [3, 7], [6, 6]]
_UNUSED = (None, None, None)  # Keys and step: pixels are drawn already.


def _images(channels=3):
  """Images whose colors say where they are from: image, row, column."""
  pixels = [
    (i, row, column, 255)[:channels]
    for i, (height, width) in enumerate(_SIZES)
    for row in range(height)
    for column in range(width)
  ]
  return scenes.Images(np.array(pixels, np.uint8), _SIZES)


def _batches(**changes):
  settings = {
    'seed': 0,
    'start_step': 0,
    'num_steps': 3,
    'num_rays': 400,
    'batching': True,
    'precrop_iters': 0,
    'precrop_frac': 0.5,
  } | changes
  images = settings.pop('images', _images())
  converting = {
    'background': settings.pop('background', backgrounds.WHITE),
    'with_alpha': settings.pop('with_alpha', False),
  }
  read = batches.make_feed(**converting).read
  return [
    read(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), pixels), *_UNUSED)
    for pixels in batches.make_batches(images, **settings)
  ]


class BatchesTest(chex.TestCase):
  @parameterized.product(batching=(False, True), channels=(3, 4))
  def test_colors_match_the_pixels(self, batching, channels):
    for batch in _batches(batching=batching, images=_images(channels)):
      expected = np.column_stack([batch.camera, batch.pixel]) / 255
      np.testing.assert_allclose(batch.rgb, expected, atol=1e-6)
      heights, widths = np.array(_SIZES)[batch.camera].T
      self.assertTrue(np.all(batch.pixel[:, 0] < heights))
      self.assertTrue(np.all(batch.pixel[:, 1] < widths))

  def test_opacity_is_included_on_request(self):
    (batch, *_) = _batches(batching=True, images=_images(4), with_alpha=True)
    images = _images(4)
    expected = [
      images[c][row, column, 3] / 255
      for c, (row, column) in zip(batch.camera, batch.pixel, strict=True)
    ]
    np.testing.assert_allclose(batch.alpha, expected, atol=1e-6)
    (batch, *_) = _batches(batching=True, images=_images(3), with_alpha=True)
    np.testing.assert_array_equal(batch.alpha, 1.0)
    (batch, *_) = _batches(batching=True, images=_images(3))
    self.assertIsNone(batch.alpha)

  def test_batches_are_split_over_devices(self):
    arguments = {
      'seed': 0,
      'start_step': 0,
      'num_steps': 1,
      'num_rays': 8,
      'batching': True,
      'precrop_iters': 0,
      'precrop_frac': 0.5,
    }
    (batch,) = batches.make_batches(_images(), **arguments)
    count = jax.local_device_count()
    chex.assert_shape(batch.camera, (count, 8 // count))
    chex.assert_shape([batch.pixel], (count, 8 // count, 2))
    chex.assert_shape([batch.color], (count, 8 // count, 3))
    chex.assert_type([batch.camera, batch.pixel], int)
    self.assertEqual(batch.color.dtype, np.uint8)  # As it is stored.

  @parameterized.parameters(False, True)
  def test_a_batch_depends_on_seed_and_step_alone(self, batching):
    begun = _batches(batching=batching, num_steps=6)
    resumed = _batches(batching=batching, start_step=4, num_steps=6)
    chex.assert_trees_all_equal(begun[4:], resumed)
    self.assertFalse(np.array_equal(begun[0].pixel, begun[1].pixel))
    other = _batches(batching=batching, seed=1)
    self.assertFalse(np.array_equal(begun[0].pixel, other[0].pixel))

  @parameterized.parameters(False, True)
  def test_processes_read_parts_of_one_batch(self, batching):
    whole = _batches(batching=batching)
    parts = [
      _batches(batching=batching, process=i, num_processes=5) for i in range(5)
    ]
    for batch, *of_step in zip(whole, *parts, strict=True):
      self.assertLen(of_step[0].camera, 400 // 5)
      joined = jax.tree.map(lambda *x: np.concatenate(x), *of_step)
      chex.assert_trees_all_equal(joined, batch)

  def test_batching_draws_pixels_uniformly(self):
    (batch,) = _batches(num_rays=77_000, num_steps=1)
    drawn = np.column_stack([batch.camera, batch.pixel])
    kinds, counts = np.unique(drawn, axis=0, return_counts=True)
    self.assertLen(kinds, 20 + 21 + 36)
    # 1000 each, within 5 standard deviations.
    np.testing.assert_allclose(counts, 1000, atol=5 * 1000**0.5)

  @parameterized.parameters(True, False)
  def test_masked_pixels_are_not_drawn(self, batching):
    images = _images()
    mask = np.zeros((len(images.pixels), 1), np.uint8)
    allowed = [0, 7, 19, 21, 40, 41, 76]  # Each image has one or more.
    mask[allowed] = 1
    drawn = _batches(
      masks=scenes.Images(mask, _SIZES),
      batching=batching,
      num_rays=700,
      num_steps=30,
      precrop_iters=0 if batching else 15,
    )
    pixels = [np.column_stack([x.camera, x.pixel]) for x in drawn]
    for batch, expected in zip(drawn, pixels, strict=True):
      np.testing.assert_allclose(batch.rgb, expected / 255, atol=1e-6)
    kinds, counts = np.unique(
      np.concatenate(pixels), axis=0, return_counts=True
    )
    np.testing.assert_array_equal(kinds, images.pixels[allowed])
    if batching:  # 3000 each, within 5 standard deviations.
      np.testing.assert_allclose(counts, 3000, atol=5 * 3000**0.5)

  def test_a_crop_is_of_the_pixels_that_count(self):
    mask = np.ones((40, 20, 1), np.uint8)
    mask[:20] = 0
    images = scenes.Images(np.zeros((800, 3), np.uint8), [[40, 20]])
    drawn = _batches(
      images=images,
      masks=scenes.Images(mask.reshape(-1, 1), [[40, 20]]),
      batching=False,
      precrop_iters=2,
      num_rays=4000,
    )
    for batch, ends in zip(
      drawn, (([20, 5], [29, 14]),) * 2 + (([20, 0], [39, 19]),), strict=True
    ):
      np.testing.assert_array_equal(batch.pixel.min(0), ends[0])
      np.testing.assert_array_equal(batch.pixel.max(0), ends[1])

  def test_without_batching_a_step_uses_one_image(self):
    drawn = _batches(batching=False, num_steps=300, num_rays=40)
    for batch in drawn:
      self.assertLen(set(batch.camera), 1)
    counts = np.bincount([batch.camera[0] for batch in drawn])
    np.testing.assert_allclose(counts, 100, atol=5 * (100 * 2 / 3) ** 0.5)

  def test_first_steps_use_the_central_crop(self):
    images = scenes.Images(np.zeros((40 * 20, 3), np.uint8), [[40, 20]])
    drawn = _batches(
      images=images,
      batching=False,
      precrop_iters=2,
      precrop_frac=0.5,
      num_rays=4000,
    )
    for batch in drawn[:2]:  # The original's rows 10 to 29, columns 5 to 14.
      np.testing.assert_array_equal(batch.pixel.min(0), [10, 5])
      np.testing.assert_array_equal(batch.pixel.max(0), [29, 14])
    np.testing.assert_array_equal(drawn[2].pixel.min(0), [0, 0])
    np.testing.assert_array_equal(drawn[2].pixel.max(0), [39, 19])

  @parameterized.parameters(1, 3)
  def test_crop_of_a_tiny_image_stays_inside(self, width):
    images = scenes.Images(np.zeros((3 * width, 3), np.uint8), [[3, width]])
    (batch,) = _batches(
      images=images,
      batching=False,
      precrop_iters=9,
      precrop_frac=0.01,
      num_steps=1,
    )
    self.assertTrue(np.all((batch.pixel >= 0) & (batch.pixel < [3, width])))

  @parameterized.parameters(
    (backgrounds.WHITE, [0.8, 0.8, 0.8]),
    (backgrounds.BLACK, [0.2, 0.2, 0.2]),
    ((0.25, 0.5, 1.0), [0.35, 0.5, 0.8]),
  )
  def test_composites_over_the_background(self, background, expected):
    pixels = np.full((4, 4), [128, 128, 128, 102], np.uint8)  # alpha 0.4
    images = scenes.Images(pixels, [[2, 2]])
    (batch,) = _batches(images=images, background=background, num_steps=1)
    np.testing.assert_allclose(
      batch.rgb, np.tile(expected, (400, 1)), atol=2e-3
    )

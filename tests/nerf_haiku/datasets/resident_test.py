"""Batches drawn on devices: which pixels, how often, and of which color."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from absl.testing import parameterized

from nerf_haiku import backgrounds, scenes
from nerf_haiku.datasets import batches, resident

_SIZES = [[5, 4], [3, 7], [6, 6]]
_NUM_PIXELS = 20 + 21 + 36
# A test of this significance fails for one seed in a million.
_LEAST_P = 1e-6


def _images(channels=3, dtype=np.uint8):
  """Images whose colors say where they are from: image, row, column."""
  pixels = [
    (i, row, column, 255)[:channels]
    for i, (height, width) in enumerate(_SIZES)
    for row in range(height)
    for column in range(width)
  ]
  return scenes.Images(np.array(pixels, dtype), _SIZES)


def _read(
  images, num_rays, *, steps=range(1), seed=0, index=None, masks=None, **changes
):
  """Returns the batches of some steps, or their rays of these indices."""
  converting = {
    x: changes.pop(x) for x in ('background', 'with_alpha') if x in changes
  }
  held = resident.make_resident(images, masks=masks, **changes)
  changes.pop('precrop_frac', None)
  feed = resident.make_feed(num_rays=num_rays, **changes, **converting)
  index = jnp.arange(num_rays) if index is None else index

  @jax.jit
  def read(step):
    key = jax.random.fold_in(jax.random.key(seed), step)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    return feed.read(held, keys, key, step)

  return [jax.tree.map(np.asarray, read(step)) for step in steps]


def _places(batch):
  return np.column_stack([batch.camera, batch.pixel])


class ResidentTest(chex.TestCase):
  @parameterized.product(
    batching=(False, True), channels=(3, 4), dtype=(np.uint8, np.uint16)
  )
  def test_colors_match_the_pixels(self, batching, channels, dtype):
    images = _images(channels, dtype)
    white = np.iinfo(dtype).max
    if channels == 4:
      images.pixels[:, 3] = white
    for batch in _read(images, 400, batching=batching, steps=range(3)):
      chex.assert_type(
        [batch.camera, batch.pixel, batch.rgb], [int, int, float]
      )
      np.testing.assert_allclose(batch.rgb, _places(batch) / white, atol=1e-6)

  @parameterized.product(batching=(False, True), with_masks=(False, True))
  def test_those_of_the_host_can_be_drawn_and_no_others(
    self, batching, with_masks
  ):
    """The same pixels as by `batches`, cropped and not."""
    images, masks = _images(), None
    if with_masks:
      counts = np.random.default_rng(0).integers(0, 2, (_NUM_PIXELS, 1))
      masks = scenes.Images(counts.astype(np.uint8), _SIZES)
    settings = {'batching': batching, 'masks': masks}
    if not batching:
      settings |= {'precrop_iters': 20, 'precrop_frac': 0.6}
    drawn = _read(images, 300, steps=range(40), **settings)
    expected = list(
      batches.make_batches(images, num_steps=40, num_rays=304, **settings)
    )
    for part in (slice(20), slice(20, 40)):
      here, there = (
        np.unique(np.concatenate([_places(x) for x in y]), axis=0)
        for y in (
          drawn[part],
          [
            jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), x)
            for x in expected[part]
          ],
        )
      )
      np.testing.assert_array_equal(here, there)

  @parameterized.parameters(True, False)
  def test_pixels_are_drawn_uniformly(self, batching):
    """Of all images each pixel; else each image, and each pixel of it."""
    drawn = _read(_images(), 100, batching=batching, steps=range(3000))
    places = np.stack([_places(x) for x in drawn])
    if batching:
      _, counts = np.unique(places.reshape(-1, 3), axis=0, return_counts=True)
      self.assertLen(counts, _NUM_PIXELS)
      self.assertGreater(scipy.stats.chisquare(counts).pvalue, _LEAST_P)
      return
    cameras = places[:, :, 0]
    self.assertTrue(np.all(cameras == cameras[:, :1]))
    counts = np.bincount(cameras[:, 0])
    self.assertGreater(scipy.stats.chisquare(counts).pvalue, _LEAST_P)
    for camera, (height, width) in enumerate(_SIZES):
      pixels = places[cameras == camera][:, 1:]
      _, counts = np.unique(pixels, axis=0, return_counts=True)
      self.assertLen(counts, height * width)
      self.assertGreater(scipy.stats.chisquare(counts).pvalue, _LEAST_P)

  def test_rows_and_columns_of_large_images_are_uniform_and_independent(self):
    """Of more pixels than float32 has values."""
    height, width = 3000, 9000
    images = scenes.Images(
      np.zeros((height * width, 3), np.uint8), [[height, width]]
    )
    for batching in (True, False):
      (batch,) = _read(images, 40_000, batching=batching)
      row, column = batch.pixel.T
      table, _, _ = np.histogram2d(
        row, column, bins=10, range=[[0, height], [0, width]]
      )
      self.assertGreater(scipy.stats.chisquare(table.ravel()).pvalue, _LEAST_P)
      # The last digits of the columns too.
      counts = np.bincount(column % 8)
      self.assertGreater(scipy.stats.chisquare(counts).pvalue, _LEAST_P)

  def test_steps_and_seeds_differ_and_nothing_else_counts(self):
    (first, second) = _read(_images(), 64, steps=range(2))
    self.assertFalse(np.array_equal(first.pixel, second.pixel))
    (other,) = _read(_images(), 64, seed=1)
    self.assertFalse(np.array_equal(first.pixel, other.pixel))
    # A device that has only some of the rays draws the same for them.
    index = jnp.arange(32, 64)
    for batching in (True, False):
      (whole,), (part,) = (
        _read(_images(), 64, batching=batching, index=x) for x in (None, index)
      )
      chex.assert_trees_all_equal(jax.tree.map(lambda x: x[32:], whole), part)

  @parameterized.parameters(
    (backgrounds.WHITE, [0.8, 0.8, 0.8]),
    (backgrounds.BLACK, [0.2, 0.2, 0.2]),
    ((0.25, 0.5, 1.0), [0.35, 0.5, 0.8]),
  )
  def test_composites_over_the_background(self, background, expected):
    pixels = np.full((4, 4), [128, 128, 128, 102], np.uint8)  # alpha 0.4
    images = scenes.Images(pixels, [[2, 2]])
    (batch,) = _read(images, 5, background=background, with_alpha=True)
    np.testing.assert_allclose(batch.rgb, np.tile(expected, (5, 1)), atol=2e-3)
    np.testing.assert_allclose(batch.alpha, 0.4, atol=1e-6)

  def test_integers_are_the_high_half_of_a_product(self):
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 2**31, 10_000, np.uint32)
    values = rng.integers(0, 2**32, 10_000, np.uint32)
    values[:3], counts[:3] = (2**32 - 1, 0, 2**31), (2**31 - 1, 9, 3)
    expected = (values.astype(np.uint64) * counts) >> np.uint64(32)
    np.testing.assert_array_equal(
      resident._integers(jnp.asarray(values), jnp.asarray(counts)), expected
    )

  def test_too_many_pixels_are_refused(self):
    class Many:
      pixels = np.broadcast_to(np.uint8(0), (2**31, 3))

    self.assertFalse(resident.can_be_drawn(Many))
    with self.assertRaisesRegex(ValueError, '2147483648 pixels'):
      resident.make_resident(Many)

"""Batches that the devices draw from training images they hold.

The twin of `batches`: the same pixels may be drawn, as often, but other ones
for the same seed. No host takes part in a step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import arrays, backgrounds, scenes, training
from nerf_haiku.datasets import batches

# A ray's key is folded with this for its pixel, and a step's for its image: no
# position on a ray, and no ray.
_PIXEL_STREAM = np.uint32(2**32 - 3)
_IMAGE_STREAM = np.uint32(2**32 - 4)
_MAX_PIXELS = 2**31 - 1  # Their indices are int32.


class Choice(NamedTuple):
  """The pixels of `N` images that may be drawn."""

  # [N, 2, 2] int32 of each image the first row and column, and those after the
  # last.
  window: arrays.Array
  # [M] int32 in ascending order, indices of the pixels that count; None: all of
  # the windows do.
  unmasked: arrays.Array | None
  # [N + 1] int32 where each image's begin among them; None without them.
  starts: arrays.Array | None


class Resident(NamedTuple):
  """`N` training images, as they are stored, and what is drawn of them."""

  pixels: arrays.Array  # [P, C] uint8 or uint16, as `scenes.Images` has them.
  first: arrays.Array  # [N] int32 the first pixel of each image.
  width: arrays.Array  # [N] int32
  whole: Choice
  crop: Choice | None  # of the first steps; None: as `whole`.


def make_resident(
  images: scenes.Images,
  *,
  masks: scenes.Images | None = None,
  batching: bool = True,
  precrop_iters: int = 0,
  precrop_frac: float = 0.5,
) -> Resident:
  """Returns the host arrays that each device needs.

  Args:
    images: `N` training images of fewer than 2**31 pixels together.
    masks: of the images; pixels are drawn where they are not 0.
    batching: see `batches.make_batches`.
    precrop_iters: see `batches.make_batches`.
    precrop_frac: see `batches.make_batches`.

  Raises:
    ValueError: if there are more pixels.
  """
  if not can_be_drawn(images):
    raise ValueError(
      f'images: {len(images.pixels)} pixels are more than {_MAX_PIXELS}.'
    )
  crop = None
  if precrop_iters and not batching:
    crop = _choice(images, masks, precrop_frac)
  return Resident(
    pixels=images.pixels,
    first=images.offsets[:-1].astype(np.int32),
    width=images.sizes[:, 1].astype(np.int32),
    whole=_choice(images, masks, 1.0),
    crop=crop,
  )


def num_bytes(images: scenes.Images, masks: scenes.Images | None) -> int:
  """Returns the bytes that a device holds, at most."""
  index = 0 if masks is None else 2 * len(masks.pixels) * 4
  return images.pixels.nbytes + index


def can_be_drawn(images: scenes.Images) -> bool:
  """Returns whether there are few enough pixels to draw from."""
  return len(images.pixels) <= _MAX_PIXELS


def make_feed(
  *,
  num_rays: int,
  batching: bool = True,
  precrop_iters: int = 0,
  background: backgrounds.Color = backgrounds.BLACK,
  with_alpha: bool = False,
) -> training.Feed:
  """Returns what makes batches of a `Resident`, see `batches.make_batches`.

  Args:
    num_rays: `R`, pixels in the whole batch of a step.
    batching: whether the pixels of a step come from all images, or from one.
    precrop_iters: number of steps that use the crop; 0 if batching.
    background: color that alpha is composited over.
    with_alpha: whether batches include the true opacity.
  """

  def read(
    images: Resident, keys: jax.Array, step_key: jax.Array, step: jax.Array
  ) -> scenes.Batch:
    if batching:
      pixels = _draw_from_all(images, keys)
    else:
      pixels = _draw_from_one(images, keys, step_key, step < precrop_iters)
    return scenes.to_batch(pixels, background=background, with_alpha=with_alpha)

  return training.Feed(read, num_rays)


def _choice(
  images: scenes.Images, masks: scenes.Images | None, crop: float
) -> Choice:
  window = np.stack([batches.crop_window(x, crop) for x in images.sizes])
  unmasked = starts = None
  if masks is not None:
    unmasked = batches.find_unmasked(masks, window).astype(np.int32)
    starts = np.searchsorted(unmasked, images.offsets).astype(np.int32)
  return Choice(window.astype(np.int32), unmasked, starts)


def _draw_from_all(images: Resident, keys: jax.Array) -> scenes.StoredPixels:
  unmasked = images.whole.unmasked
  total = len(images.pixels if unmasked is None else unmasked)
  flat = _integers(_bits(keys, 1)[:, 0], np.uint32(total))
  if unmasked is not None:
    flat = jnp.asarray(unmasked)[flat]
  first = jnp.asarray(images.first)
  camera = jnp.searchsorted(first, flat, side='right', method='scan_unrolled')
  return _look_up(images, camera.astype(jnp.int32) - 1, flat)


def _draw_from_one(
  images: Resident, keys: jax.Array, step_key: jax.Array, is_cropped: jax.Array
) -> scenes.StoredPixels:
  bits = jax.random.bits(jax.random.fold_in(step_key, _IMAGE_STREAM))
  camera = _integers(bits, np.uint32(len(images.first)))
  bits = _bits(keys, 2)
  flat = _pick(images, images.whole, camera, bits)
  if images.crop is not None:
    cropped = _pick(images, images.crop, camera, bits)
    flat = jnp.where(is_cropped, cropped, flat)
  return _look_up(images, jnp.full(len(flat), camera), flat)


def _pick(
  images: Resident, choice: Choice, camera: jax.Array, bits: jax.Array
) -> jax.Array:
  """Returns indices `[R]` of pixels of one image, from random bits `[R, 2]`."""
  if choice.unmasked is None or choice.starts is None:
    low, high = jnp.asarray(choice.window)[camera]
    row, column = (
      low[i] + _integers(bits[:, i], (high - low)[i].astype(jnp.uint32))
      for i in (0, 1)
    )
    first, width = jnp.asarray(images.first), jnp.asarray(images.width)
    flat: jax.Array = first[camera] + row * width[camera] + column
    return flat
  start, end = (jnp.asarray(choice.starts)[camera + i] for i in (0, 1))
  index = _integers(bits[:, 0], (end - start).astype(jnp.uint32))
  return jnp.asarray(choice.unmasked)[start + index]


def _look_up(
  images: Resident, camera: jax.Array, flat: jax.Array
) -> scenes.StoredPixels:
  """Returns the pixels of these indices `[R]`, of images `[R]`."""
  first, width = (jnp.asarray(x)[camera] for x in (images.first, images.width))
  row, column = jnp.divmod(flat - first, width)
  return scenes.StoredPixels(
    camera=camera,
    pixel=jnp.stack([row, column], axis=-1),
    color=jnp.asarray(images.pixels)[flat],
  )


def _bits(keys: jax.Array, count: int) -> jax.Array:
  """Returns random bits `[R, count]` uint32, of the rays with these keys."""

  def draw(key: jax.Array) -> jax.Array:
    stream = jax.random.fold_in(key, _PIXEL_STREAM)
    return jax.random.bits(stream, (count,))

  return jax.vmap(draw)(keys)


def _integers(bits: jax.Array, count: jax.Array | np.uint32) -> jax.Array:
  """Returns `bits * count / 2**32`, rounded down, as int32 below `count`.

  In integers: float32 has 2**24 values, fewer than the images have pixels. The
  halves of 16 bits are multiplied on their own, as there is no uint64.
  """
  half, mask = np.uint32(16), np.uint32(0xFFFF)
  high, low = bits >> half, bits & mask
  count_high, count_low = count >> half, count & mask
  middle = (low * count_low >> half) + (high * count_low & mask)
  # At most 3 * (2**16 - 1): nothing is carried away.
  middle += low * count_high & mask
  total = high * count_high + (high * count_low >> half)
  total += (low * count_high >> half) + (middle >> half)
  return total.astype(jnp.int32)

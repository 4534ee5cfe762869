"""Makes 8-bit images for display: colors, depth, contact sheets, PNG files."""

import os
from collections.abc import Sequence

import chex
import imageio.v3 as iio
import numpy as np

from nerf_haiku import arrays
from nerf_haiku.io import files

_GAP = 4  # White pixels between images.

# Every 51st of the 256 colors of `plasma` (S. van der Walt and N. Smith, CC0,
# github.com/BIDS/colormap), from near to far. Interpolated linearly, they stay
# within 9 levels of the full table, and luminance decreases.
_PLASMA = (
  np.array(
    [
      [240, 249, 33],
      [252, 166, 54],
      [225, 100, 98],
      [177, 42, 144],
      [106, 0, 168],
      [13, 8, 135],
    ]
  )
  / 255
)


def to_uint8(image: arrays.Array) -> np.ndarray:
  """Converts colors to 8 bits, rounding halves up.

  Args:
    image: floats of any shape, clipped to [0, 1].

  Returns:
    uint8 of the same shape.

  Raises:
    ValueError: if a value is NaN.
  """
  chex.assert_type(image, float)
  # In float32, the number just below 0.5 plus 0.5 would be 1.
  values = np.asarray(image, np.float64)
  if num_nan := np.count_nonzero(np.isnan(values)):
    raise ValueError(f'image has {num_nan} NaN among {values.size} values.')
  return np.floor(np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)


def to_gray(values: arrays.Array, white: float) -> np.ndarray:
  """Converts values to levels of gray.

  Args:
    values: `[H, W]` floats; 0 is black.
    white: the value shown in white.

  Returns:
    `[H, W, 3]` uint8.
  """
  chex.assert_rank(values, 2)
  level = to_uint8(np.asarray(values, np.float32) / np.float32(white))
  return np.repeat(level[..., None], 3, axis=-1)


def encode_png(image: np.ndarray) -> bytes:
  """Encodes `[H, W, 3]` or `[H, W]`, uint8 or uint16, as a PNG file."""
  return iio.imwrite('<bytes>', image, extension='.png')


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
  """Writes a PNG file atomically, see `files.write`.

  Args:
    path: the file, in an existing folder.
    image: `[H, W, 3]` uint8.

  Raises:
    WriteError: if the file cannot be written; an existing one is unchanged.
  """
  chex.assert_shape(image, (None, None, 3))
  chex.assert_type(image, np.uint8)
  files.write(path, encode_png(image))


def depth_image(
  depth: arrays.Array,
  opacity: arrays.Array,
  near: float,
  far: float,
  *,
  even_to: float | None = None,
) -> np.ndarray:
  """Colors a depth image: yellow is near, blue is far, white is empty.

  Args:
    depth: `[H, W]` sum of weight times t, not divided by opacity.
    opacity: `[H, W]` in [0, 1]; colors fade to white as it approaches 0.
    near: t at and before which pixels are yellow.
    far: t at and beyond which pixels are blue; colors are linear in t between.
    even_to: t beyond which they are linear in 1 / t instead, where far is much
      farther than what is in the middle of the scene; None: nowhere.

  Returns:
    `[H, W, 3]` uint8.

  Raises:
    ValueError: unless `near < far`, or if a value is NaN.
  """
  chex.assert_rank([depth, opacity], 2)
  chex.assert_equal_shape([depth, opacity])
  chex.assert_type([depth, opacity], float)
  if not near < far:
    raise ValueError(f'near must be less than far, got {near} and {far}.')
  depth, opacity = np.asarray(depth, float), np.asarray(opacity, float)
  t = depth / np.where(opacity > 0, opacity, 1)
  ends = np.array([near, far])
  if even_to is not None:
    ends, t = _bend(ends / even_to), _bend(t / even_to)
  knots = np.linspace(ends[0], ends[1], len(_PLASMA))
  color = np.stack([np.interp(t, knots, c) for c in _PLASMA.T], -1)
  return to_uint8(1 + opacity[..., None] * (color - 1))


def _bend(distance: np.ndarray) -> np.ndarray:
  """Maps distances over 1 to 2 minus their inverse, less than 2."""
  return np.where(distance <= 1, distance, 2 - 1 / np.maximum(distance, 1))


def side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
  """Joins images from left to right, with 4 white pixels between them.

  Args:
    images: one or more, `[H, W, 3]` uint8; `W` may differ.

  Returns:
    `[H, sum of W and gaps, 3]` uint8.

  Raises:
    ValueError: if the heights differ.
  """
  heights = [len(image) for image in images]
  if len(set(heights)) > 1:
    raise ValueError(f'images must be of one height, got {heights}.')
  return _join(images, axis=1)


def contact_sheet(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
  """Lays images out in rows, with 4 white pixels between them.

  Args:
    images: one or more, `[H, W, 3]` uint8, in reading order.
    columns: images in each row; the last row is filled up with white.

  Returns:
    `[rows of H and gaps, columns of W and gaps, 3]` uint8.

  Raises:
    ValueError: if the sizes differ, or `columns` is less than 1.
  """
  if columns < 1:
    raise ValueError(f'columns must be at least 1, got {columns}.')
  sizes = sorted({image.shape[:2] for image in images})
  if len(sizes) > 1:
    raise ValueError(f'images must be of one size, got {sizes}.')
  blanks = [np.full_like(images[0], 255)] * (-len(images) % columns)
  cells = [*images, *blanks]
  starts = range(0, len(cells), columns)
  return _join([_join(cells[i : i + columns], 1) for i in starts], 0)


def _join(images: Sequence[np.ndarray], axis: int) -> np.ndarray:
  """Concatenates images along an axis, with gaps; other sides are equal."""
  chex.assert_shape(images, (None, None, 3))
  chex.assert_type(images, np.uint8)
  shape = list(images[0].shape)
  shape[axis] = _GAP
  gap = np.full(shape, 255, np.uint8)
  parts = [part for image in images for part in (gap, image)]
  return np.concatenate(parts[1:], axis)

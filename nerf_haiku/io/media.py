"""Images for people to look at: 8-bit colours, PNG files, coloured depth."""

import os
from collections.abc import Sequence

import chex
import imageio.v3 as iio
import numpy as np

from nerf_haiku.io import files

_GAP = 4  # White pixels between images shown together.

# Every 51st of the 256 colours of `plasma` (S. van der Walt and N. Smith, CC0,
# github.com/BIDS/colormap), from near to far. Lines between them stay within 9
# grey levels of the whole table, and luminance falls along them.
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


def to_uint8(image: chex.Array) -> np.ndarray:
  """Rounds colours to 8 bits, halves upwards.

  Args:
    image: floats of any shape; what is outside [0, 1] is clipped.

  Returns:
    uint8 of the same shape.

  Raises:
    ValueError: for a NaN, which is no colour.
  """
  chex.assert_type(image, float)
  # Not in float32, where a half less one bit plus a half is 1.
  values = np.asarray(image, np.float64)
  if num_nan := np.count_nonzero(np.isnan(values)):
    raise ValueError(f'image has {num_nan} NaN among {values.size} values.')
  return np.floor(np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)


def grey(values: chex.Array, most: float) -> np.ndarray:
  """Values `[H, W]` from 0, black, to `most`, white, as `[H, W, 3]` uint8."""
  chex.assert_rank(values, 2)
  level = to_uint8(np.asarray(values, np.float32) / np.float32(most))
  return np.repeat(level[..., None], 3, axis=-1)


def encode_png(image: np.ndarray) -> bytes:
  """A PNG of `[H, W, 3]` or `[H, W]`, uint8 or uint16."""
  return iio.imwrite('<bytes>', image, extension='.png')


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
  """Writes a PNG whole or not at all; the file that was there is replaced.

  Args:
    path: the file; its folder exists. See `files.write`.
    image: `[H, W, 3]` uint8.

  Raises:
    OSError: if the file can not be written; an older one is left as it was.
  """
  chex.assert_shape(image, (None, None, 3))
  chex.assert_type(image, np.uint8)
  files.write(path, encode_png(image))


def depth_image(
  depth: chex.Array, opacity: chex.Array, near: float, far: float
) -> np.ndarray:
  """Colours depth: yellow is near, blue is far, white is empty.

  Args:
    depth: `[H, W]` sum of weight times t, as rendered: not divided by opacity.
    opacity: `[H, W]` in [0, 1]; the colour fades to white as it goes to 0.
    near: the t shown in yellow, as is all before it.
    far: the t shown in blue, as is all behind it; colours are linear in t.

  Returns:
    `[H, W, 3]` uint8.

  Raises:
    ValueError: unless `near < far`, or if a value to be shown is NaN.
  """
  chex.assert_rank([depth, opacity], 2)
  chex.assert_equal_shape([depth, opacity])
  chex.assert_type([depth, opacity], float)
  if not near < far:
    raise ValueError(f'near must be less than far, got {near} and {far}.')
  depth, opacity = np.asarray(depth, float), np.asarray(opacity, float)
  t = depth / np.where(opacity > 0, opacity, 1)
  knots = np.linspace(near, far, len(_PLASMA))
  colour = np.stack([np.interp(t, knots, c) for c in _PLASMA.T], -1)
  return to_uint8(1 + opacity[..., None] * (colour - 1))


def side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
  """Joins images from left to right, 4 white pixels between them.

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
  """Lays images out in rows, 4 white pixels between them.

  Args:
    images: one or more, `[H, W, 3]` uint8, in reading order.
    columns: images in a row. The last row is filled up with white.

  Returns:
    `[rows of H and gaps, columns of W and gaps, 3]` uint8.

  Raises:
    ValueError: if the sizes differ, or `columns` is less than 1.
  """
  if columns < 1:
    raise ValueError(f'columns must be 1 or more, got {columns}.')
  sizes = sorted({image.shape[:2] for image in images})
  if len(sizes) > 1:
    raise ValueError(f'images must be of one size, got {sizes}.')
  blanks = [np.full_like(images[0], 255)] * (-len(images) % columns)
  cells = [*images, *blanks]
  starts = range(0, len(cells), columns)
  return _join([_join(cells[i : i + columns], 1) for i in starts], 0)


def _join(images: Sequence[np.ndarray], axis: int) -> np.ndarray:
  """Concatenates along an axis with gaps; the other sides are equal."""
  chex.assert_shape(images, (None, None, 3))
  chex.assert_type(images, np.uint8)
  shape = list(images[0].shape)
  shape[axis] = _GAP
  gap = np.full(shape, 255, np.uint8)
  parts = [part for image in images for part in (gap, image)]
  return np.concatenate(parts[1:], axis)

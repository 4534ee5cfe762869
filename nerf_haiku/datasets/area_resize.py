"""Downscales images by averaging over areas."""

from collections.abc import Iterator

import numpy as np


def downscale(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Averages an image over the area that each new pixel covers.

  Old pixels that lie partly in a new one count by that part; where the new
  sides divide the old ones, the result is the mean of each block.

  Args:
    image: `[H, W, C]`.
    height: new height, 1 to H.
    width: new width, 1 to W.

  Returns:
    `[height, width, C]` float32, in the units of the image.

  Raises:
    ValueError: if the new size is larger, or empty.
  """
  old_height, old_width, _ = image.shape
  if not (1 <= height <= old_height and 1 <= width <= old_width):
    raise ValueError(
      f'Cannot downscale {old_height}x{old_width} to {height}x{width}.'
    )
  # Whole pixels count 1, so that sums of integers are exact: divide at the end.
  rows = np.zeros((height, *image.shape[1:]), np.float32)
  for row, part in _overlaps(old_height, height):
    rows += np.take(image, row, axis=0) * part[:, None, None]
  mean = np.zeros((height, width, image.shape[2]), np.float32)
  for column, part in _overlaps(old_width, width):
    mean += np.take(rows, column, axis=1) * part[:, None]
  mean /= np.float32(old_height * old_width / (height * width))
  return mean


def downscale_to(
  image: np.ndarray,
  height: int,
  width: int,
  *,
  white: float,
  dtype: np.typing.DTypeLike,
) -> np.ndarray:
  """Averages an image as `downscale` does, and rounds to integers.

  Args:
    image: `[H, W, C]`.
    height: new height, 1 to H.
    width: new width, 1 to W.
    white: largest value of the image.
    dtype: of the result, whose largest value it becomes.
  """
  mean = downscale(image, height, width)
  mean *= np.iinfo(dtype).max / white
  np.rint(mean, out=mean)
  return mean.astype(dtype)


def _overlaps(
  num_old: int, num_new: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields which old pixels overlap the new ones along an axis.

  Yields:
    `[num_new]` int, an old pixel for each new one, and `[num_new]` float32,
    the part of the old pixel that lies in the new one, 0 to 1.
  """
  # Lengths are integers in units of 1 / num_new of an old pixel.
  start = np.arange(num_new) * num_old
  for step in range(-(-num_old // num_new) + 1):
    pixel = start // num_new + step
    stop = np.minimum(start + num_old, (pixel + 1) * num_new)
    part = np.maximum(stop - np.maximum(start, pixel * num_new), 0)
    if part.any():
      yield np.minimum(pixel, num_old - 1), (part / num_new).astype(np.float32)

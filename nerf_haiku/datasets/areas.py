"""Images made smaller, by the area that each new pixel covers."""

from collections.abc import Iterator

import numpy as np


def reduce(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Averages an image over the area that each new pixel covers.

  Old pixels that lie only partly in a new one count by that part; where the
  new sides divide the old ones, the result is the mean of each block.

  Args:
    image: `[H, W, C]`.
    height: new height, 1 to H.
    width: new width, 1 to W.

  Returns:
    `[height, width, C]` float32, in the units of the image.
  """
  old_height, old_width, _ = image.shape
  if not (1 <= height <= old_height and 1 <= width <= old_width):
    raise ValueError(
      f'A size of {height}x{width} does not reduce {old_height}x{old_width}.'
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


def _overlaps(old: int, new: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Which of `old` pixels lie in each of `new`, and with what part.

  Yields:
    `[new]` int, an old pixel for each new one, and `[new]` float32, the part
    of it in there, 0 to 1.
  """
  # Lengths are in units of 1 / new of an old pixel: all of them are integers.
  start = np.arange(new) * old
  for step in range(-(-old // new) + 1):
    pixel = start // new + step
    stop = np.minimum(start + old, (pixel + 1) * new)
    part = np.maximum(stop - np.maximum(start, pixel * new), 0)
    if part.any():
      yield np.minimum(pixel, old - 1), (part / new).astype(np.float32)

"""A constant background: its color, and whether photographs show one."""

from collections.abc import Iterable

import numpy as np

Color = tuple[float, float, float]  # Red, green and blue in [0, 1].

BLACK: Color = (0.0, 0.0, 0.0)
WHITE: Color = (1.0, 1.0, 1.0)

# Colors that differ by no more in any channel are the same to the eye.
_TOLERANCE = 8 / 255
# Fraction of the pixels of a border that have its color.
_MIN_FRACTION = 0.95
_DIGITS = 3  # Of a color that was measured: finer than 1/255.


def same(a: Color, b: Color) -> bool:
  """Returns whether two colors differ by at most 8/255 in each channel."""
  return bool(_distance(np.array(a), np.array(b)) <= _TOLERANCE)


def describe(color: Color) -> str:
  """Returns 'black', 'white' or the color's numbers."""
  if color in (BLACK, WHITE):
    return 'white' if color == WHITE else 'black'
  return '({:g}, {:g}, {:g})'.format(*color)


def of_photos(photos: Iterable[np.ndarray]) -> Color | None:
  """Finds the color that the borders of most photographs have.

  A border is the outermost pixels of an image. It has a color if at least 95 %
  of these pixels differ from their median by at most 8/255 in each channel, and
  all of them are opaque.

  Args:
    photos: images `[H, W, C]`, uint8 or uint16; 3 channels, or 4 with straight
      alpha.

  Returns:
    The median color of the borders, if those of more than half of all photos
    differ from it by at most 8/255; black or white, if it differs from that by
    no more. Otherwise None.
  """
  borders = [_border_color(photo) for photo in photos]
  colors = np.array([x for x in borders if x is not None])
  if not len(colors):
    return None
  # That of the majority, if there is one: in each channel it lies among them.
  median = np.median(colors, axis=0)
  if np.sum(_distance(colors, median) <= _TOLERANCE) <= len(borders) / 2:
    return None
  red, green, blue = (round(float(x), _DIGITS) for x in median)
  color = red, green, blue
  return next((x for x in (BLACK, WHITE) if same(color, x)), color)


def _border_color(image: np.ndarray) -> np.ndarray | None:
  """Returns the color `[3]` in [0, 1] of an image's border, if it has one."""
  sides = image[0], image[-1], image[1:-1, 0], image[1:-1, -1]
  border = np.concatenate(sides) / np.iinfo(image.dtype).max
  rgb, alpha = border[:, :3], border[:, 3:]
  color: np.ndarray = np.median(rgb, axis=0)
  fits = np.mean(_distance(rgb, color) <= _TOLERANCE) >= _MIN_FRACTION
  return color if fits and np.all(alpha == 1.0) else None


def _distance(colors: np.ndarray, color: np.ndarray) -> np.ndarray:
  """Returns the largest difference `[...]` of a channel of `[..., 3]`."""
  distance: np.ndarray = np.max(np.abs(colors - color), axis=-1)
  return distance

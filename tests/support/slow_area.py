"""Area averaging by its definition, pixel by pixel."""

import itertools

import numpy as np


def _overlap(old, new, i, j):
  """Returns the length of old pixel `i` inside new pixel `j`, in old pixels."""
  return max(0.0, min(i + 1, (j + 1) * old / new) - max(i, j * old / new))


def downscale(image, height, width):
  """Averages an image, weighted by the area of each overlap."""
  result = np.zeros((height, width, image.shape[2]))
  for row, column in itertools.product(range(height), range(width)):
    total = 0.0
    for y, x in itertools.product(range(image.shape[0]), range(image.shape[1])):
      area = _overlap(image.shape[0], height, y, row)
      area *= _overlap(image.shape[1], width, x, column)
      result[row, column] += area * image[y, x]
      total += area
    result[row, column] /= total
  return result

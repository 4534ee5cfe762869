"""Other ways to compare a rendered view with its photograph.

A score of a variant is named after both: `psnr_right_half_fitted`.
"""

from collections.abc import Callable

import ml_collections
import numpy as np

from nerf_haiku import exposure
from nerf_haiku.io import media

# (index of the view, rendering, truth) -> what is compared instead; all images
# are `[H, W, 3]` uint8.
Variant = Callable[[int, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

# What scores are of, by the names of the variants.
DEFINITIONS = {
  'right_half': 'Here of the right half of each image.',
  'right_half_fitted': (
    'Here of the right half of each image, after the affine transform of color '
    'that fits the left half of the rendering to that of the photograph best '
    '(least squares).'
  ),
}


def make_variants(config: ml_collections.ConfigDict) -> dict[str, Variant]:
  """Returns the variants that a config asks for, by name."""
  if not config.exposure:
    return {}
  return {
    'right_half': lambda _, rgb, truth: (_right(rgb), _right(truth)),
    'right_half_fitted': lambda _, rgb, truth: fit_on_left_half(rgb, truth),
  }


def fit_on_left_half(
  rgb: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns right halves, the rendering's with colors fitted on the left."""
  middle = rgb.shape[1] // 2
  left, left_truth = (x[:, :middle].reshape(-1, 3) for x in (rgb, truth))
  (matrix,), (offset,) = exposure.fit(left / 255, left_truth / 255)
  fitted = _right(rgb) / 255 @ matrix.T + offset
  return media.to_uint8(fitted), _right(truth)


def _right(image: np.ndarray) -> np.ndarray:
  return image[:, image.shape[1] // 2 :]

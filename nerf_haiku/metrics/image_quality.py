"""PSNR and SSIM of rendered images.

Images are compared as the 8-bit images that are written to disk. The score of
a set of images is the mean of their scores.
"""

import chex
import numpy as np

from nerf_haiku.io import lazy_tensorflow

_WINDOW = 11  # Pixels.

DEFINITIONS = {
  'psnr': (
    '10 log10(255^2 / MSE) in dB of each 8-bit image, the mean squared error '
    'taken over its pixels and channels; then the mean over images.'
  ),
  'ssim': (
    'Structural similarity (Wang et al. 2004) of each 8-bit image: Gaussian '
    'window of 11x11 pixels with sigma 1.5, whole windows only, K1 = 0.01, '
    'K2 = 0.03, L = 255, averaged over windows and the channels R, G, B; then '
    'the mean over images. None where an image is smaller than the window.'
  ),
}


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
  """Computes the peak signal-to-noise ratio of one image.

  Args:
    image: `[H, W, 3]` uint8.
    truth: `[H, W, 3]` uint8.

  Returns:
    Decibels, 0 or more; `inf` for equal images, which JSON cannot represent.
  """
  _check_pair(image, truth)
  error = np.mean((np.float64(image) - np.float64(truth)) ** 2)
  return float(10 * np.log10(255**2 / error)) if error else float('inf')


def ssim(image: np.ndarray, truth: np.ndarray) -> float | None:
  """Computes the structural similarity of one image (Wang et al. 2004).

  Args:
    image: `[H, W, 3]` uint8.
    truth: `[H, W, 3]` uint8.

  Returns:
    At most 1, the value for equal images, with an error of 2e-4 in flat areas
    and 1e-5 elsewhere; None if a side is shorter than the window, 11 pixels.
  """
  _check_pair(image, truth)
  if min(image.shape[:2]) < _WINDOW:
    return None
  tf = lazy_tensorflow.module()
  return float(
    tf.image.ssim(
      tf.constant(image),
      tf.constant(truth),
      max_val=255,
      filter_size=_WINDOW,
      filter_sigma=1.5,
      k1=0.01,
      k2=0.03,
    )
  )


def _check_pair(image: np.ndarray, truth: np.ndarray) -> None:
  chex.assert_shape([image, truth], (None, None, 3))
  chex.assert_equal_shape([image, truth])
  chex.assert_type([image, truth], np.uint8)

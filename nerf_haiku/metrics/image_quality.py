"""PSNR and SSIM of rendered images.

Images are compared as the 8-bit images that are written to disk. The score of
a set of images is the mean of their scores.
"""

import chex
import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

_WINDOW = 11  # Pixels.
_SIGMA = 1.5  # Pixels, of the window's weights.

# What becomes of the scores where images have masks.
MASKED = (
  'Masked pixels of a rendering are replaced by those of the photograph. PSNR '
  'is of the other pixels, SSIM of the windows around these.'
)
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


def psnr(
  image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
) -> float:
  """Computes the peak signal-to-noise ratio of one image.

  Args:
    image: `[H, W, 3]` uint8.
    truth: `[H, W, 3]` uint8.
    mask: `[H, W]` bool, of the pixels that count, one or more; None: all.

  Returns:
    Decibels, 0 or more; `inf` for equal images, which JSON cannot represent.
  """
  _check_pair(image, truth)
  if mask is not None:
    image, truth = image[mask], truth[mask]
  error = np.mean((np.float64(image) - np.float64(truth)) ** 2)
  return float(10 * np.log10(255**2 / error)) if error else float('inf')


def ssim(
  image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
) -> float | None:
  """Computes the structural similarity of one image (Wang et al. 2004).

  Args:
    image: `[H, W, 3]` uint8.
    truth: `[H, W, 3]` uint8.
    mask: `[H, W]` bool, of the pixels that count; None: all. Windows around
      them count, which must not differ at the other pixels (see `fill`).

  Returns:
    At most 1, the value for equal images, with an error of 2e-4 in flat areas
    and 1e-5 elsewhere; None if a side is shorter than the window, 11 pixels, or
    no window counts.
  """
  _check_pair(image, truth)
  if min(image.shape[:2]) < _WINDOW:
    return None
  scores = np.asarray(_ssim_map(np.float32(image), np.float32(truth)))
  if mask is None:
    return float(np.mean(scores))
  half = _WINDOW // 2
  counted = scores[mask[half:-half, half:-half]]
  return float(np.mean(counted)) if len(counted) else None


@jax.jit
def _ssim_map(image: jax.Array, truth: jax.Array) -> jax.Array:
  """Returns the similarity `[H - 10, W - 10, 3]` of each window and channel."""
  similarity: jax.Array = dm_pix.ssim(
    image,
    truth,
    max_val=255.0,
    k1=0.01,
    k2=0.03,
    return_map=True,
    # As dm_pix does by default, but many times faster on a CPU.
    filter_fn=lambda x: _blur(_blur(x, axis=0), axis=1),
  )
  return similarity


def _blur(x: jax.Array, axis: int) -> jax.Array:
  """Returns weighted means over the windows along an axis."""
  offset = np.arange(_WINDOW) - _WINDOW // 2
  weight = np.exp(-0.5 * (offset / _SIGMA) ** 2).astype(np.float32)
  weight /= np.sum(weight)
  count = x.shape[axis] - _WINDOW + 1
  total = jnp.zeros(())
  for i in range(_WINDOW):
    total += weight[i] * jax.lax.slice_in_dim(x, i, i + count, axis=axis)
  return total


def fill(image: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Returns an image `[H, W, 3]` that is the truth where a mask is False."""
  return np.where(mask[..., None], image, truth)


def _check_pair(image: np.ndarray, truth: np.ndarray) -> None:
  chex.assert_shape([image, truth], (None, None, 3))
  chex.assert_equal_shape([image, truth])
  chex.assert_type([image, truth], np.uint8)

"""What every data set is read into, and the errors that reading may raise."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import chex
import numpy as np

from nerf_haiku import cameras


class Images:
  """`N` images of any sizes in one buffer; `images[i]` is a view of it.

  Args:
    pixels: `[P, C]`, uint8 (or uint16 where images were reduced on loading,
      so that nothing is lost to rounding); the pixels of all images, row by
      row, image after image. C is 3, or 4 with straight alpha.
    sizes: `[N, 2]` int, height and width of each image.
  """

  def __init__(self, pixels: np.ndarray, sizes: np.ndarray):
    self.pixels = pixels
    self.sizes = np.asarray(sizes, np.int64)
    # offsets[i] is the first pixel of image i; offsets[N] is P.
    self.offsets = np.concatenate([[0], np.cumsum(np.prod(self.sizes, 1))])
    if self.offsets[-1] != len(pixels):
      raise ValueError(
        f'sizes add up to {self.offsets[-1]} pixels, got {len(pixels)}.'
      )

  def __len__(self) -> int:
    return len(self.sizes)

  def __getitem__(self, index: int) -> np.ndarray:
    index = range(len(self))[index]  # From the end, or past it.
    view = self.pixels[self.offsets[index] : self.offsets[index + 1]]
    return view.reshape(*self.sizes[index], -1)


class LazyImages:
  """`N` images, each read again whenever it is asked for."""

  def __init__(self, count: int, read: Callable[[int], np.ndarray]):
    self._count = count
    self._read = read

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> np.ndarray:
    return self._read(range(self._count)[index])


AnyImages = TypeVar('AnyImages', bound='Images | LazyImages', covariant=True)


class Split(NamedTuple, Generic[AnyImages]):
  """`N` photographs and the cameras that took them."""

  images: AnyImages  # each [H, W, C].
  cameras: cameras.Cameras  # N of them, NumPy.


class Scene(NamedTuple):
  """All that is known of a scene; of NumPy arrays."""

  train: Split[Images]
  val: Split[Images | LazyImages]
  test: Split[Images | LazyImages]
  near: float  # scene units along the optical axis.
  far: float
  box: np.ndarray | None  # [2, 3] rays are clipped to it; None: unknown.
  path: cameras.Cameras  # of the render video.
  notices: tuple[str, ...]  # what was done to the files, for the user.
  # Rays are in these coordinates: near and far are then of the scene's depths
  # and do not bound rays. None: rays are the world's.
  ndc: cameras.Ndc | None = None


def opacity(image: np.ndarray) -> np.ndarray:
  """The alpha `[...]` in [0, 1] of stored colours `[..., C]`; 1 without it."""
  if image.shape[-1] == 3:
    return np.ones(image.shape[:-1], np.float32)
  return image[..., 3].astype(np.float32) / np.iinfo(image.dtype).max


def to_float(image: np.ndarray, *, white_background: bool) -> np.ndarray:
  """Composites stored colours over a background.

  Args:
    image: `[..., C]` uint8 or uint16; 3 channels, or 4 with straight alpha.
    white_background: white where nothing is, not black.

  Returns:
    `[..., 3]` float32 in [0, 1].
  """
  scaled = image.astype(np.float32) / np.iinfo(image.dtype).max
  if image.shape[-1] == 3:
    return scaled
  rgb, alpha = scaled[..., :3], scaled[..., 3:]
  return rgb * alpha + (1.0 - alpha if white_background else 0.0)


class Batch(NamedTuple):
  """`R` pixels of training images; on devices `[D, R / D, ...]`."""

  camera: chex.Array  # [R] int32, index into the training cameras.
  pixel: chex.Array  # [R, 2] int32, row and column.
  rgb: chex.Array  # [R, 3] float32 in [0, 1].
  # [R] opacity of the true image; None where a background is not asked for.
  alpha: chex.Array | None = None

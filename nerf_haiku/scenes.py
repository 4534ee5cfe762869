"""The types that every data set is read into, and batches of their pixels."""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np

from nerf_haiku import arrays, backgrounds, cameras
from nerf_haiku import similarity as similarity_lib


class Images:
  """`N` images of any sizes in one buffer; `images[i]` is a view of it.

  Args:
    pixels: `[P, C]`, uint8, or uint16 where images were downscaled on loading,
      so that nothing is lost to rounding; the pixels of all images, row by
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
    index = range(len(self))[index]  # Negative, or an IndexError.
    view = self.pixels[self.offsets[index] : self.offsets[index + 1]]
    return view.reshape(*self.sizes[index], -1)


class LazyImages:
  """`N` images, each read anew whenever it is accessed.

  Args:
    count: `N`.
    read: returns the image `[H, W, C]` of an index, 0 to `N - 1`.
  """

  def __init__(self, count: int, read: Callable[[int], np.ndarray]):
    self._count = count
    self._read = read

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> np.ndarray:
    return self._read(range(self._count)[index])


AnyArray = TypeVar('AnyArray', np.ndarray, jax.Array)
AnyImages = TypeVar('AnyImages', bound='Images | LazyImages', covariant=True)


class Split(NamedTuple, Generic[AnyImages]):
  """`N` photographs and the cameras that took them."""

  images: AnyImages  # each [H, W, C].
  cameras: cameras.Cameras  # N of them, NumPy.
  # SHA-256 of the images and cameras as they were read; '' for computed ones.
  digest: str = ''
  names: tuple[str, ...] = ()  # of the photographs; () where it is unknown.
  # Each [H, W, 1] uint8, 0 where pixels are neither trained on nor scored.
  # None: all pixels count.
  masks: Images | None = None


class Scene(NamedTuple):
  """Photographs of a scene and what is known of it; NumPy arrays."""

  train: Split[Images]
  val: Split[Images | LazyImages]
  test: Split[Images | LazyImages]
  near: float  # scene units along the optical axis.
  far: float
  box: np.ndarray | None  # [2, 3] rays are clipped to it; None: unknown.
  path: cameras.Cameras  # of the rendered video.
  notices: tuple[str, ...]  # what was done to the files, for the user.
  # Coordinates that rays are converted to. Near and far are then bounds of the
  # scene's depth, not of rays. None: rays are in world coordinates.
  ndc: cameras.Ndc | None = None
  # From the data set's coordinates, which all of the above but `box` has, to
  # those of the field and of the box. None: they are the same.
  similarity: similarity_lib.Similarity | None = None
  # Whether space is contracted for the field: it is then unbounded, and what is
  # near lies within 1 of the field's origin.
  contracted: bool = False
  # [P, 3] float64, of surfaces, from structure from motion; None: not known.
  points: np.ndarray | None = None


class Batch(NamedTuple):
  """`R` pixels of training images; on devices `[D, R / D, ...]`."""

  camera: arrays.Array  # [R] int32, index into the training cameras.
  pixel: arrays.Array  # [R, 2] int32, row and column.
  rgb: arrays.Array  # [R, 3] float32 in [0, 1].
  # [R] opacity of the true image; None if it was not requested.
  alpha: arrays.Array | None = None


class StoredPixels(NamedTuple):
  """`R` pixels of training images as they are stored, see `Batch`."""

  camera: arrays.Array  # [R] int32
  pixel: arrays.Array  # [R, 2] int32
  color: arrays.Array  # [R, C] uint8 or uint16, as `Images` has them.


def to_batch(
  pixels: StoredPixels, *, background: backgrounds.Color, with_alpha: bool
) -> Batch:
  """Converts stored pixels to a batch, see `to_float` and `opacity`.

  Args:
    pixels: `R` pixels.
    background: color that alpha is composited over.
    with_alpha: whether the batch includes the true opacity.
  """
  color: Any = pixels.color  # Of the host or of a device.
  return Batch(
    camera=pixels.camera,
    pixel=pixels.pixel,
    rgb=to_float(color, background=background),
    alpha=opacity(color) if with_alpha else None,
  )


def opacity(image: arrays.Array) -> arrays.Array:
  """Returns the alpha `[...]` in [0, 1] of stored colors `[..., C]`.

  Without an alpha channel it is 1.
  """
  if image.shape[-1] == 3:
    return np.ones(image.shape[:-1], np.float32)
  alpha: arrays.Array = image[..., 3].astype(np.float32)
  return alpha / np.iinfo(image.dtype).max


def to_float(image: AnyArray, *, background: backgrounds.Color) -> AnyArray:
  """Converts stored colors to floats, and composites them over a background.

  Args:
    image: `[..., C]` uint8 or uint16; 3 channels, or 4 with straight alpha.
    background: its color.

  Returns:
    `[..., 3]` float32 in [0, 1].
  """
  scaled: AnyArray = image.astype(np.float32) / np.iinfo(image.dtype).max
  if image.shape[-1] == 3:
    return scaled
  rgb, alpha = scaled[..., :3], scaled[..., 3:]
  color = np.broadcast_to(np.asarray(background, np.float32), rgb.shape)
  composite: AnyArray = rgb * alpha + (1.0 - alpha) * color
  return composite

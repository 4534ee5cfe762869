"""Batches of random pixels: a function of the seed and the step alone."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from nerf_haiku import backgrounds, devices, scenes, training
from nerf_haiku.io import lazy_tensorflow

_PREFETCH = 4  # Batches that are prepared ahead of time.


def pick_from_all(
  images: scenes.Images, u: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Picks pixels uniformly from all pixels of all images.

  Args:
    images: `N` images.
    u: `[R]` float64, uniform random numbers in [0, 1).

  Returns:
    Indices of images `[R]`, and rows and columns of pixels `[R, 2]`.
  """
  return _locate(images, (u * images.offsets[-1]).astype(np.int64))


def _locate(
  images: scenes.Images, flat: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns image `[R]`, and row and column `[R, 2]`, of pixels `[R]`."""
  camera = np.searchsorted(images.offsets, flat, side='right') - 1
  row, column = np.divmod(
    flat - images.offsets[camera], images.sizes[camera, 1]
  )
  return camera, np.stack([row, column], axis=-1)


def pick_from_one(
  images: scenes.Images, u: np.ndarray, *, crop: float
) -> tuple[np.ndarray, np.ndarray]:
  """Picks pixels uniformly from the central crop of one image.

  Args:
    images: `N` images.
    u: `[R + 1, 2]` float64, uniform random numbers in [0, 1); the first one
      chooses the image.
    crop: fraction of height and width that is used, rounded as in the
      reference implementation (bmild/nerf); 1 for the whole image.

  Returns:
    Indices of images `[R]`, all equal, and rows and columns of pixels `[R, 2]`.
  """
  camera = int(u[0, 0] * len(images))
  size = images.sizes[camera]
  low, high = crop_window(size, crop)
  pixel = low + (u[1:] * (high - low)).astype(np.int64)
  return np.full(len(pixel), camera), pixel


def pick_unmasked(
  images: scenes.Images, unmasked: np.ndarray, u: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Picks pixels uniformly from those that count, of all images.

  Args:
    images: `N` images.
    unmasked: `[M]` int, in ascending order, indices into `images.pixels`.
    u: `[R]` float64, uniform random numbers in [0, 1).

  Returns:
    As `pick_from_all`.
  """
  flat = unmasked[(u * len(unmasked)).astype(np.int64)].astype(np.int64)
  return _locate(images, flat)


def pick_unmasked_from_one(
  images: scenes.Images, masks: scenes.Images, u: np.ndarray, *, crop: float
) -> tuple[np.ndarray, np.ndarray]:
  """Picks pixels uniformly from those of one image that count.

  Args:
    images: `N` images.
    masks: their masks, of which each has a pixel that counts.
    u: as of `pick_from_one`.
    crop: as of `pick_from_one`; without effect where all of it is masked.

  Returns:
    As `pick_from_one`.
  """
  camera = int(u[0, 0] * len(images))
  mask = masks[camera][..., 0] > 0
  (top, left), (bottom, right) = crop_window(images.sizes[camera], crop)
  rows, columns = np.nonzero(mask[top:bottom, left:right])
  if not len(rows):
    rows, columns = np.nonzero(mask)
    top = left = 0
  chosen = (u[1:, 0] * len(rows)).astype(np.int64)
  pixel = np.stack([top + rows[chosen], left + columns[chosen]], axis=-1)
  return np.full(len(pixel), camera), pixel


def crop_window(size: np.ndarray, crop: float) -> tuple[np.ndarray, np.ndarray]:
  """Returns the first row and column of a crop, and those after the last.

  Args:
    size: `[2]` int, height and width of the image.
    crop: see `pick_from_one`.
  """
  if crop >= 1.0:
    return np.zeros_like(size), size
  half = np.maximum((size // 2 * crop).astype(np.int64), 1)
  return np.maximum(size // 2 - half, 0), np.minimum(size // 2 + half, size)


def find_unmasked(
  masks: scenes.Images, windows: np.ndarray | None = None
) -> np.ndarray:
  """Returns the pixels that count.

  Args:
    masks: of `N` images.
    windows: `[N, 2, 2]` int, of each image the first row and column that
      counts, and those after the last; without effect where all of it is
      masked. None: all count.

  Returns:
    `[M]` indices into `masks.pixels`, in ascending order.
  """
  dtype = np.uint32 if len(masks.pixels) < 1 << 32 else np.int64
  parts = []
  # Image by image: indices of 64 bits would need much memory.
  for i in range(len(masks)):
    mask = masks[i][..., 0] > 0
    if windows is not None:
      (top, left), (bottom, right) = windows[i]
      inside = np.zeros_like(mask)
      inside[top:bottom, left:right] = mask[top:bottom, left:right]
      mask = inside if np.any(inside) else mask
    parts.append((np.flatnonzero(mask) + masks.offsets[i]).astype(dtype))
  return np.concatenate(parts)


def gather_colors(
  images: scenes.Images, camera: np.ndarray, pixel: np.ndarray
) -> np.ndarray:
  """Returns the stored colors `[R, C]` of pixels `[R, 2]` of images `[R]`."""
  row, column = pixel.T
  width = images.sizes[camera, 1]
  colors: np.ndarray = images.pixels[
    images.offsets[camera] + row * width + column
  ]
  return colors


def make_batches(
  images: scenes.Images,
  *,
  num_steps: int,
  num_rays: int,
  seed: int = 0,
  start_step: int = 0,
  batching: bool = True,
  precrop_iters: int = 0,
  precrop_frac: float = 0.5,
  process: int = 0,
  num_processes: int = 1,
  masks: scenes.Images | None = None,
) -> Iterator[scenes.StoredPixels]:
  """Yields batches of random pixels, prefetched by tf.data.

  Pixels are drawn with replacement, so a batch may be of any size.

  Args:
    images: `N` training images.
    num_steps: the step to stop before.
    num_rays: `R`, pixels in the whole batch of a step.
    seed: of the run, 0 or more.
    start_step: the first step.
    batching: whether the pixels of a step come from all images, or from one.
    precrop_iters: number of steps that use only the central crop of an image;
      0 if batching.
    precrop_frac: fraction of height and width in this crop.
    process: index of the process whose part of each batch is read.
    num_processes: number of processes that share each batch.
    masks: of the images; pixels are drawn where they are not 0.

  Yields:
    For each step the process's part of its pixels, NumPy arrays `[D, R / D,
    ...]` for its `D` devices; see `make_feed`.
  """
  share = num_rays // num_processes
  part = slice(process * share, (process + 1) * share)
  tf = lazy_tensorflow.module()
  pick_all = functools.partial(pick_from_all, images)
  pick_one = functools.partial(pick_from_one, images)
  if masks is not None:
    unmasked = find_unmasked(masks) if batching else np.zeros(0, np.int64)
    pick_all = functools.partial(pick_unmasked, images, unmasked)
    pick_one = functools.partial(pick_unmasked_from_one, images, masks)

  def look_up(step: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, ...]:
    if batching:
      camera, pixel = pick_all(u[1:, 0])
    else:
      crop = precrop_frac if step < precrop_iters else 1.0
      camera, pixel = pick_one(u, crop=crop)
    camera, pixel = camera[part], pixel[part]
    color = gather_colors(images, camera, pixel)
    return camera.astype(np.int32), pixel.astype(np.int32), color

  def draw(step: Any) -> Any:  # Tensors of TensorFlow.
    u = tf.random.stateless_uniform(
      [num_rays + 1, 2], [tf.constant(seed, tf.int64), step], dtype=tf.float64
    )
    # In NumPy, as TensorFlow would hold copies of the images.
    return tf.numpy_function(look_up, [step, u], types)

  types = [tf.int32, tf.int32, tf.as_dtype(images.pixels.dtype)]
  dataset = tf.data.Dataset.range(start_step, num_steps)
  # The autotuner has nothing to tune here, and its thread sleeps for up to a
  # minute before it notices that an iterator was closed.
  options = tf.data.Options()
  options.autotune.enabled = False
  dataset = dataset.map(draw).prefetch(_PREFETCH).with_options(options)
  for arrays in dataset.as_numpy_iterator():
    yield devices.shard(scenes.StoredPixels(*arrays), jax.local_device_count())


def make_feed(
  *, background: backgrounds.Color = backgrounds.BLACK, with_alpha: bool = False
) -> training.Feed:
  """Returns what makes batches of stored pixels, see `scenes.to_batch`."""
  convert = functools.partial(
    scenes.to_batch, background=background, with_alpha=with_alpha
  )
  return training.Feed(lambda pixels, *_: convert(pixels))

"""Masks of photographs: images that are black where pixels do not count."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nerf_haiku import errors, scenes
from nerf_haiku.datasets import area_resize, image_files, photo_files

_WHOLE = 1 - 1e-4  # Of a pixel, without rounding.


class Masks(NamedTuple):
  """The masks of the `N` photographs of a split."""

  images: scenes.Images | None  # [H, W, 1] uint8, 0 or 1; None: all count.
  digest: bytes  # of the files.
  num_photos: int  # photographs that have a mask.


def load(
  paths: Sequence[pathlib.Path | None], files: image_files.Files
) -> Masks:
  """Reads masks, downscaled as their photographs are.

  A pixel counts if no part of it is black in the mask.

  Args:
    paths: of the `N` masks, None where a photograph has none.
    files: the photographs.

  Raises:
    DataError: if a mask cannot be used: names it.
  """
  given = [i for i, path in enumerate(paths) if path]
  if not given:
    return Masks(None, b'', 0)
  sizes = image_files.sizes(files)
  pixels = np.ones((int(np.prod(sizes, axis=1).sum()), 1), np.uint8)
  images = scenes.Images(pixels, sizes)

  def read(index: int) -> bytes:
    path, size = paths[index], sizes[index]
    assert path is not None
    shown = image_files.decode(path)[..., :3].max(-1, keepdims=True) > 0
    images[index][...] = _resize(path, shown, *map(int, size))
    if not images[index].any():
      raise errors.DataError(
        f'{path}: is black, so that nothing of {files.paths[index]} counts: '
        'remove the photograph, or the mask.'
      )
    return hashlib.sha256(images[index].tobytes()).digest()

  digests = image_files.map_files(read, given)
  return Masks(images, repr(given).encode() + b''.join(digests), len(given))


def _resize(
  path: pathlib.Path, shown: np.ndarray, height: int, width: int
) -> np.ndarray:
  """Returns a mask `[H, W, 1]` bool at the size of its photograph."""
  old_height, old_width = shown.shape[:2]
  photo, mask = np.array([[height, width]]), np.array(shown.shape[:2])
  same = photo_files.have_same_shape(photo, mask)
  if not same.all() or np.any(photo > mask):
    raise errors.DataError(
      f'{path}: is {old_width}x{old_height} pixels, but its photograph is '
      f'{width}x{height}: make a mask of that size, or a larger one of that '
      'shape.'
    )
  mean = area_resize.downscale(shown.astype(np.uint8), height, width)
  return mean >= _WHOLE


def notices(splits: Sequence[Masks]) -> tuple[str, ...]:
  """Returns a notice that says how much masks hide, if there are masks.

  Args:
    splits: those that have masks.
  """
  if not splits:
    return ()
  arrays = [x.images.pixels for x in splits if x.images is not None]
  hidden = 1 - sum(int(x.sum()) for x in arrays) / sum(x.size for x in arrays)
  return (
    f'{sum(x.num_photos for x in splits)} photographs have masks: {hidden:.1%} '
    'of the pixels of their splits are neither trained on nor scored.',
  )

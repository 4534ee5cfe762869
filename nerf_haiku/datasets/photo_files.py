"""Finds the photographs of a capture, and smaller copies of them."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nerf_haiku import errors
from nerf_haiku.datasets import image_files, scene_folders
from nerf_haiku.io import file_names, messages

# Between the sides of a photograph and of its copy that is `k` times smaller,
# relative; and pixels that reducing may have rounded.
_TOLERANCE, _ROUNDED = 0.01, 1.0
# Between the ratios of both sides of one image to those of another, relative.
_RATIO_TOLERANCE = 0.01


class Photos(NamedTuple):
  """The files of `N` photographs, and the factor to downscale them by."""

  paths: tuple[pathlib.Path | None, ...]  # None: there is no such file.
  down_factor: int  # see `image_files.Files`.
  notices: tuple[str, ...]  # for the user.


def find(
  names: Sequence[str], finder: file_names.Finder, down_factor: int
) -> Photos:
  """Finds photographs, or copies of them in a folder such as `images_4`.

  Args:
    names: of the photographs, below the folder of the capture; the first part
      of a name is that folder to which `_4` is added.
    finder: finds files below the folder of the capture.
    down_factor: 0 or more. A folder of copies is used if it has all the
      photographs that there are, else they are to be downscaled.

  Raises:
    DataError: if a copy is not smaller by `down_factor`.
  """
  full = [finder.find(name) for name in names]
  if down_factor < 2:
    return Photos(tuple(full), down_factor, ())
  copies = [_find_copy(name, finder, down_factor) for name in names]
  num_copies = sum(map(bool, copies))
  if not num_copies:
    return Photos(tuple(full), down_factor, ())
  # A photograph without a copy is used from another folder by none.
  lacking = [
    name
    for name, path, copy in zip(names, full, copies, strict=True)
    if path and not copy
  ]
  folder = _copy_of(names[0], down_factor).parts[0]
  if lacking:
    notice = (
      f'{folder} is not used: it lacks {len(lacking)} of the photographs: '
      f'{messages.list_names(lacking)}.'
    )
    return Photos(tuple(full), down_factor, (notice,))
  _check_sizes(full, copies, down_factor)
  return Photos(tuple(copies), 1, (f'Images are from {folder}.',))


def have_same_shape(photos: np.ndarray, others: np.ndarray) -> np.ndarray:
  """Returns whether images have the proportions of others, `[N]` bool.

  Args:
    photos: `[N, 2]` heights and widths of photographs, pixels.
    others: `[N, 2]` those of their cameras or masks.
  """
  y, x = (photos / others).T
  tolerances = _RATIO_TOLERANCE + _ROUNDED / photos.min(axis=1)
  same: np.ndarray = np.abs(y / x - 1) <= tolerances
  return same


def _copy_of(name: str, factor: int) -> pathlib.PurePosixPath:
  first, *rest = pathlib.PurePosixPath(name.replace('\\', '/')).parts
  return pathlib.PurePosixPath(f'{first}_{factor}', *rest)


def _find_copy(
  name: str, finder: file_names.Finder, factor: int
) -> pathlib.Path | None:
  """Finds the copy of a photograph, which may be of another format."""
  copy = _copy_of(name, factor)
  if len(copy.parts) < 2:
    return None  # The photographs are in no folder of their own.
  return finder.find(str(copy)) or finder.find(str(copy.with_suffix('')))


def _check_sizes(
  full: Sequence[pathlib.Path | None],
  copies: Sequence[pathlib.Path | None],
  factor: int,
) -> None:
  pairs = [(x, y) for x, y in zip(full, copies, strict=True) if x and y]
  headers = image_files.map_files(
    image_files.read_header, [path for pair in pairs for path in pair]
  )
  for i, (path, copy) in enumerate(pairs):
    large, small = (np.array(x[:2]) for x in headers[2 * i : 2 * i + 2])
    expected = large / factor
    if np.any(np.abs(small - expected) > _TOLERANCE * expected + _ROUNDED):
      raise errors.DataError(
        f'{copy}: is {small[1]}x{small[0]} pixels, but {path} is '
        f'{large[1]}x{large[0]}, which is not {factor} times as large: make '
        'the copies again, or remove their folder.'
      )


def check_inside(folder: pathlib.Path, paths: Sequence[pathlib.Path]) -> None:
  """Checks that no file is outside the capture, beyond a symbolic link.

  Raises:
    DataError: names a file that is.
  """
  for path in paths:
    target = scene_folders.target_outside(folder, path)
    if target:
      raise errors.DataError(
        f'{path}: is a link out of the folder of the capture, to {target}: '
        'copy the file, or make its whole folder a link.'
      )

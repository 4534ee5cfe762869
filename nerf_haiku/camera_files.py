"""Cameras as a JSON file that people can write.

The file holds `{"cameras": [...]}`; each camera is an object of
`camera_to_world`, 3 or 4 rows of 4 numbers (OpenGL's axes, scene units),
`intrinsics`, `[fx, fy, cx, cy]` in pixels, and `size`, `[height, width]`.
"""

import json
import os
from typing import Any

import numpy as np

from nerf_haiku import cameras, errors
from nerf_haiku.datasets import checks
from nerf_haiku.io import files

_FIELDS = ('camera_to_world', 'intrinsics', 'size')
_LARGEST = 1 << 14  # pixels of a side.


def write(path: str | os.PathLike[str], taken: cameras.Cameras) -> None:
  """Writes `N` cameras, whole or not at all.

  Raises:
    OSError: if the file can not be written.
  """
  content = [
    dict(zip(_FIELDS, (np.asarray(x).tolist() for x in camera), strict=True))
    for camera in zip(*taken, strict=True)
  ]
  files.write(path, json.dumps({'cameras': content}, indent=1).encode())


def read(path: str | os.PathLike[str]) -> cameras.Cameras:
  """Reads cameras.

  Raises:
    DataError: the file is missing or wrong; names the camera and the field.
  """
  path = checks.home(path)
  content = checks.read_json(path)
  listed = content.get('cameras') if isinstance(content, dict) else None
  if not isinstance(listed, list) or not listed:
    raise errors.DataError(
      f'{path}: must hold {{"cameras": [...]}}, one or more.'
    )
  parts = [_camera(f'{path}: cameras[{i}]', x) for i, x in enumerate(listed)]
  camera_to_world, intrinsics, sizes = zip(*parts, strict=True)
  return cameras.Cameras(
    np.stack(camera_to_world),
    np.array(intrinsics, np.float32),
    np.array(sizes, np.int32),
  )


def _camera(field: str, camera: Any) -> tuple[np.ndarray, list, list]:
  if not isinstance(camera, dict) or sorted(camera) != sorted(_FIELDS):
    got = checks.short(camera)
    if isinstance(camera, dict):
      got = ', '.join(camera) or 'none of them'
    raise errors.DataError(
      f'{field} must be an object of {", ".join(_FIELDS)}, got {got}.'
    )
  pose = checks.pose(f'{field}.camera_to_world', camera['camera_to_world'])
  lens, size = camera['intrinsics'], camera['size']
  numbers = checks.matrix([lens])
  if numbers is None or numbers.shape != (1, 4) or not min(lens[:2]) > 0:
    raise errors.DataError(
      f'{field}.intrinsics must be fx, fy, cx, cy in pixels, the first two '
      f'over 0, got {checks.short(lens)}.'
    )
  sides = isinstance(size, list) and len(size) == 2
  if not sides or not all(type(x) is int and 0 < x <= _LARGEST for x in size):
    raise errors.DataError(
      f'{field}.size must be height and width, 1 to {_LARGEST} pixels, got '
      f'{checks.short(size)}.'
    )
  checks.focal(f'{field}.intrinsics', numbers[0, :2])
  if max(abs(numbers[0, 2:])) > checks.LARGEST:
    raise errors.DataError(
      f'{field}.intrinsics must have cx and cy up to {checks.LARGEST:g} '
      f'pixels, got {checks.short(lens)}.'
    )
  return pose[:3], lens, size

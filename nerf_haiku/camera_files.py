"""Reads and writes cameras as a JSON file that people can write.

The file holds `{"cameras": [...]}`; each camera is an object of
`camera_to_world`, 3 or 4 rows of 4 numbers (OpenGL axes, scene units),
`intrinsics`, `[fx, fy, cx, cy]` in pixels, and `size`, `[height, width]`; one
of a distorted lens also has `distortion`, `[k1, k2, k3, k4, p1, p2]`, and
`fisheye`, true or false (see `lenses`).
"""

import json
import os
from typing import Any

import numpy as np

from nerf_haiku import camera_checks, cameras, errors, lenses
from nerf_haiku.io import files, messages, safe_reading

_FIELDS = ('camera_to_world', 'intrinsics', 'size')
_LENS_FIELDS = ('distortion', 'fisheye')
_MAX_SIDE = 1 << 14  # Pixels.


def write(path: str | os.PathLike[str], cams: cameras.Cameras) -> None:
  """Writes `N` cameras atomically.

  Raises:
    WriteError: if the file cannot be written.
  """
  files.write(path, encode(cams))


def encode(cams: cameras.Cameras) -> bytes:
  """Returns the content of a file of `N` cameras."""
  columns = [x for x in cams if x is not None]
  names = (*_FIELDS, *_LENS_FIELDS)[: len(columns)]
  content = [
    dict(zip(names, (np.asarray(x).tolist() for x in camera), strict=True))
    for camera in zip(*columns, strict=True)
  ]
  return json.dumps({'cameras': content}, indent=1).encode()


def read(path: str | os.PathLike[str]) -> cameras.Cameras:
  """Reads `N` cameras, as NumPy arrays.

  Raises:
    DataError: if the file is missing or invalid; names the camera and field.
  """
  path = safe_reading.expand_user(path)
  content = safe_reading.read_json(path)
  items = content.get('cameras') if isinstance(content, dict) else None
  if not isinstance(items, list) or not items:
    raise errors.DataError(
      f'{path}: must hold {{"cameras": [...]}}, one or more.'
    )
  parts = [_parse(f'{path}: cameras[{i}]', x) for i, x in enumerate(items)]
  cams = cameras.concatenate(parts)
  if cams.distortion is not None:
    names = [f'cameras[{i}]' for i in range(len(parts))]
    camera_checks.check_lenses(str(path), cams, names)
  return cams


def _parse(field: str, camera: Any) -> cameras.Cameras:
  """Returns one camera."""
  given = set(camera) if isinstance(camera, dict) else set()
  optional = given & set(_LENS_FIELDS)
  if given - optional != set(_FIELDS):
    got = messages.shorten(camera)
    if isinstance(camera, dict):
      got = ', '.join(camera) or 'none of them'
    raise errors.DataError(
      f'{field} must be an object of {", ".join(_FIELDS)}, got {got}.'
    )
  pose = camera_checks.parse_pose(
    f'{field}.camera_to_world', camera['camera_to_world']
  )
  intrinsics, size = camera['intrinsics'], camera['size']
  _check_intrinsics(f'{field}.intrinsics', intrinsics)
  _check_size(f'{field}.size', size)
  cam = cameras.Cameras(
    camera_to_world=pose[None, :3],
    intrinsics=np.array([intrinsics], np.float32),
    sizes=np.array([size], np.int32),
  )
  if not optional:
    return cam
  distortion = camera.get('distortion', [0] * lenses.NUM_COEFFICIENTS)
  fisheye = camera.get('fisheye', False)
  _check_lens(field, distortion, fisheye)
  return cam._replace(
    distortion=np.array([distortion], np.float32), fisheye=np.array([fisheye])
  )


def _check_lens(field: str, distortion: Any, fisheye: Any) -> None:
  numbers = camera_checks.parse_matrix([distortion])
  if numbers is None or numbers.shape != (1, lenses.NUM_COEFFICIENTS):
    raise errors.DataError(
      f'{field}.distortion must be k1, k2, k3, k4, p1, p2, got '
      f'{messages.shorten(distortion)}.'
    )
  if not isinstance(fisheye, bool):
    raise errors.DataError(
      f'{field}.fisheye must be true or false, got {messages.shorten(fisheye)}.'
    )


def _check_intrinsics(field: str, value: Any) -> None:
  numbers = camera_checks.parse_matrix([value])
  if numbers is None or numbers.shape != (1, 4) or not min(value[:2]) > 0:
    raise errors.DataError(
      f'{field} must be fx, fy, cx, cy in pixels, the first two over 0, got '
      f'{messages.shorten(value)}.'
    )
  camera_checks.check_focal_lengths(field, numbers[0, :2])
  if max(abs(numbers[0, 2:])) > camera_checks.MAX_MAGNITUDE:
    raise errors.DataError(
      f'{field} must have cx and cy of at most '
      f'{camera_checks.MAX_MAGNITUDE:g} pixels, got {messages.shorten(value)}.'
    )


def _check_size(field: str, value: Any) -> None:
  is_pair = isinstance(value, list) and len(value) == 2
  if not is_pair or not all(
    type(x) is int and 0 < x <= _MAX_SIDE for x in value
  ):
    raise errors.DataError(
      f'{field} must be height and width, 1 to {_MAX_SIDE} pixels, got '
      f'{messages.shorten(value)}.'
    )

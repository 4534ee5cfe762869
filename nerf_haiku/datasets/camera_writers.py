"""Cameras in the formats of other programs.

Both formats put the center of the first pixel at (0.5, 0.5), and so do the
readers of this package.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial import transform

from nerf_haiku import cameras, errors, poses
from nerf_haiku.io import files

_COEFFICIENTS = ('k1', 'k2', 'k3', 'k4', 'p1', 'p2')


def write_transforms(
  path: pathlib.Path,
  cams: cameras.Cameras,
  names: Sequence[str],
  *,
  pixel_center: bool,
) -> None:
  """Writes cameras as `transforms.json` (instant-ngp, nerfstudio).

  Args:
    path: the file.
    cams: `N` cameras; poses stay as they are.
    names: of their photographs, relative to the folder of the file.
    pixel_center: whether the cameras' rays go through the centers of pixels;
      else their principal points are half a pixel further in the file.

  Raises:
    WriteError: if the file cannot be written.
  """
  frames = []
  for i, name in enumerate(names):
    pose = np.eye(4)
    pose[:3] = np.asarray(cams.camera_to_world[i], np.float64)
    frame = {'file_path': name, 'transform_matrix': pose.tolist()}
    frames.append(frame | _intrinsics(cams, i, pixel_center))
  content = json.dumps({'frames': frames}, indent=1)
  files.write(path, content.encode())


def write_colmap(
  folder: pathlib.Path,
  cams: cameras.Cameras,
  names: Sequence[str],
  *,
  pixel_center: bool,
  points: np.ndarray | None = None,
  colors: np.ndarray | None = None,
) -> None:
  """Writes cameras as a COLMAP model of text files.

  Args:
    folder: an existing folder for `cameras.txt`, `images.txt` and
      `points3D.txt`.
    cams: `N` cameras.
    names: of their photographs, relative to the folder of photographs.
    pixel_center: see `write_transforms`.
    points: `[P, 3]` points of surfaces, of which no image is noted; None: none.
    colors: `[P, 3]` uint8, of the points.

  Raises:
    DataError: if COLMAP has no lens model for a camera.
    WriteError: if a file cannot be written.
  """
  camera_lines: dict[str, int] = {}
  image_lines = []
  for i, name in enumerate(names):
    line = _colmap_camera(cams, i, pixel_center, name)
    camera = camera_lines.setdefault(line, len(camera_lines) + 1)
    pose = np.asarray(cams.camera_to_world[i], np.float64)
    rotation = poses.OPENCV @ pose[:, :3].T
    x, y, z, w = transform.Rotation.from_matrix(rotation).as_quat()
    numbers = [w, x, y, z, *(-rotation @ pose[:, 3])]
    text = ' '.join(map(repr, map(float, numbers)))
    image_lines.append(f'{i + 1} {text} {camera} {name}\n\n')
  lines = [f'{camera} {line}\n' for line, camera in camera_lines.items()]
  for file, content in (
    ('cameras.txt', lines),
    ('images.txt', image_lines),
    ('points3D.txt', _colmap_points(points, colors)),
  ):
    files.write(folder / file, ''.join(content).encode())


def _colmap_points(
  points: np.ndarray | None, colors: np.ndarray | None
) -> list[str]:
  """Returns the lines of `points3D.txt`; the points have no error."""
  if points is None or colors is None:
    return []
  rows = zip(
    np.asarray(points).tolist(), np.asarray(colors).tolist(), strict=True
  )
  return [
    f'{i} {x!r} {y!r} {z!r} {red} {green} {blue} 0\n'
    for i, ((x, y, z), (red, green, blue)) in enumerate(rows, 1)
  ]


def _intrinsics(
  cams: cameras.Cameras, index: int, pixel_center: bool
) -> dict[str, Any]:
  """Returns the fields of a camera's lens, as `transforms.json` names them."""
  height, width = map(int, cams.sizes[index])
  fx, fy, cx, cy = map(float, cams.intrinsics[index])
  shift = 0.0 if pixel_center else 0.5
  fields: dict[str, Any] = {
    'w': width,
    'h': height,
    'fl_x': fx,
    'fl_y': fy,
    'cx': cx + shift,
    'cy': cy + shift,
  }
  if cams.distortion is None:
    return fields | {'camera_model': 'PINHOLE'}
  values = map(float, cams.distortion[index])
  fields |= dict(zip(_COEFFICIENTS, values, strict=True))
  is_fisheye = cams.fisheye is not None and bool(cams.fisheye[index])
  fields['camera_model'] = 'OPENCV_FISHEYE' if is_fisheye else 'OPENCV'
  return fields


def _colmap_camera(
  cams: cameras.Cameras, index: int, pixel_center: bool, name: str
) -> str:
  """Returns a line of `cameras.txt` without its number."""
  lens = _intrinsics(cams, index, pixel_center)
  model = lens['camera_model']
  k1, k2, k3, k4, p1, p2 = (lens.get(x, 0.0) for x in _COEFFICIENTS)
  if model == 'OPENCV_FISHEYE':
    unknown, extra = p1 or p2, [k1, k2, k3, k4]
  elif k3 or k4:
    # Numerators of k1, k2 and k3 only: those that follow are denominators.
    model, unknown, extra = 'FULL_OPENCV', k4, [k1, k2, p1, p2, k3, 0, 0, 0]
  else:
    unknown, extra = 0.0, [k1, k2, p1, p2]
  if unknown:
    raise errors.DataError(
      f'{name}: COLMAP has no lens model with the coefficients '
      f'{[k1, k2, k3, k4, p1, p2]} (k1 to k4, p1, p2): write transforms.json '
      'only, or undistort the photographs.'
    )
  if model == 'PINHOLE':
    extra = []
  numbers = [lens[x] for x in ('fl_x', 'fl_y', 'cx', 'cy')] + extra
  text = ' '.join(repr(float(x)) for x in numbers)
  return f'{model} {lens["w"]} {lens["h"]} {text}'

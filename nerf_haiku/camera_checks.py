"""Checks of numbers in files that describe cameras."""

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from nerf_haiku import cameras, errors
from nerf_haiku.io import messages

# Scene units from the origin, or pixels: its square fits float32 by far.
MAX_MAGNITUDE = 1e9
MAX_POSES = 100_000  # Of a path.
_MIN_FOCAL = 1e-3  # Pixels; such an image shows nearly a half space.
# Rays are at most this far off the optical axis, which they are 1 long along.
_MAX_OFF_AXIS = 85.0  # Degrees.
# Distorting a ray must lead back to its pixel: pixels at 800, relative above.
_MAX_LENS_ERROR = 1e-3
_LENS_LATTICE = 33  # Positions along each side of an image at which that holds.
_RIGID_TOLERANCE = 1e-3  # Of R R^T = I; files with few digits are off by 1e-4.


def is_finite(value: Any) -> TypeGuard[float]:
  """Returns whether a value is a number, not a bool, that float32 can hold."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return False
  return abs(value) <= float(np.finfo(np.float32).max)  # False for NaN.


def parse_matrix(value: Any) -> np.ndarray | None:
  """Returns a matrix of finite numbers from lists of rows.

  Args:
    value: anything, as read from a file.

  Returns:
    `[rows, columns]` float64; None if the value is not such a matrix.
  """
  if not isinstance(value, list) or not value:
    return None
  if not all(isinstance(row, list) for row in value):
    return None
  if len({len(row) for row in value}) > 1:
    return None
  if not all(is_finite(x) for row in value for x in row):
    return None
  return np.array(value, np.float64)


def parse_pose(field: str, value: Any) -> np.ndarray:
  """Returns a pose from a file, which must be a rigid motion.

  Args:
    field: file and field, which an error message begins with.
    value: rows of a `[3, 4]` or `[4, 4]` matrix, as lists.

  Returns:
    `[4, 4]` camera-to-world, float64.

  Raises:
    DataError: if it is not a pose; names the reason.
  """
  matrix = parse_matrix(value)
  if matrix is None or matrix.shape not in ((3, 4), (4, 4)):
    raise errors.DataError(
      f'{field} must be 4 rows of 4 finite numbers, got '
      f'{messages.shorten(value)}.'
    )
  last_row = matrix[3:]
  pose = np.concatenate([matrix[:3], [[0.0, 0.0, 0.0, 1.0]]])
  if np.any(np.abs(last_row - pose[3]) > _RIGID_TOLERANCE):
    raise errors.DataError(
      f'{field} is not a rigid motion: its last row is {last_row[0].tolist()}, '
      'but must be [0, 0, 0, 1]: are rows and columns swapped?'
    )
  _check_rotation(field, pose[:3, :3])
  check_positions(field, pose[:3, 3])
  return pose


def _check_rotation(field: str, rotation: np.ndarray) -> None:
  with np.errstate(over='ignore', invalid='ignore'):
    deviation = np.max(np.abs(rotation @ rotation.T - np.eye(3)))
  if not deviation <= _RIGID_TOLERANCE:
    raise errors.DataError(
      f'{field} is not a rigid motion: its columns are not perpendicular and '
      f'of length 1, R R^T differs from the identity by {deviation:.3g}: '
      'remove scale and shear from the pose.'
    )
  if np.linalg.det(rotation) < 0:
    raise errors.DataError(
      f'{field} is not a rigid motion but mirrors (its determinant is -1): '
      'flip the sign of one column; the axes are x right, y up, z back.'
    )


def check_positions(field: str, positions: np.ndarray) -> None:
  """Checks positions of cameras.

  Args:
    field: what an error message begins with.
    positions: `[..., 3]` scene units.

  Raises:
    DataError: if one is farther from the origin than `MAX_MAGNITUDE`.
  """
  distance = np.max(np.abs(positions))
  if distance > MAX_MAGNITUDE:
    raise errors.DataError(
      f'{field} is {distance:.3g} from the origin; must be at most '
      f'{MAX_MAGNITUDE:g} scene units: move the scene to the origin, or scale '
      'it.'
    )


def check_focal_lengths(field: str, lengths: np.ndarray) -> None:
  """Checks focal lengths.

  Args:
    field: what an error message begins with.
    lengths: `[N]` pixels.

  Raises:
    DataError: if one is too small or too large to cast rays with.
  """
  usable = (lengths >= _MIN_FOCAL) & (lengths <= MAX_MAGNITUDE)
  if not np.all(usable):
    raise errors.DataError(
      f'{field}: is a focal length of {lengths[~usable][0]:g} pixels; must be '
      f'{_MIN_FOCAL:g} to {MAX_MAGNITUDE:g}.'
    )


def check_lenses(
  field: str, cams: cameras.Cameras, names: Sequence[str]
) -> None:
  """Checks that distorted lenses show each direction once.

  Args:
    field: what an error message begins with.
    cams: `N` cameras with distortion.
    names: of the cameras.

  Raises:
    DataError: names a camera whose rays are more than 85 degrees off its axis,
      or whose distortion has no inverse within the image.
  """
  columns = [np.asarray(x) for x in cams[1:]]
  rows = np.column_stack(columns)
  _, first = np.unique(rows, axis=0, return_index=True)
  fisheye = np.asarray(cams.fisheye)
  poses = np.tile(np.eye(3, 4, dtype=np.float32), (len(fisheye), 1, 1))
  straight = cams._replace(camera_to_world=poses)
  lattice = np.indices((_LENS_LATTICE,) * 2).reshape(2, -1).T
  for i in np.sort(first):
    size = np.asarray(cams.sizes)[i]
    shown = lattice / (_LENS_LATTICE - 1) * size
    index = np.full(len(shown), i)
    plane = cameras.image_plane(cams, index, shown)
    angles = np.rad2deg(np.arctan(np.hypot(plane[:, 0], plane[:, 1])))
    again, _ = cameras.project(straight, index, plane.astype(np.float32))
    error = np.linalg.norm(again - shown, axis=-1).max()
    is_inverted = error <= _MAX_LENS_ERROR * max(1, max(size) / 800)
    # Angles of a fisheye are right as far as they go.
    if angles.max() > _MAX_OFF_AXIS and (is_inverted or fisheye[i]):
      raise errors.DataError(
        f'{field}: the lens of {names[i]} sees up to {angles.max():.0f} '
        f'degrees off its axis (a field of view of {2 * angles.max():.0f} '
        f'degrees); at most {_MAX_OFF_AXIS:g} are supported: undistort the '
        'images.'
      )
    if not is_inverted:
      raise errors.DataError(
        f'{field}: the distortion of {names[i]} cannot be inverted inside its '
        f'image: a pixel is off by {error:.3g} pixels. Are its coefficients '
        'those of another lens? Undistort the images.'
      )

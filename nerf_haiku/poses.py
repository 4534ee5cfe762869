"""Averages and frames of camera poses `[3, 4]`.

Axes are OpenGL's. The frames are those of the reference implementation
(bmild/nerf, `load_llff`), for photographs with poses from structure from
motion.
"""

from typing import NamedTuple

import numpy as np

from nerf_haiku import errors

# The x axis of an upright frame is perpendicular to this. Any direction but up
# would do; it is that of the reference implementation.
_SIDE = (0.1, 0.2, 0.3)
# If the mean position is this near to the focus, in mean distances, it does
# not determine an up direction.
_LEVEL = 1e-3
# Largest condition number of the focus: that of axes that differ by some 0.1
# degrees. Beyond it, the focus is lost in the rounding of float32 poses.
_MAX_CONDITION = 1e6
# Cameras have a common target if their axes differ by some 6 degrees or more
# (the smallest eigenvalue of the mean projection is the squared sine of that),
# and pass it within this fraction of their distance to it.
_MIN_SPREAD, _MAX_MISS = 0.01, 0.25

# From a camera's axes to OpenCV's (y down, looking along z), and back.
OPENCV = np.diag([1.0, -1.0, -1.0])


class Target(NamedTuple):
  """The point that the optical axes of `N` cameras have in common."""

  point: np.ndarray  # [3] scene units.
  depths: np.ndarray  # [N] along each axis; negative behind the camera.


def from_axes(
  backward: np.ndarray, up: np.ndarray, center: np.ndarray
) -> np.ndarray:
  """Returns the pose of a camera with given axes.

  Args:
    backward: `[3]` away from what the camera looks at, of any length.
    up: `[3]` upwards, of any length and not parallel to `backward`.
    center: `[3]` position of the camera, scene units.

  Returns:
    `[3, 4]` camera-to-world, float64.

  Raises:
    UserError: if a direction has length 0, or both are parallel.
  """
  z = _normalize(backward)
  x = _normalize(np.cross(up, z))
  return np.stack([x, _normalize(np.cross(z, x)), z, center], axis=1)


def mean(camera_to_world: np.ndarray) -> np.ndarray:
  """Returns the mean pose `[3, 4]` of `[N, 3, 4]`: mean position, mean axes.

  Raises:
    UserError: if the cameras have no mean direction.
  """
  _, up, backward, centers = np.moveaxis(_to_float64(camera_to_world), -1, 0)
  return from_axes(backward.sum(0), up.sum(0), centers.mean(0))


def relative_to(origin: np.ndarray, camera_to_world: np.ndarray) -> np.ndarray:
  """Returns poses `[N, 3, 4]` in the frame of a pose `[3, 4]`, float64."""
  rotation, center = origin[:, :3], origin[:, 3]
  moved = _to_float64(camera_to_world) - np.pad(
    center[:, None], ((0, 0), (3, 0))
  )
  relative: np.ndarray = rotation.T @ moved
  return relative


def focus(camera_to_world: np.ndarray) -> np.ndarray:
  """Computes the point `[3]` nearest to the optical axes of `[N, 3, 4]` poses.

  The sum of its squared distances to the axes is minimal.

  Raises:
    UserError: if all axes are parallel: there is no such point.
  """
  directions, centers = np.moveaxis(
    _to_float64(camera_to_world)[..., 2:], -1, 0
  )
  # Projections to the planes that are perpendicular to the axes.
  projections = np.eye(3) - directions[:, :, None] * directions[:, None]
  total = projections.sum(0)
  if np.linalg.cond(total) > _MAX_CONDITION:
    raise errors.UserError(
      'the cameras look in one direction: they have no focus.'
    )
  return np.linalg.solve(total, np.einsum('nij,nj->i', projections, centers))


def find_target(camera_to_world: np.ndarray) -> Target | None:
  """Returns the point that cameras look at, or all look away from.

  Args:
    camera_to_world: `[N, 3, 4]` poses.

  Returns:
    The target; None if the axes are nearly parallel, or pass no common point.
  """
  backward, centers = np.moveaxis(_to_float64(camera_to_world)[..., 2:], -1, 0)
  spread = np.eye(3) - np.einsum('ni,nj->ij', backward, backward) / len(centers)
  if np.linalg.eigvalsh(spread)[0] < _MIN_SPREAD:
    return None
  point = focus(camera_to_world)
  offsets = point - centers
  depths = -np.sum(offsets * backward, axis=-1)
  misses = np.linalg.norm(offsets + depths[:, None] * backward, axis=-1)
  if np.median(misses) > _MAX_MISS * np.median(np.abs(depths)):
    return None
  return Target(point, depths)


def find_target_ahead(camera_to_world: np.ndarray) -> Target | None:
  """Returns `find_target`, or None if most cameras look away from it."""
  target = find_target(camera_to_world)
  if target is None or not np.median(target.depths) > 0:
    return None
  return target


def upright(center: np.ndarray, up: np.ndarray) -> np.ndarray:
  """Returns the frame `[3, 4]` at a point whose z axis points up."""
  z = _normalize(up)
  x = _normalize(np.cross(_SIDE, z))
  return np.stack([x, _normalize(np.cross(z, x)), z, center], axis=1)


def spherify(camera_to_world: np.ndarray) -> tuple[np.ndarray, float]:
  """Moves and scales poses to a mean square distance of 1 from their focus.

  The new z axis is the mean direction of the cameras as seen from the focus,
  or, if they are on a level with it, their mean up direction.

  Args:
    camera_to_world: `[N, 3, 4]` poses of cameras that look inwards.

  Returns:
    `[N, 3, 4]` poses, float64, and the factor that scene units were multiplied
    by.

  Raises:
    UserError: if the cameras have no focus, or all are at it.
  """
  center = focus(camera_to_world)
  offsets = _to_float64(camera_to_world)[:, :, 3] - center
  up = offsets.mean(0)
  rms_distance = np.sqrt(np.mean(np.sum(offsets**2, axis=-1)))
  if np.linalg.norm(up) < _LEVEL * rms_distance:
    up = _to_float64(camera_to_world)[:, :, 1].sum(0)
  frame = upright(center, up)
  moved = relative_to(frame, camera_to_world)
  factor = 1.0 / np.sqrt(np.mean(np.sum(moved[:, :, 3] ** 2, axis=-1)))
  moved[:, :, 3] *= factor
  return moved, float(factor)


def _to_float64(camera_to_world: np.ndarray) -> np.ndarray:
  return np.asarray(camera_to_world, np.float64)[:, :3, :4]


def _normalize(vector: np.ndarray) -> np.ndarray:
  length = np.linalg.norm(vector)
  if not length > 0:
    raise errors.UserError('a direction has length 0: the cameras cancel out.')
  unit: np.ndarray = vector / length
  return unit

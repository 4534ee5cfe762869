"""Camera poses `[3, 4]`: an average one, and the frames they are given in.

Axes are OpenGL's. The frames are those of the original for photographs whose
poses come from structure from motion (its `load_llff`).
"""

import numpy as np

from nerf_haiku import errors

# What the x axis of an upright frame is perpendicular to: any direction but up
# would do, this is the original's.
_SIDE = (0.1, 0.2, 0.3)
# A mean place this near to the focus, in mean distances, says nothing of up.
_LEVEL = 1e-3
# Condition of the focus of cameras that turn by some 0.1 degrees: of those that
# turn less it is lost in the rounding of float32 poses.
_PARALLEL = 1e6


def look(
  backward: np.ndarray, up: np.ndarray, centre: np.ndarray
) -> np.ndarray:
  """The pose of a camera at a place.

  Args:
    backward: `[3]` away from what it looks at, of any length.
    up: `[3]` upwards, of any length and not along `backward`.
    centre: `[3]` where it is, scene units.

  Returns:
    `[3, 4]` camera-to-world, float64.
  """
  z = _unit(backward)
  x = _unit(np.cross(up, z))
  return np.stack([x, _unit(np.cross(z, x)), z, centre], axis=1)


def mean(camera_to_world: np.ndarray) -> np.ndarray:
  """The `[3, 4]` pose amid `[N, 3, 4]`: mean place, mean axes."""
  _, up, backward, centres = np.moveaxis(_double(camera_to_world), -1, 0)
  return look(backward.sum(0), up.sum(0), centres.mean(0))


def relative_to(origin: np.ndarray, camera_to_world: np.ndarray) -> np.ndarray:
  """Poses `[N, 3, 4]` in the frame of a pose `[3, 4]`; float64."""
  rotation, centre = origin[:, :3], origin[:, 3]
  moved = _double(camera_to_world) - np.pad(centre[:, None], ((0, 0), (3, 0)))
  return rotation.T @ moved


def focus(camera_to_world: np.ndarray) -> np.ndarray:
  """The point `[3]` nearest to the optical axes of poses `[N, 3, 4]`.

  That is where the squared distances to the axes have the least sum.

  Raises:
    UserError: if all axes are parallel: there is no such point.
  """
  directions, centres = np.moveaxis(_double(camera_to_world)[..., 2:], -1, 0)
  # Projections to the planes that the axes are perpendicular to.
  across = np.eye(3) - directions[:, :, None] * directions[:, None]
  total = across.sum(0)
  if np.linalg.cond(total) > _PARALLEL:
    raise errors.UserError(
      'the cameras look in one direction: they have no focus.'
    )
  return np.linalg.solve(total, np.einsum('nij,nj->i', across, centres))


def upright(centre: np.ndarray, up: np.ndarray) -> np.ndarray:
  """A pose `[3, 4]` at a place whose z axis points up, as the original's."""
  z = _unit(up)
  x = _unit(np.cross(_SIDE, z))
  return np.stack([x, _unit(np.cross(z, x)), z, centre], axis=1)


def spherify(camera_to_world: np.ndarray) -> tuple[np.ndarray, float]:
  """Poses around their focus, at a mean square distance of 1 from it.

  Args:
    camera_to_world: `[N, 3, 4]` of cameras that look inwards.

  Returns:
    `[N, 3, 4]` poses, z being the mean direction of the cameras as seen from
    the focus (of cameras on a level with it: their own mean up); and the
    factor that scene units were multiplied by.

  Raises:
    UserError: if the cameras have no focus, or all stand at it.
  """
  centre = focus(camera_to_world)
  away = _double(camera_to_world)[:, :, 3] - centre
  up = away.mean(0)
  if np.linalg.norm(up) < _LEVEL * np.sqrt(np.mean(np.sum(away**2, axis=-1))):
    up = _double(camera_to_world)[:, :, 1].sum(0)
  frame = upright(centre, up)
  moved = relative_to(frame, camera_to_world)
  factor = 1.0 / np.sqrt(np.mean(np.sum(moved[:, :, 3] ** 2, axis=-1)))
  moved[:, :, 3] *= factor
  return moved, float(factor)


def _double(camera_to_world: np.ndarray) -> np.ndarray:
  return np.asarray(camera_to_world, np.float64)[:, :3, :4]


def _unit(vector: np.ndarray) -> np.ndarray:
  length = np.linalg.norm(vector)
  if not length > 0:
    raise errors.UserError('a direction of length 0: the cameras cancel out.')
  return vector / length

"""Camera poses along a path, for videos."""

import numpy as np
from scipy import interpolate as scipy_interpolate
from scipy.spatial import transform

from nerf_haiku import errors, poses

# Of the original's spiral: it looks at a depth that is, in disparity, 3/4 of
# the way from near to five times far.
_FARTHEST, _BETWEEN = 5.0, 0.75
_PERCENTILE = 90  # Of the cameras' distances from the middle: its radii.
_RISE = 0.5  # Turns forth and back for each turn around.


def sphere_pose(azimuth: float, elevation: float, radius: float) -> np.ndarray:
  """A camera on a sphere, looking at its centre, z up.

  Args:
    azimuth: degrees around the z axis.
    elevation: degrees; the camera is above the centre where it is negative,
      as in the original.
    radius: distance from the centre, scene units.

  Returns:
    `[3, 4]` camera-to-world, float32.
  """
  phi, theta = np.deg2rad([elevation, azimuth])
  move = np.eye(4)
  move[2, 3] = radius
  pitch = np.eye(4)
  pitch[1:3, 1:3] = [[np.cos(phi), -np.sin(phi)], [np.sin(phi), np.cos(phi)]]
  yaw = np.eye(4)
  yaw[:3:2, :3:2] = [
    [np.cos(theta), -np.sin(theta)],
    [np.sin(theta), np.cos(theta)],
  ]
  upright = np.diag([-1.0, 1.0, 1.0, 1.0])[[0, 2, 1, 3]]
  return (upright @ yaw @ pitch @ move)[:3].astype(np.float32)


def circle(
  num_poses: int, *, elevation: float = -30.0, radius: float = 4.0
) -> np.ndarray:
  """Poses on a circle of latitude, looking at the origin (the original's).

  Returns:
    `[num_poses, 3, 4]` camera-to-world, float32.
  """
  azimuths = np.linspace(-180.0, 180.0, num_poses, endpoint=False)
  return np.stack([sphere_pose(a, elevation, radius) for a in azimuths])


def spiral(
  camera_to_world: np.ndarray,
  near: float,
  far: float,
  num_poses: int,
  *,
  flat: bool = False,
) -> np.ndarray:
  """Poses on a spiral about the mean one, for cameras that face one way.

  As in the original, it is as wide as the cameras stand apart, goes around
  twice, and looks at one point; the flat one stays in its plane, a little
  nearer, and goes around once with half the poses.

  Args:
    camera_to_world: `[N, 3, 4]` given poses.
    near: where rays begin, scene units.
    far: the greatest depth of the scene.
    num_poses: of a spiral that is not flat.
    flat: whether it stays in a plane.

  Returns:
    `[num_poses or half of it, 3, 4]` camera-to-world, float32.
  """
  focal = 1 / ((1 - _BETWEEN) / near + _BETWEEN / (_FARTHEST * far))
  middle = poses.mean(camera_to_world)
  up = np.sum(np.asarray(camera_to_world, np.float64)[:, :3, 1], axis=0)
  places = poses.relative_to(middle, camera_to_world)[:, :, 3]
  radii = np.percentile(np.abs(places), _PERCENTILE, axis=0)
  turns = 2
  if flat:
    middle[:, 3] -= 0.1 * near * middle[:, 2]
    radii[2], turns, num_poses = 0.0, 1, max(num_poses // 2, 1)
  target = middle[:, 3] - focal * middle[:, 2]
  angles = np.linspace(0, 2 * np.pi * turns, num_poses, endpoint=False)
  local = np.stack([np.cos(angles), -np.sin(angles), -np.sin(_RISE * angles)])
  centres = (radii * local.T) @ middle[:, :3].T + middle[:, 3]
  path = [poses.look(c - target, up, c) for c in centres]
  return np.stack(path).astype(np.float32)


def orbit(
  camera_to_world: np.ndarray, frame: np.ndarray, num_poses: int
) -> np.ndarray:
  """Poses on a circle, looking at one point.

  As the original's path for spherified poses, it has the cameras' mean square
  distance from the origin of the frame, which it looks at, and their mean
  height; the last pose is the first again.

  Args:
    camera_to_world: `[N, 3, 4]` given poses.
    frame: `[3, 4]` the point that is looked at, and axes: z is that of the
      circle, and x where it begins.
    num_poses: of the path.

  Returns:
    `[num_poses, 3, 4]` camera-to-world, float32.
  """
  places = poses.relative_to(frame, camera_to_world)[:, :, 3]
  height = places[:, 2].mean()
  square = np.mean(np.sum(places**2, axis=-1)) - height**2
  radius = np.sqrt(max(square, 0.0))
  path = []
  for angle in np.linspace(0, 2 * np.pi, num_poses):
    local = radius * np.cos(angle), radius * np.sin(angle), height
    backward = frame[:, :3] @ local
    path.append(poses.look(backward, frame[:, 2], frame[:, 3] + backward))
  return np.stack(path).astype(np.float32)


def interpolate(camera_to_world: np.ndarray, num_poses: int) -> np.ndarray:
  """Poses that pass smoothly through given ones, in their order.

  Args:
    camera_to_world: `[N, 3, 4]`, two or more.
    num_poses: of the path, which takes as long from each pose to the next.

  Returns:
    `[num_poses, 3, 4]` camera-to-world, float32; the first and last as given.

  Raises:
    UserError: if less than two poses are given.
  """
  given = np.asarray(camera_to_world, np.float64)
  if len(given) < 2:
    raise errors.UserError(
      f'two cameras or more can be joined, got {len(given)}.'
    )
  knots = np.arange(len(given))
  times = np.linspace(0, len(given) - 1, num_poses)
  turns = transform.Rotation.from_matrix(given[:, :, :3])
  rotations = transform.RotationSpline(knots, turns)(times).as_matrix()
  centres = scipy_interpolate.CubicSpline(knots, given[:, :, 3])(times)
  return np.concatenate([rotations, centres[..., None]], -1).astype(np.float32)

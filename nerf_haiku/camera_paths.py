"""Camera poses along a path, for videos."""

import numpy as np
from scipy import interpolate as scipy_interpolate
from scipy.spatial import transform

from nerf_haiku import cameras, errors, poses

# The spiral of the reference implementation (bmild/nerf): it looks at a depth
# whose disparity is 3/4 of the way from that of near to that of five times far.
_FAR_FACTOR, _FOCUS_FRACTION = 5.0, 0.75
_PERCENTILE = 90  # Of the cameras' distances from the mean pose: the radii.
# Cameras surround a point if no gap between them, as seen from it, is wider.
_MAX_GAP = np.deg2rad(120)
# Cameras face one way if each is within this angle of their mean direction.
_MIN_FORWARD = np.cos(np.deg2rad(45))
_TINY = 1e-9  # Under the length of a mean direction.
# A spiral with this near and far looks at a depth of 1.
_UNIT_DEPTH = 0.4
_MIN_UP = 0.1  # Length of the cameras' mean up direction that is one.
_DEPTH_FREQUENCY = 0.5  # Turns to and fro in depth for each turn around.


def sphere_pose(azimuth: float, elevation: float, radius: float) -> np.ndarray:
  """Returns the pose of a camera on a sphere, looking at its center, z up.

  Args:
    azimuth: degrees around the z axis.
    elevation: degrees; negative above the center, as in the reference
      implementation.
    radius: distance from the center, scene units.

  Returns:
    `[3, 4]` camera-to-world, float32.
  """
  phi, theta = np.deg2rad([elevation, azimuth])
  translation = np.eye(4)
  translation[2, 3] = radius
  pitch = np.eye(4)
  pitch[1:3, 1:3] = [[np.cos(phi), -np.sin(phi)], [np.sin(phi), np.cos(phi)]]
  yaw = np.eye(4)
  yaw[:3:2, :3:2] = [
    [np.cos(theta), -np.sin(theta)],
    [np.sin(theta), np.cos(theta)],
  ]
  upright = np.diag([-1.0, 1.0, 1.0, 1.0])[[0, 2, 1, 3]]
  return (upright @ yaw @ pitch @ translation)[:3].astype(np.float32)


def circle(
  num_poses: int, *, elevation: float = -30.0, radius: float = 4.0
) -> np.ndarray:
  """Returns poses on a circle of latitude, looking at the origin.

  Args:
    num_poses: number of poses.
    elevation: degrees, see `sphere_pose`.
    radius: distance from the origin, scene units.

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
  """Returns poses on a spiral around the mean pose, for forward-facing scenes.

  As in the reference implementation, the spiral is as wide as the cameras are
  apart, turns twice, and looks at one point. The flat one stays in a plane a
  little nearer to the scene, and turns once, with half the poses.

  Args:
    camera_to_world: `[N, 3, 4]` poses of the cameras.
    near: where rays begin, scene units.
    far: the largest depth of the scene.
    num_poses: number of poses of a spiral that is not flat.
    flat: whether the spiral stays in a plane.

  Returns:
    `[num_poses, 3, 4]` camera-to-world, float32; half as many if it is flat.
  """
  disparity = (1 - _FOCUS_FRACTION) / near + _FOCUS_FRACTION / (
    _FAR_FACTOR * far
  )
  focal = 1 / disparity
  mean = poses.mean(camera_to_world)
  up = np.sum(np.asarray(camera_to_world, np.float64)[:, :3, 1], axis=0)
  positions = poses.relative_to(mean, camera_to_world)[:, :, 3]
  radii = np.percentile(np.abs(positions), _PERCENTILE, axis=0)
  turns = 2
  if flat:
    mean[:, 3] -= 0.1 * near * mean[:, 2]
    radii[2], turns, num_poses = 0.0, 1, max(num_poses // 2, 1)
  target = mean[:, 3] - focal * mean[:, 2]
  angles = np.linspace(0, 2 * np.pi * turns, num_poses, endpoint=False)
  local = np.stack(
    [np.cos(angles), -np.sin(angles), -np.sin(_DEPTH_FREQUENCY * angles)]
  )
  centers = (radii * local.T) @ mean[:, :3].T + mean[:, 3]
  path = [poses.from_axes(c - target, up, c) for c in centers]
  return np.stack(path).astype(np.float32)


def orbit(
  camera_to_world: np.ndarray, frame: np.ndarray, num_poses: int
) -> np.ndarray:
  """Returns poses on a circle around a point that they look at.

  As in the reference implementation's path for spherified poses, the circle
  has the cameras' mean square distance from the point, and their mean height;
  the last pose repeats the first.

  Args:
    camera_to_world: `[N, 3, 4]` poses of the cameras.
    frame: `[3, 4]` the point, and axes: the circle is around z, and begins
      at x.
    num_poses: number of poses.

  Returns:
    `[num_poses, 3, 4]` camera-to-world, float32.
  """
  positions = poses.relative_to(frame, camera_to_world)[:, :, 3]
  height = positions[:, 2].mean()
  square = np.mean(np.sum(positions**2, axis=-1)) - height**2
  radius = np.sqrt(max(square, 0.0))
  path = []
  for angle in np.linspace(0, 2 * np.pi, num_poses):
    local = radius * np.cos(angle), radius * np.sin(angle), height
    backward = frame[:, :3] @ local
    path.append(poses.from_axes(backward, frame[:, 2], frame[:, 3] + backward))
  return np.stack(path).astype(np.float32)


def through_capture(camera_to_world: np.ndarray, num_poses: int) -> np.ndarray:
  """Returns poses on a path that suits a capture.

  It is a circle around what the cameras look at, if they surround it (see
  `orbit`); a spiral, if they face one way; else a path through all of them, in
  their order.

  Args:
    camera_to_world: `[N, 3, 4]` poses of the cameras, in units in which they
      look at a depth of about 1, with z up.
    num_poses: number of poses.

  Returns:
    `[num_poses, 3, 4]` camera-to-world, float32.
  """
  target = poses.find_target_ahead(camera_to_world)
  if target is not None:
    offsets = camera_to_world[:, :, 3] - target.point
    angles = np.sort(np.arctan2(offsets[:, 1], offsets[:, 0]))
    gaps = np.diff(angles, append=angles[0] + 2 * np.pi)
    if gaps.max() < _MAX_GAP:
      frame = np.concatenate([np.eye(3), target.point[:, None]], axis=1)
      closed = orbit(camera_to_world, frame, num_poses + 1)
      return closed[:-1]
  if len(camera_to_world) < 2:
    return np.repeat(camera_to_world[:, :3], num_poses, axis=0)
  backward = camera_to_world[:, :3, 2]
  mean = backward.mean(0)
  cosines = backward @ mean / max(float(np.linalg.norm(mean)), _TINY)
  if np.min(cosines) > _MIN_FORWARD:
    return spiral(camera_to_world, _UNIT_DEPTH, _UNIT_DEPTH, num_poses)
  return interpolate(camera_to_world, num_poses)


def around(camera_to_world: np.ndarray, num_poses: int) -> np.ndarray:
  """Returns poses on a closed path that follows cameras.

  It is a circle around the point that the cameras look at, with their mean
  height and distance (see `orbit`), or if there is no such point, a path
  through all of them (see `interpolate`).

  Args:
    camera_to_world: `[N, 3, 4]` poses of the cameras.
    num_poses: number of poses.

  Returns:
    `[num_poses, 3, 4]` camera-to-world, float32.
  """
  target = poses.find_target_ahead(camera_to_world)
  up = np.sum(np.asarray(camera_to_world, np.float64)[:, :3, 1], axis=0)
  has_up = np.linalg.norm(up) > _MIN_UP * len(camera_to_world)
  if target is not None and has_up:
    frame = poses.upright(target.point, up)
    return orbit(camera_to_world, frame, num_poses + 1)[:-1]
  if len(camera_to_world) < 2:
    return np.repeat(camera_to_world[:, :3], num_poses, axis=0)
  return interpolate(camera_to_world, num_poses)


def video_path(
  cams: cameras.Cameras, num_poses: int, original: bool
) -> cameras.Cameras:
  """Returns the cameras of the rendered video.

  Args:
    cams: the training cameras.
    num_poses: number of cameras, with the first one's lens and image size.
    original: whether they are on the reference implementation's circle of
      radius 4 around the origin. Else they follow the training cameras, see
      `around`.
  """
  if original:
    path = circle(num_poses)
  else:
    path = around(np.asarray(cams.camera_to_world), num_poses)
  return cameras.with_poses(path, cams)


def interpolate(camera_to_world: np.ndarray, num_poses: int) -> np.ndarray:
  """Returns poses on a smooth path through given poses, in their order.

  Args:
    camera_to_world: `[N, 3, 4]` given poses, two or more.
    num_poses: number of poses on the path; each section between two given
      poses has the same share of them.

  Returns:
    `[num_poses, 3, 4]` camera-to-world, float32; the first and last as given.

  Raises:
    UserError: if fewer than two poses are given.
  """
  given = np.asarray(camera_to_world, np.float64)
  if len(given) < 2:
    raise errors.UserError(
      f'a path needs at least two cameras, got {len(given)}.'
    )
  knots = np.arange(len(given))
  times = np.linspace(0, len(given) - 1, num_poses)
  given_rotations = transform.Rotation.from_matrix(given[:, :, :3])
  spline = transform.RotationSpline(knots, given_rotations)
  rotations = spline(times).as_matrix()
  centers = scipy_interpolate.CubicSpline(knots, given[:, :, 3])(times)
  return np.concatenate([rotations, centers[..., None]], -1).astype(np.float32)

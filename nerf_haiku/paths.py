"""Camera poses along a path, for videos."""

import numpy as np


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
    [np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)],
  ]  # fmt: skip
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

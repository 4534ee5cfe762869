"""Where a capture lies in the coordinates of a field.

Programs of structure from motion choose origin, axes and scale freely. Here
they follow from the cameras and the points of surfaces: up is z, the scene's
middle is the origin, and cameras and what is near lie within 1 of it.
"""

from typing import NamedTuple

import numpy as np

from nerf_haiku import (
  cameras,
  contraction,
  errors,
  poses,
  scene_bounds,
  similarity,
)

_MIN_UP = 0.1  # Length of the cameras' mean up direction that is one.
# A camera that is farther from the middle than this, in median distances, does
# not decide the scale.
_MAX_STRAY = 3.0
# Percentiles of the points' depths: where nothing is nearer, with a margin, and
# to where all that is near lies.
_NEAREST, _NEAR_REGION = 0.1, 25.0
_NEAR_MARGIN = 0.7
NEAR = 0.05  # Where rays begin if there are no points, field units.
_MIN_NEAR = 1e-3  # Smallest near that points may give, field units.
# Points in the box of a bounded scene, percent, and the margin around them as a
# fraction of its sides.
_BOX_PERCENTILES, _BOX_MARGIN = (1.0, 99.0), 0.05
_MAX_CAMERAS, _MAX_POINTS = 100, 20_000  # Whose depths are computed.


class Placement(NamedTuple):
  """How a scene is moved for its field, and where its rays go."""

  similarity: similarity.Similarity  # from the capture's coordinates.
  near: float  # scene units along the optical axis.
  far: float
  box: np.ndarray | None  # [2, 3] float32, field units; None: it is unbounded.


def place(
  cams: cameras.Cameras,
  points: np.ndarray,
  *,
  contracted: bool,
  box: np.ndarray | None = None,
) -> Placement:
  """Places a capture.

  Args:
    cams: `N` cameras, all that there are; float64 where positions are large.
    points: `[P, 3]` points of surfaces, scene units; may be empty.
    contracted: whether space is contracted, and thus unbounded.
    box: `[2, 3]` known corners in the capture's coordinates, or None. With it
      nothing is turned.

  Raises:
    UserError: if nothing tells where a bounded scene ends.
  """
  camera_to_world = np.asarray(cams.camera_to_world)
  depths = point_depths(cams, points)
  fitted = fit(
    camera_to_world, points, depths, turned=contracted or box is None
  )
  near = NEAR / fitted.scale
  if len(depths):
    nearest = _NEAR_MARGIN * float(np.percentile(depths, _NEAREST))
    near = max(nearest, _MIN_NEAR / fitted.scale)
  if contracted:
    return Placement(fitted, near, contraction.FAR / fitted.scale, None)
  centers = similarity.move_points(fitted, camera_to_world[:, :, 3])
  if box is not None:
    corners = similarity.move_points(fitted, box)
  else:
    corners = _find_box(fitted, cams, points)
  farthest = np.maximum(corners[1] - centers, centers - corners[0])
  far = float(np.linalg.norm(farthest, axis=-1).max()) / fitted.scale
  return Placement(fitted, min(near, far / 2), far, corners.astype(np.float32))


def fit(
  camera_to_world: np.ndarray,
  points: np.ndarray,
  depths: np.ndarray,
  *,
  turned: bool = True,
) -> similarity.Similarity:
  """Fits the similarity that moves a capture to the coordinates of a field.

  The origin is the point that the cameras look at; without one the points'
  median, or without points the cameras' mean position.

  Args:
    camera_to_world: `[N, 3, 4]` poses.
    points: `[P, 3]` points of surfaces, scene units; may be empty.
    depths: `[M]` depths of points in images, see `point_depths`.
    turned: whether z becomes the cameras' mean up direction.
  """
  pose = np.asarray(camera_to_world, np.float64)
  # Relative to a camera: squares of large positions would lose their digits.
  start = pose[0, :, 3]
  pose = np.concatenate([pose[..., :3], pose[..., 3:] - start[:, None]], -1)
  target = poses.find_target_ahead(pose)
  if target is not None:
    center = target.point
  elif len(points):
    center = np.median(points - start, axis=0)
  else:
    center = pose[..., 3].mean(0)
  distances = np.linalg.norm(pose[..., 3] - center, axis=-1)
  radius = distances.max()
  if np.median(distances) > 0:
    radius = min(radius, _MAX_STRAY * np.median(distances))
  if len(depths):
    radius = max(radius, np.percentile(depths, _NEAR_REGION))
  scale = 1.0 / float(radius) if radius > 0 else 1.0
  rotation = _upright(pose) if turned else np.eye(3)
  translation = -scale * rotation @ (center + start)
  return similarity.Similarity(scale, rotation, translation)


def _upright(pose: np.ndarray) -> np.ndarray:
  """Returns the rotation `[3, 3]` that makes the cameras' mean up axis z."""
  up = pose[:, :, 1].mean(0)
  if np.linalg.norm(up) < _MIN_UP:
    return np.eye(3)
  return poses.upright(np.zeros(3), up)[:, :3].T


def point_depths(cams: cameras.Cameras, points: np.ndarray) -> np.ndarray:
  """Computes the depths of points in the images that they lie in.

  The distortion of lenses is neglected. Of many cameras and points some are
  used, evenly among them.

  Args:
    cams: `N` cameras.
    points: `[P, 3]` scene units.

  Returns:
    `[M]` depths, scene units, over 0.
  """
  points = points[:: -(-len(points) // _MAX_POINTS) or 1]
  num_cameras = len(cams.sizes)
  found = [np.zeros(0)]
  for i in range(0, num_cameras, -(-num_cameras // _MAX_CAMERAS)):
    pose = np.asarray(cams.camera_to_world[i], np.float64)
    x, y, z = ((points - pose[:, 3]) @ pose[:, :3]).T
    fx, fy, cx, cy = cams.intrinsics[i]
    height, width = cams.sizes[i]
    depth = -z
    divisor = np.where(depth > 0, depth, 1.0)
    column, row = cx + fx * x / divisor, cy - fy * y / divisor
    inside = (column >= 0) & (column <= width) & (row >= 0) & (row <= height)
    found.append(depth[inside & (depth > 0)])
  return np.concatenate(found)


def _find_box(
  fitted: similarity.Similarity, cams: cameras.Cameras, points: np.ndarray
) -> np.ndarray:
  """Returns the box `[2, 3]` of a bounded scene, field units."""
  if len(points):
    moved = similarity.move_points(fitted, points)
    box: np.ndarray = np.percentile(moved, _BOX_PERCENTILES, axis=0)
    margin = _BOX_MARGIN * (box[1] - box[0])
    box = box + np.stack([-margin, margin])
    return box
  moved_cams = similarity.move_rigidly(fitted, cams)
  target = poses.find_target(np.asarray(moved_cams.camera_to_world))
  if target is None or np.median(target.depths) < 0:
    raise errors.UserError(
      'config.contraction=False: nothing tells where the scene ends: there are '
      'no points, and the cameras do not look at one point. Set '
      'config.contraction=True, or config.box.'
    )
  return scene_bounds.fit_bounds(moved_cams, target).box

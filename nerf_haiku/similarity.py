"""Similarities: from the coordinates of a data set to those of a field.

A field learns best in a scene of a known size around the origin. Cameras,
depths and files stay in the data set's coordinates: rays are cast from cameras
that were moved, and as their directions are scaled with them, positions on the
rays (t) are the same in both.
"""

from typing import NamedTuple

import numpy as np

from nerf_haiku import cameras, poses


class Similarity(NamedTuple):
  """The map `scale * rotation @ x + translation` of points; NumPy, float64."""

  scale: float  # field units per scene unit, over 0.
  rotation: np.ndarray  # [3, 3]
  translation: np.ndarray  # [3] field units.


def from_cameras(cams: cameras.Cameras) -> Similarity:
  """Returns the similarity that moves cameras to within 1 of the origin.

  The origin is the point that they look at, or their mean where there is none.
  Nothing is turned.

  Args:
    cams: `N` cameras, scene units.
  """
  pose = np.asarray(cams.camera_to_world, np.float64)
  target = poses.find_target_ahead(pose)
  center = pose[..., 3].mean(0) if target is None else target.point
  radius = float(np.max(np.linalg.norm(pose[..., 3] - center, axis=-1)))
  scale = 1.0 / radius if radius > 0 else 1.0
  return Similarity(scale, np.eye(3), -scale * center)


def field_units(similarity: Similarity | None) -> float:
  """Returns the length of a scene unit in field units; 1 for None."""
  return 1.0 if similarity is None else similarity.scale


def move_points(similarity: Similarity, points: np.ndarray) -> np.ndarray:
  """Moves points `[..., 3]` from the data set's coordinates to the field's."""
  axes = similarity.scale * similarity.rotation
  moved: np.ndarray = np.asarray(points) @ axes.T + similarity.translation
  return moved


def move_cameras(
  similarity: Similarity | None, cams: cameras.Cameras
) -> cameras.Cameras:
  """Moves cameras, such that rays are cast in the field's coordinates.

  Args:
    similarity: None leaves the cameras as they are.
    cams: `N` cameras, scene units; best float64 where positions are large.

  Returns:
    The cameras for `cameras.cast` alone, float32: their axes are as long as the
    scale, so that `t` stays the depth in scene units.
  """
  if similarity is None:
    return cams
  pose = np.asarray(cams.camera_to_world, np.float64)
  axes = similarity.scale * similarity.rotation @ pose[..., :3]
  centers = move_points(similarity, pose[..., 3])
  moved = np.concatenate([axes, centers[..., None]], axis=-1)
  return cams._replace(camera_to_world=moved.astype(np.float32))


def move_poses(
  similarity: Similarity | None, camera_to_world: np.ndarray
) -> np.ndarray:
  """Moves poses `[N, 3, 4]` rigidly: their axes keep the length 1.

  Distances between them are then in field units. None leaves the poses as they
  are; else the result is float64.
  """
  if similarity is None:
    return camera_to_world
  pose = np.asarray(camera_to_world, np.float64)
  axes = similarity.rotation @ pose[..., :3]
  centers = move_points(similarity, pose[..., 3])
  return np.concatenate([axes, centers[..., None]], axis=-1)


def move_rigidly(
  similarity: Similarity | None, cams: cameras.Cameras
) -> cameras.Cameras:
  """Moves the poses of cameras, see `move_poses`."""
  if similarity is None:
    return cams
  pose = move_poses(similarity, np.asarray(cams.camera_to_world))
  return cams._replace(camera_to_world=pose)


def invert(similarity: Similarity) -> Similarity:
  """Returns the map back, from the field's coordinates."""
  scale, rotation = 1.0 / similarity.scale, similarity.rotation.T
  translation = -scale * rotation @ similarity.translation
  return Similarity(scale, rotation, translation)

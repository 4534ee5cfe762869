"""Points on the surfaces that cameras see."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from nerf_haiku import cameras, image_rendering


class PointCloud(NamedTuple):
  """Points on surfaces."""

  points: np.ndarray  # [N, 3] float64, scene units.
  colors: np.ndarray  # [N, 3] uint8.


def from_views(
  views: Iterable[tuple[cameras.Cameras, image_rendering.RenderedImage]],
  *,
  min_opacity: float = 0.9,
  pixel_center: bool = True,
) -> PointCloud:
  """Returns the points at the expected depths of rendered views.

  Args:
    views: each camera, one, with its image.
    min_opacity: pixels that are less opaque have no point.
    pixel_center: whether rays go through the centers of pixels.
  """
  points, colors = [np.zeros((0, 3))], [np.zeros((0, 3), np.uint8)]
  for camera, image in views:
    rows, columns = np.nonzero(np.asarray(image.opacity) >= min_opacity)
    position = np.stack([rows, columns], axis=-1) + 0.5 * pixel_center
    pose = np.asarray(camera.camera_to_world[0], np.float64)
    plane = cameras.image_plane(camera, np.zeros(len(rows), int), position)
    opacity = np.asarray(image.opacity)[rows, columns]
    depth = np.asarray(image.depth, np.float64)[rows, columns] / opacity
    points.append(pose[:, 3] + depth[:, None] * (plane @ pose[:, :3].T))
    rgb = np.asarray(image.rgb)[rows, columns]
    colors.append(np.rint(255.0 * np.clip(rgb, 0, 1)).astype(np.uint8))
  return PointCloud(np.concatenate(points), np.concatenate(colors))


def thin(cloud: PointCloud, spacing: float) -> PointCloud:
  """Keeps one point in each cube of a lattice: the one nearest to their mean.

  Args:
    cloud: the points.
    spacing: side of the cubes, scene units, over 0.
  """
  if not len(cloud.points):
    return cloud
  cell = np.floor((cloud.points - cloud.points.min(axis=0)) / spacing)
  _, inverse, count = np.unique(
    cell.astype(np.int64), axis=0, return_inverse=True, return_counts=True
  )
  inverse = inverse.reshape(-1)
  mean = np.stack(
    [np.bincount(inverse, x) / count for x in cloud.points.T], axis=-1
  )
  distance = np.linalg.norm(cloud.points - mean[inverse], axis=-1)
  # The first of each cube, in the order of cubes, then distances.
  order = np.lexsort((distance, inverse))
  first = np.concatenate([[0], np.cumsum(count)[:-1]])
  kept = np.sort(order[first])
  return PointCloud(cloud.points[kept], cloud.colors[kept])

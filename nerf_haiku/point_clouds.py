"""Points on the surfaces that cameras see, with normals and colors."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from nerf_haiku import cameras, image_rendering
from nerf_haiku.io import media

# A surface that is seen at a flatter angle than 6 degrees is an edge: the depth
# of its pixels is between that of one thing and of another.
_MIN_COSINE = 0.1


class PointCloud(NamedTuple):
  """Points on surfaces."""

  points: np.ndarray  # [N, 3] float64, scene units.
  normals: np.ndarray  # [N, 3] float32, unit vectors towards the camera.
  colors: np.ndarray  # [N, 3] uint8.


def from_views(
  views: Iterable[tuple[cameras.Cameras, image_rendering.RenderedImage]],
  *,
  min_opacity: float = 0.9,
  pixel_center: bool = True,
) -> PointCloud:
  """Returns the points at the expected depths of rendered views.

  A normal is that of the surface through the neighbors of a pixel. Pixels have
  no point if they are less opaque, or if one of their four neighbors is, or if
  there is an edge between these.

  Args:
    views: each camera, one, with its image of 2 by 2 pixels or more.
    min_opacity: of pixels that have a point, over 0.
    pixel_center: whether rays go through the centers of pixels.
  """
  parts = [_from_view(*view, min_opacity, pixel_center) for view in views]
  empty = np.zeros((0, 3))
  parts.append(
    PointCloud(empty, empty.astype(np.float32), empty.astype(np.uint8))
  )
  return PointCloud(*map(np.concatenate, zip(*parts, strict=True)))


def thin(cloud: PointCloud, spacing: float) -> PointCloud:
  """Keeps one point in each cube of a lattice: the one nearest to their mean.

  Its normal and color are the means of the cube's points.

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

  def mean(values: np.ndarray) -> np.ndarray:
    sums = [np.bincount(inverse, x) for x in values.T]
    means: np.ndarray = np.stack(sums, axis=-1) / count[:, None]
    return means

  distance = np.linalg.norm(cloud.points - mean(cloud.points)[inverse], axis=-1)
  # The first of each cube, in the order of cubes, then distances.
  order = np.lexsort((distance, inverse))
  kept = order[np.concatenate([[0], np.cumsum(count)[:-1]])]
  return PointCloud(
    cloud.points[kept],
    _unit(mean(cloud.normals)).astype(np.float32),
    np.rint(mean(cloud.colors)).astype(np.uint8),
  )


def surface_normals(points: np.ndarray) -> np.ndarray:
  """Returns the normals of a surface that is seen through pixels.

  Args:
    points: `[H, W, 3]` what each pixel sees, at least 2 by 2.

  Returns:
    `[H, W, 3]` unit vectors by the neighbors of a pixel: towards the camera,
    but for edges between things; 0 where the neighbors are at one place.
  """
  down, across = np.gradient(points, axis=(0, 1))
  return _unit(np.cross(down, across))


def _from_view(
  camera: cameras.Cameras,
  image: image_rendering.RenderedImage,
  min_opacity: float,
  pixel_center: bool,
) -> PointCloud:
  """Returns the points of one view."""
  opacity = np.asarray(image.opacity, np.float64)
  height, width = opacity.shape
  is_opaque = opacity >= min_opacity
  depth = np.asarray(image.depth, np.float64) / np.where(is_opaque, opacity, 1)
  position = cameras.pixels(height, width) + 0.5 * pixel_center
  pose = np.asarray(camera.camera_to_world[0], np.float64)
  plane = cameras.image_plane(camera, np.zeros(height * width, int), position)
  directions = (plane @ pose[:, :3].T).reshape(height, width, 3)
  offset = depth[..., None] * directions
  # Of the pixels that are not at the border of the image.
  inner = (slice(1, -1), slice(1, -1))
  normals = surface_normals(offset)[inner]
  cosine = -np.sum(normals * _unit(directions[inner]), axis=-1)
  is_kept = is_opaque[inner] & (cosine >= _MIN_COSINE)
  is_kept &= is_opaque[1:-1, 2:] & is_opaque[1:-1, :-2]
  is_kept &= is_opaque[2:, 1:-1] & is_opaque[:-2, 1:-1]
  return PointCloud(
    pose[:, 3] + offset[inner][is_kept],
    normals[is_kept].astype(np.float32),
    media.to_uint8(np.asarray(image.rgb)[inner][is_kept]),
  )


def _unit(vectors: np.ndarray) -> np.ndarray:
  """Returns vectors `[..., 3]` of length 1; those of 0 stay 0."""
  length = np.linalg.norm(vectors, axis=-1, keepdims=True)
  units: np.ndarray = vectors / np.where(length > 0, length, 1.0)
  return units

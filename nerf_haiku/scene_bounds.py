"""How large a scene is: the box to be modelled, and a pixel's width in it."""

from typing import NamedTuple

import numpy as np

from nerf_haiku import cameras, scenes

# A point is modelled if at least this share of the cameras sees it.
_SEEN_BY = 0.5
_LATTICE = 40  # Points along a side, of those that are looked at.
_MARGIN = 0.02  # Of a box's sides, added on each side.


class SceneBounds(NamedTuple):
  """In the units of the rays: the world's, or normalised device coordinates."""

  box: np.ndarray  # [2, 3] float32, lower and upper corner.
  pixel: float  # width of a pixel in the middle of it, the median camera's.


def scene_bounds(scene: scenes.Scene) -> SceneBounds:
  """The extent of a scene: its own box, or what its training cameras see.

  Without a box, that is what at least half of the cameras see between near and
  far, or if there is nothing like that, all that any of them sees. In
  normalised device coordinates it is where their rays go.
  """
  views = scene.train.cameras
  if scene.ndc is not None:
    box = _of_ndc(views, scene.ndc)
    # Across a view, the image is as wide as 2; coordinates are the same there.
    return SceneBounds(box, float(np.median(2 / np.asarray(views.sizes)[:, 1])))
  if scene.box is None:
    box = _of_views(views, scene.near, scene.far)
  else:
    box = np.asarray(scene.box, np.float32)
  middle = np.mean(box, axis=0)
  away = np.linalg.norm(views.camera_to_world[:, :, 3] - middle, axis=-1)
  return SceneBounds(box, float(np.median(away / views.intrinsics[:, 0])))


def _of_ndc(views: cameras.Cameras, ndc: cameras.Ndc) -> np.ndarray:
  corners = []
  for i, (height, width) in enumerate(np.asarray(views.sizes)):
    pixel = np.array(
      [[0, 0], [0, width], [height, 0], [height, width]], np.int32
    )
    rays = cameras.cast(
      views,
      np.full(4, i, np.int32),
      pixel,
      near=0.0,
      far=1.0,
      box=None,
      pixel_center=False,
    )
    rays = cameras.to_ndc(rays, ndc)
    corners += [rays.origins, rays.origins + rays.directions]
  return _around(np.concatenate(corners))


def _of_views(views: cameras.Cameras, near: float, far: float) -> np.ndarray:
  """Looks twice: at all that any camera sees, and at what half of them do."""
  box = _around(
    np.concatenate([_frustum(views, t).reshape(-1, 3) for t in (near, far)])
  )
  for _ in range(2):
    side = (box[1] - box[0]) / _LATTICE
    index = np.indices((_LATTICE,) * 3).reshape(3, -1).T
    points = box[0] + (index + 0.5) * side
    seen = _number_that_see(views, points, near, far)
    good = seen >= _SEEN_BY * len(views.sizes)
    if not np.any(good):
      return box
    box = np.stack(
      [points[good].min(0) - 0.5 * side, points[good].max(0) + 0.5 * side]
    )
  return box.astype(np.float32)


def _frustum(views: cameras.Cameras, t: float) -> np.ndarray:
  """The corners `[N, 4, 3]` of what cameras see at a depth."""
  fx, fy, cx, cy = np.asarray(views.intrinsics, np.float64).T
  height, width = np.asarray(views.sizes, np.float64).T
  local = np.stack(
    [
      np.stack([(x - cx) / fx, (cy - y) / fy, -np.ones_like(fx)], axis=-1)
      for x in (0 * width, width)
      for y in (0 * height, height)
    ],
    axis=1,
  )
  pose = np.asarray(views.camera_to_world, np.float64)
  away = t * np.einsum('nij,nkj->nki', pose[:, :, :3], local)
  return pose[:, None, :, 3] + away


def _number_that_see(
  views: cameras.Cameras, points: np.ndarray, near: float, far: float
) -> np.ndarray:
  seen = np.zeros(len(points), np.int32)
  for pose, (fx, fy, cx, cy), (height, width) in zip(*views, strict=True):
    x, y, z = ((points - pose[:, 3]) @ pose[:, :3]).T
    depth = np.maximum(-z, 1e-9)
    column, row = cx + fx * x / depth, cy - fy * y / depth
    seen += (
      (-z >= near)
      & (-z <= far)
      & (column >= 0)
      & (column <= width)
      & (row >= 0)
      & (row <= height)
    )
  return seen


def _around(points: np.ndarray) -> np.ndarray:
  """The box `[2, 3]` around points `[N, 3]`, with a margin."""
  lower, upper = np.min(points, axis=0), np.max(points, axis=0)
  margin = _MARGIN * (upper - lower)
  return np.stack([lower - margin, upper + margin]).astype(np.float32)

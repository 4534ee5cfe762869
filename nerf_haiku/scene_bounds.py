"""Bounds of a scene, from its cameras: a box, near and far, a pixel's width."""

from typing import NamedTuple

import numpy as np

from nerf_haiku import (
  arrays,
  cameras,
  contraction,
  lenses,
  poses,
  scenes,
  similarity,
)

# A point is in the box if at least this fraction of the cameras sees it.
_MIN_VISIBLE = 0.5
_LATTICE = 40  # Points along each side at which visibility is counted.
_MARGIN = 0.02  # Fraction of a box's sides that is added on each side.
_BALL_MARGIN = 1.1  # Of the radius of the ball around a target.
_MIN_NEAR = 0.05  # Fraction of the distance to a target.
_NUM_RAYS = 1 << 16  # That are counted, at most about.


class SceneBounds(NamedTuple):
  """In the units of the rays: the world's, or normalized device coordinates."""

  box: np.ndarray  # [2, 3] float32, lower and upper corner.
  # In the middle of the box, for the median of the cameras with large images.
  pixel_width: float


class FittingBounds(NamedTuple):
  """Bounds that hold what cameras look at."""

  near: float  # scene units along the optical axis.
  far: float
  box: np.ndarray  # [2, 3] float32.


def fit_bounds(cams: cameras.Cameras, target: poses.Target) -> FittingBounds:
  """Computes bounds of the ball around a target that the views are filled by.

  Args:
    cams: `N` cameras that look at the target.
    target: as from `poses.find_target`.

  Returns:
    A cube around the ball, and near and far that hold it for all cameras.
  """
  half_sides = np.max(
    np.asarray(cams.sizes)[:, ::-1] / cams.intrinsics[:, :2] / 2, axis=1
  )
  distances = np.abs(target.depths)
  radii = distances * np.sin(np.arctan(half_sides))
  radius = _BALL_MARGIN * float(np.median(radii))
  nearest, farthest = float(distances.min()), float(distances.max())
  box = np.stack([target.point - radius, target.point + radius])
  return FittingBounds(
    near=max(nearest - radius, _MIN_NEAR * nearest),
    far=farthest + radius,
    box=box.astype(np.float32),
  )


def modelled_bounds(scene: scenes.Scene) -> SceneBounds:
  """Returns the box that is modelled, in the field's own space.

  In contracted space the box holds all of it, and the pixel is one at a
  distance of 1, where nothing is contracted.
  """
  if scene.contracted:
    widths = 1.0 / scene.train.cameras.intrinsics[:, 0]
    pixel_width = _median_width(widths, scene.train.cameras)
    return SceneBounds(contraction.BOX, pixel_width)
  scale = similarity.field_units(scene.similarity)
  return scene_bounds(
    similarity.move_rigidly(scene.similarity, scene.train.cameras),
    scale * scene.near,
    scale * scene.far,
    scene.box,
    scene.ndc,
  )


def even_depth(scene: scenes.Scene) -> float | None:
  """Returns `even_to` of `media.depth_image`: where contraction begins."""
  if not scene.contracted:
    return None
  return 1.0 / similarity.field_units(scene.similarity)


def fraction_of_rays(
  cams: cameras.Cameras, near: float, far: float, box: np.ndarray
) -> float:
  """Returns the fraction of rays that meet a box between near and far.

  Some 65,000 rays are counted, evenly over the images.

  Args:
    cams: `N` cameras.
    near: where rays begin, scene units along the optical axis.
    far: where rays end.
    box: `[2, 3]` corners, scene units.
  """
  every = -(-16 * len(cams.sizes) // _NUM_RAYS)
  cams = cameras.take(cams, slice(None, None, every))
  side = min(max(int((_NUM_RAYS / len(cams.sizes)) ** 0.5), 4), 64)
  places = (np.indices((side, side)).reshape(2, -1).T + 0.5) / side
  camera = np.repeat(np.arange(len(cams.sizes)), len(places))
  positions = np.tile(places, (len(cams.sizes), 1)) * cams.sizes[camera]
  local = cameras.image_plane(cams, camera, positions)
  poses_ = np.asarray(cams.camera_to_world, np.float64)[camera]
  directions = np.einsum('rij,rj->ri', poses_[..., :3], local)
  directions[directions == 0] = np.finfo(np.float64).tiny
  offsets = np.asarray(box)[:, None] - poses_[..., 3]
  with np.errstate(over='ignore'):
    faces = offsets / directions  # [2, R, 3] in t.
  enter = np.maximum(faces.min(0).max(-1), near)
  leave = np.minimum(faces.max(0).min(-1), far)
  return float(np.mean(enter < leave))


def scene_bounds(
  cams: cameras.Cameras,
  near: float,
  far: float,
  box: np.ndarray | None,
  ndc: cameras.Ndc | None,
) -> SceneBounds:
  """Computes the bounds of what cameras see.

  Without a given box, that is where at least half of the cameras see between
  near and far, or if there is no such place, where any of them does. In
  normalized device coordinates it is the box around all rays.

  Args:
    cams: `N` training cameras.
    near: where rays begin, scene units along the optical axis.
    far: where rays end.
    box: `[2, 3]` known corners in world coordinates, or None.
    ndc: coordinates that rays are converted to, or None for the world's. With
      them near, far and box have no effect.

  Returns:
    The box, and the width of a pixel.
  """
  if ndc is not None:
    # The image is 2 wide in device coordinates, at any depth.
    widths = 2 / np.asarray(cams.sizes)[:, 1]
    return SceneBounds(_box_of_ndc(cams, ndc), _median_width(widths, cams))
  if box is None:
    box = _box_of_views(cams, near, far)
  else:
    box = np.asarray(box, np.float32)
  offsets = cams.camera_to_world[:, :, 3] - np.mean(box, axis=0)
  distances = np.linalg.norm(offsets, axis=-1)
  widths = distances / cams.intrinsics[:, 0]
  return SceneBounds(box, _median_width(widths, cams))


def _median_width(widths: arrays.Array, cams: cameras.Cameras) -> float:
  """Returns the median of widths of pixels `[N]`, those of small images apart.

  Small ones have less than half of the pixels of the largest image.
  """
  return float(np.median(np.asarray(widths)[_are_large(cams)]))


def _are_large(cams: cameras.Cameras) -> np.ndarray:
  """Returns which images `[N]` have at least half of the most pixels."""
  areas = np.prod(np.asarray(cams.sizes, np.int64), axis=-1)
  are_large: np.ndarray = 2 * areas >= np.max(areas)
  return are_large


def pixel_ratio(
  cams: cameras.Cameras, index: int, train: cameras.Cameras
) -> float:
  """Returns how many times as wide a camera's pixels are as others.

  Args:
    cams: `N` cameras.
    index: of the camera.
    train: the others; the median of those with large images counts.
  """
  focal = np.median(np.asarray(train.intrinsics)[_are_large(train), 0])
  return float(focal / cams.intrinsics[index, 0])


def _box_of_ndc(cams: cameras.Cameras, ndc: cameras.Ndc) -> np.ndarray:
  """Returns the box `[2, 3]` around all rays in device coordinates."""
  points = []
  for i, (height, width) in enumerate(np.asarray(cams.sizes)):
    corners = np.array(
      [[0, 0], [0, width], [height, 0], [height, width]], np.int32
    )
    rays = cameras.cast(
      cams,
      np.full(4, i, np.int32),
      corners,
      near=0.0,
      far=1.0,
      box=None,
      pixel_center=False,
    )
    rays = cameras.to_ndc(rays, ndc)
    points += [rays.origins, rays.origins + rays.directions]
  return _box_around(np.concatenate(points))


def _box_of_views(cams: cameras.Cameras, near: float, far: float) -> np.ndarray:
  """Returns the box `[2, 3]` around the points that half the cameras see.

  Visibility is counted on a lattice over all frusta, then on a finer one over
  the box that this gives.
  """
  corners = [_frustum_corners(cams, t).reshape(-1, 3) for t in (near, far)]
  box = _box_around(np.concatenate(corners))
  for _ in range(2):
    side = (box[1] - box[0]) / _LATTICE
    index = np.indices((_LATTICE,) * 3).reshape(3, -1).T
    points = box[0] + (index + 0.5) * side
    counts = _count_visible(cams, points, near, far)
    inside = counts >= _MIN_VISIBLE * len(cams.sizes)
    if not np.any(inside):
      return box
    box = np.stack(
      [points[inside].min(0) - 0.5 * side, points[inside].max(0) + 0.5 * side]
    )
  return box.astype(np.float32)


def _frustum_corners(cams: cameras.Cameras, t: float) -> np.ndarray:
  """Returns the image corners `[N, 4, 3]` of cameras at depth `t`."""
  local = cameras.image_corners(cams)
  pose = np.asarray(cams.camera_to_world, np.float64)
  offsets = t * np.einsum('nij,nkj->nki', pose[:, :, :3], local)
  corners: np.ndarray = pose[:, None, :, 3] + offsets
  return corners


def _count_visible(
  cams: cameras.Cameras, points: np.ndarray, near: float, far: float
) -> np.ndarray:
  """Counts the cameras that see each of `M` points: `[M]` int32."""
  counts = np.zeros(len(points), np.int32)
  for i, (height, width) in enumerate(np.asarray(cams.sizes)):
    position, depth = _project(cameras.take(cams, [i]), points)
    row, column = position
    counts += (
      (depth >= near)
      & (depth <= far)
      & (column >= 0)
      & (column <= width)
      & (row >= 0)
      & (row <= height)
    )
  return counts


def _project(
  camera: cameras.Cameras, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Projects points `[M, 3]` to one camera, in float64.

  Returns:
    `[2, M]` row and column, and the depth `[M]`. The row of a point that is
    farther off the axis than a corner of the image is infinite: the polynomial
    of a lens may lead it back.
  """
  pose, (fx, fy, cx, cy) = camera.camera_to_world[0], camera.intrinsics[0]
  x, y, z = ((points - pose[:, 3]) @ pose[:, :3]).T
  divisor = np.maximum(-z, 1e-9)
  x, y = x / divisor, y / divisor
  if camera.distortion is not None:
    outside = (
      np.hypot(x, y)
      > np.linalg.norm(cameras.image_corners(camera)[0, :, :2], axis=-1).max()
    )
    plane = np.stack([x, -y], axis=-1)
    lens = (np.asarray(x) for x in (camera.distortion, camera.fisheye))
    shown = lenses.distort(plane, *(x.repeat(len(plane), 0) for x in lens))
    x, y = np.asarray(shown)[:, 0], np.where(outside, np.inf, -shown[:, 1])
  return np.stack([cy - fy * y, cx + fx * x]), -z


def _box_around(points: np.ndarray) -> np.ndarray:
  """Returns the box `[2, 3]` around points `[M, 3]`, with a margin."""
  lower, upper = np.min(points, axis=0), np.max(points, axis=0)
  margin = _MARGIN * (upper - lower)
  return np.stack([lower - margin, upper + margin]).astype(np.float32)

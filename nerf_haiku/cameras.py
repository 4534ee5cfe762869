"""Cameras and the rays through their pixels.

Axes are OpenGL's: x to the right, y up, and the camera looks along -z. A pixel
is `(row, column)`; row 0 is at the top of the image.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import arrays, lenses


class Cameras(NamedTuple):
  """`N` cameras; images of one set may differ in size and lens."""

  camera_to_world: arrays.Array  # [N, 3, 4] rotation and position, scene units.
  intrinsics: arrays.Array  # [N, 4] fx, fy, cx, cy in pixels.
  sizes: arrays.Array  # [N, 2] int32, height and width in pixels.
  # [N, 6] k1, k2, k3, k4, p1, p2, see `lenses`; None: all are pinholes.
  distortion: arrays.Array | None = None
  fisheye: arrays.Array | None = None  # [N] bool; None without distortion.


class Rays(NamedTuple):
  """`R` rays; a point on a ray is `origins + t * directions`."""

  origins: arrays.Array  # [R, 3] scene units.
  directions: arrays.Array  # [R, 3] not normalized: 1 along the optical axis.
  viewdirs: arrays.Array  # [R, 3] the directions, normalized.
  near: arrays.Array  # [R, 1] where the ray begins, in t.
  far: arrays.Array  # [R, 1] where it ends; equal to `near` for an empty ray.
  # [R, 1] of the cone that is as wide as the pixel, at t = 1, scene units, see
  # `cones`. None: in normalized device coordinates, and of lone rays.
  radius: arrays.Array | None = None


# Rays in normalized device coordinates are at most 85 degrees off -z.
MIN_COSINE = float(np.cos(np.deg2rad(85)))
# A disk of this radius has the variance of a pixel of width 1.
_DISK_RADIUS = 2 / np.sqrt(12)
_TINY_DEPTH = 1e-9  # Of points on a camera's own plane.


class Ndc(NamedTuple):
  """Normalized device coordinates (appendix C of the paper).

  The frustum of a camera at the origin, beyond a near plane, becomes the cube
  from -1 to 1; disparity is linear in it.
  """

  focal: tuple[float, float]  # x and y, in halves of the image's sides.
  near: float = 1.0  # depth of the near plane, scene units.


def cast(
  cameras: Cameras,
  camera: arrays.Array,
  pixel: arrays.Array,
  *,
  near: float,
  far: float,
  box: arrays.Array | None,
  pixel_center: bool,
) -> Rays:
  """Casts one ray through each pixel (section 4 of the paper).

  Args:
    cameras: `N` cameras.
    camera: `[R]` int32, index of each pixel's camera.
    pixel: `[R, 2]` int32, row and column.
    near: where rays begin, in t (scene units along the optical axis).
    far: where rays end.
    box: `[2, 3]` lower and upper corner that rays are clipped to, or None.
    pixel_center: whether a ray goes through the center of its pixel. In the
      reference implementation (bmild/nerf) it goes through the upper left
      corner.

  Returns:
    `R` rays. A ray that misses the box has `near == far`. Their radius has the
    variance of the pixel (Barron et al., *Mip-NeRF*, 2021, section 3.1), a
    lens's distortion neglected.
  """
  chex.assert_rank([camera, pixel], [1, 2])
  chex.assert_shape(pixel, (camera.shape[0], 2))
  chex.assert_type([camera, pixel], int)
  pose = jnp.asarray(cameras.camera_to_world)[camera]
  fx, fy, cx, cy = jnp.moveaxis(jnp.asarray(cameras.intrinsics)[camera], -1, 0)
  row, column = jnp.moveaxis(pixel.astype(pose.dtype), -1, 0)
  offset = 0.5 if pixel_center else 0.0
  x = (column + offset - cx) / fx
  y = -(row + offset - cy) / fy
  if cameras.distortion is not None:
    x, y = _undistort(cameras, camera, x, y)
  directions = jnp.einsum(
    'rij,rj->ri',
    pose[:, :, :3],
    jnp.stack([x, y, -jnp.ones_like(x)], -1),
    precision='highest',
  )
  viewdirs = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
  rays = Rays(
    origins=pose[:, :, 3],
    directions=directions,
    viewdirs=viewdirs,
    near=jnp.full_like(x[:, None], near),
    far=jnp.full_like(x[:, None], far),
    radius=_DISK_RADIUS * jnp.sqrt(1 / (fx * fy))[:, None],
  )
  return rays if box is None else clip(rays, box)


def _undistort(
  cameras: Cameras, camera: arrays.Array, x: arrays.Array, y: arrays.Array
) -> tuple[arrays.Array, arrays.Array]:
  """Returns x and y `[R]` at depth 1, y up, without the lens's distortion."""
  points = lenses.undistort(jnp.stack([x, -y], -1), *_lenses(cameras, camera))
  return points[:, 0], -points[:, 1]


def _lenses(
  cameras: Cameras, camera: arrays.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the distortion `[R, 6]` and fisheye `[R]` of rays."""
  distortion, fisheye = map(jnp.asarray, (cameras.distortion, cameras.fisheye))
  return distortion[camera], fisheye[camera]


def project(
  cameras: Cameras, camera: arrays.Array, points: arrays.Array
) -> tuple[jax.Array, jax.Array]:
  """Projects points to images: the inverse of `cast`.

  Args:
    cameras: `N` cameras.
    camera: `[R]` int32, index of each point's camera.
    points: `[R, 3]` scene units.

  Returns:
    `[R, 2]` row and column from the image's upper left corner, such that the
    center of the first pixel is at (0.5, 0.5); and the depths `[R]`. Only
    points of positive depth are seen; the others' positions are finite.
  """
  chex.assert_rank([camera, points], [1, 2])
  pose = jnp.asarray(cameras.camera_to_world)[camera]
  fx, fy, cx, cy = jnp.moveaxis(jnp.asarray(cameras.intrinsics)[camera], -1, 0)
  local = jnp.einsum(
    'rij,ri->rj', pose[:, :, :3], points - pose[:, :, 3], precision='highest'
  )
  depth = -local[:, 2]
  divisor = jnp.where(jnp.abs(depth) > _TINY_DEPTH, depth, _TINY_DEPTH)
  plane = jnp.stack([local[:, 0], -local[:, 1]], -1) / divisor[:, None]
  if cameras.distortion is not None:
    plane = lenses.distort(plane, *_lenses(cameras, camera))
  return jnp.stack([cy + fy * plane[:, 1], cx + fx * plane[:, 0]], -1), depth


def clip(rays: Rays, box: arrays.Array) -> Rays:
  """Clips rays to a box (the slab method).

  Args:
    rays: `R` rays.
    box: `[2, 3]` lower and upper corner, scene units.

  Returns:
    The rays with `near` and `far` inside the box, equal for rays that miss it.
    They have no gradient: samples stay where they are on rays that move.
  """
  box = jnp.asarray(box)
  chex.assert_shape(box, (2, 3))
  # Dividing by a direction of 0 gives an infinity, or a NaN on a face of the
  # box; dividing by the smallest normal number gives neither.
  tiny = jnp.finfo(rays.directions.dtype).tiny
  directions = jnp.where(jnp.abs(rays.directions) < tiny, tiny, rays.directions)
  origins, directions = jax.lax.stop_gradient((rays.origins, directions))
  lower, upper = ((x - origins) / directions for x in jnp.split(box, 2))
  enter = jnp.max(jnp.minimum(lower, upper), axis=-1, keepdims=True)
  leave = jnp.min(jnp.maximum(lower, upper), axis=-1, keepdims=True)
  near = jnp.clip(enter, rays.near, rays.far)
  far = jnp.clip(leave, near, rays.far)
  return rays._replace(near=near, far=far)


def to_ndc(rays: Rays, ndc: Ndc) -> Rays:
  """Converts rays to normalized device coordinates (appendix C of the paper).

  They begin at the near plane, t' = 0, and end at infinity, t' = 1.

  Args:
    rays: `R` rays that go towards -z; their near and far have no effect.
    ndc: the coordinates.

  Returns:
    The converted rays; viewing directions remain those of the world.
  """
  origins = _at_near_plane(rays, ndc)[1]
  x, y, z = jnp.moveaxis(origins, -1, 0)
  dx, dy, dz = jnp.moveaxis(rays.directions, -1, 0)
  focal_x, focal_y = ndc.focal
  starts = points_to_ndc(origins, ndc)
  directions = jnp.stack(
    [
      -focal_x * (dx / dz - x / z),
      -focal_y * (dy / dz - y / z),
      -2.0 * ndc.near / z,
    ],
    axis=-1,
  )
  zeros = jnp.zeros_like(rays.near)
  return Rays(
    origins=starts,
    directions=directions,
    viewdirs=rays.viewdirs,
    near=zeros,
    far=zeros + 1.0,
  )


def from_ndc(t: arrays.Array, rays: Rays, ndc: Ndc) -> jax.Array:
  """Converts positions on rays from normalized device coordinates.

  Args:
    t: `[R]` or `[R, S]` positions t' on `to_ndc(rays, ndc)`, 0 to 1.
    rays: `R` rays in world coordinates.
    ndc: the coordinates.

  Returns:
    The t on `rays`, of the shape of `t`: scene units along the optical axis,
    at most the rays' far.
  """
  chex.assert_rank(t, {1, 2})
  shift, origins = _at_near_plane(rays, ndc)
  z, dz, far = origins[:, 2], rays.directions[:, 2], rays.far[:, 0]
  if t.ndim == 2:
    shift, z, dz, far = (x[:, None] for x in (shift, z, dz, far))
  # t' = 1 is at infinity: keep the divisor from 0.
  remaining = jnp.maximum(1.0 - t, jnp.finfo(t.dtype).eps)
  return jnp.minimum(shift + t * z / (dz * remaining), far)


def points_to_ndc(points: arrays.Array, ndc: Ndc) -> jax.Array:
  """Converts points to normalized device coordinates (appendix C).

  Args:
    points: `[..., 3]` in front of the cameras: their z is less than 0.
    ndc: the coordinates.

  Returns:
    `[..., 3]`; z is -1 at the near plane and tends to 1 at infinity.
  """
  x, y, z = jnp.moveaxis(jnp.asarray(points), -1, 0)
  focal_x, focal_y = ndc.focal
  return jnp.stack(
    [-focal_x * x / z, -focal_y * y / z, 1.0 + 2.0 * ndc.near / z], axis=-1
  )


def points_from_ndc(points: arrays.Array, ndc: Ndc) -> jax.Array:
  """Returns the points `[..., 3]` that `points_to_ndc` converts to others.

  Those at infinity, z = 1, come back as far as float32 allows.
  """
  x, y, z = jnp.moveaxis(jnp.asarray(points), -1, 0)
  focal_x, focal_y = ndc.focal
  # Keep the divisor from 0, as `from_ndc` does.
  depth = 2.0 * ndc.near / jnp.maximum(1.0 - z, jnp.finfo(z.dtype).eps)
  return jnp.stack([depth * x / focal_x, depth * y / focal_y, -depth], axis=-1)


def min_cosines(cameras: Cameras) -> np.ndarray:
  """Computes the smallest cosine between -z and the rays of each camera.

  Args:
    cameras: `N` cameras. For normalized device coordinates, their cosines must
      be at least `MIN_COSINE`.

  Returns:
    `[N]` cosines.
  """
  directions = np.einsum(
    'nij,nkj->nki', cameras.camera_to_world[:, :, :3], image_corners(cameras)
  )
  lengths = np.linalg.norm(directions, axis=-1)
  cosines: np.ndarray = np.min(-directions[..., 2] / lengths, axis=1)
  return cosines


def image_plane(
  cameras: Cameras, camera: np.ndarray, positions: np.ndarray
) -> np.ndarray:
  """Returns the directions of positions in images, in the cameras' axes.

  Args:
    cameras: `N` cameras.
    camera: `[R]` int, index of each position's camera.
    positions: `[R, 2]` row and column from the upper left corner of the image,
      pixels.

  Returns:
    `[R, 3]` float64; z is -1.
  """
  fx, fy, cx, cy = np.asarray(cameras.intrinsics, np.float64)[camera].T
  row, column = np.asarray(positions, np.float64).T
  x, y = (column - cx) / fx, (cy - row) / fy
  if cameras.distortion is not None:
    x, y = (np.asarray(v) for v in _undistort(cameras, camera, x, y))
  return np.stack([x, y, -np.ones_like(x)], axis=-1)


def image_corners(cameras: Cameras) -> np.ndarray:
  """Returns the directions of image corners, see `image_plane`: `[N, 4, 3]`."""
  height, width = np.asarray(cameras.sizes).T
  rows = np.stack([0 * height, height, 0 * height, height], axis=1)
  columns = np.stack([0 * width, 0 * width, width, width], axis=1)
  positions = np.stack([rows, columns], axis=-1).reshape(-1, 2)
  camera = np.repeat(np.arange(len(height)), 4)
  return image_plane(cameras, camera, positions).reshape(-1, 4, 3)


def _at_near_plane(rays: Rays, ndc: Ndc) -> tuple[arrays.Array, arrays.Array]:
  """Returns where rays meet the near plane: t `[R]`, and points `[R, 3]`."""
  t = -(ndc.near + rays.origins[:, 2]) / rays.directions[:, 2]
  return t, rays.origins + t[:, None] * rays.directions


def pixels(height: int, width: int) -> np.ndarray:
  """Returns all pixels of an image, row by row: `[H * W, 2]` int32."""
  grid = np.meshgrid(np.arange(height), np.arange(width), indexing='ij')
  return np.stack(grid, axis=-1).reshape(-1, 2).astype(np.int32)


def pinhole(
  camera_to_world: np.ndarray, sizes: np.ndarray, focal: np.ndarray
) -> Cameras:
  """Returns cameras with square pixels and a central optical axis.

  Args:
    camera_to_world: `[N, 3, 4]` or `[N, 4, 4]` poses.
    sizes: `[N, 2]` heights and widths in pixels.
    focal: `[N]` focal lengths in pixels.

  Returns:
    `N` cameras of NumPy arrays, float32 and int32.
  """
  sizes = np.asarray(sizes, np.int32)
  focal = np.broadcast_to(np.asarray(focal, np.float64), sizes.shape[:1])
  intrinsics = np.stack([focal, focal, sizes[:, 1] / 2, sizes[:, 0] / 2], -1)
  return Cameras(
    camera_to_world=np.asarray(camera_to_world, np.float32)[:, :3],
    intrinsics=intrinsics.astype(np.float32),
    sizes=sizes,
  )


def with_poses(camera_to_world: np.ndarray, cameras: Cameras) -> Cameras:
  """Returns cameras at other poses, with the first one's intrinsics and size.

  Args:
    camera_to_world: `[N, 3, 4]` poses.
    cameras: one camera or more.

  Returns:
    `N` pinhole cameras of NumPy arrays; distortion is left out.
  """
  num_poses = len(camera_to_world)
  return Cameras(
    camera_to_world=np.asarray(camera_to_world, np.float32),
    intrinsics=np.repeat(cameras.intrinsics[:1], num_poses, axis=0),
    sizes=np.repeat(cameras.sizes[:1], num_poses, axis=0),
  )


def take(cameras: Cameras, index: Any) -> Cameras:
  """Returns some cameras: those of an index array, a mask or a slice."""
  taken: Cameras = jax.tree.map(lambda x: np.asarray(x)[index], cameras)
  return taken


def concatenate(parts: Sequence[Cameras]) -> Cameras:
  """Returns the cameras of all parts, one after the other."""
  if all(part.distortion is None for part in parts):
    arrays_ = zip(*(part[:3] for part in parts), strict=True)
    return Cameras(*map(np.concatenate, arrays_))
  parts = [with_lenses(part) for part in parts]
  return Cameras(*map(np.concatenate, zip(*parts, strict=True)))


def with_lenses(cameras: Cameras) -> Cameras:
  """Returns the same cameras with a distortion, of 0 where there was none."""
  if cameras.distortion is not None:
    return cameras
  count = len(cameras.sizes)
  return cameras._replace(
    distortion=np.zeros((count, lenses.NUM_COEFFICIENTS), np.float32),
    fisheye=np.zeros(count, bool),
  )


def scale(cameras: Cameras, sizes: np.ndarray) -> Cameras:
  """Scales the images of cameras to other sizes, each axis by its ratio.

  Args:
    cameras: `N` cameras.
    sizes: `[N, 2]` new heights and widths in pixels.

  Returns:
    The `N` cameras, with the new sizes and scaled intrinsics.
  """
  sizes = np.asarray(sizes, np.int32)
  y, x = np.moveaxis(sizes / np.asarray(cameras.sizes, np.float64), -1, 0)
  intrinsics = cameras.intrinsics * np.stack([x, y, x, y], axis=-1)
  return cameras._replace(intrinsics=intrinsics.astype(np.float32), sizes=sizes)


def enlarge(cameras: Cameras, factor: int) -> Cameras:
  """Divides each pixel into `factor * factor`.

  Args:
    cameras: `N` cameras.
    factor: 1 or more.

  Returns:
    The `N` cameras, whose images are `factor` times as high and wide.
  """
  if factor == 1:
    return cameras
  return scale(cameras, factor * np.asarray(cameras.sizes))

"""Cameras and the rays through their pixels.

Axes are OpenGL's: x to the right, y up, and the camera looks along -z. A pixel
is `(row, column)`, row 0 at the top of the image.
"""

from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np


class Cameras(NamedTuple):
  """`N` pinhole cameras; images of one set may differ in size."""

  camera_to_world: chex.Array  # [N, 3, 4] rotation and centre, scene units.
  intrinsics: chex.Array  # [N, 4] fx, fy, cx, cy in pixels.
  sizes: chex.Array  # [N, 2] int32, height and width in pixels.


class Rays(NamedTuple):
  """`R` rays; a point on a ray is `origins + t * directions`."""

  origins: chex.Array  # [R, 3] scene units.
  directions: chex.Array  # [R, 3] not normalised: 1 along the optical axis.
  viewdirs: chex.Array  # [R, 3] the directions, of length 1.
  near: chex.Array  # [R, 1] the first t that is looked at.
  far: chex.Array  # [R, 1] the last; `near` where there is nothing to see.


# Of rays that go well towards -z: up to 85 degrees aside.
MIN_COSINE = float(np.cos(np.deg2rad(85)))


class Ndc(NamedTuple):
  """Normalised device coordinates (appendix C of the paper).

  The pyramid that a camera at the origin sees beyond a near plane becomes the
  cube from -1 to 1; disparity is linear in it.
  """

  focal: tuple[float, float]  # x and y, in halves of the image's sides.
  near: float = 1.0  # depth of the near plane, scene units.


def cast(
  cameras: Cameras,
  camera: chex.Array,
  pixel: chex.Array,
  *,
  near: float,
  far: float,
  box: chex.Array | None,
  pixel_center: bool,
) -> Rays:
  """Casts one ray through each pixel (section 4 of the paper).

  Args:
    cameras: `N` cameras.
    camera: `[R]` int32, which camera takes the pixel.
    pixel: `[R, 2]` int32, row and column.
    near: where rays begin, in t (scene units along the optical axis).
    far: where rays end.
    box: `[2, 3]` lower and upper corner that rays are clipped to, or None.
    pixel_center: whether a ray meets the centre of its pixel. The original
      goes through the pixel's upper left corner.

  Returns:
    `R` rays. One that misses the box has `near == far`.
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
  directions = jnp.einsum(
    'rij,rj->ri',
    pose[:, :, :3],
    jnp.stack([x, y, -jnp.ones_like(x)], -1),
    precision='highest',
  )
  viewdirs = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
  ends = jnp.full_like(x[:, None], near), jnp.full_like(x[:, None], far)
  rays = Rays(pose[:, :, 3], directions, viewdirs, *ends)
  return rays if box is None else clip(rays, box)


def clip(rays: Rays, box: chex.Array) -> Rays:
  """Shortens rays to the part inside a box (the slab method).

  Args:
    rays: `R` rays.
    box: `[2, 3]` lower and upper corner, scene units.

  Returns:
    The rays with `near` and `far` inside the box; equal where they miss it.
  """
  box = jnp.asarray(box)
  chex.assert_shape(box, (2, 3))
  # A direction of 0 along an axis divides to an infinity that a bound of the
  # box can turn into a NaN; the smallest normal number does neither.
  tiny = jnp.finfo(rays.directions.dtype).tiny
  along = rays.directions
  along = jnp.where(jnp.abs(along) < tiny, tiny, along)
  lower, upper = ((x - rays.origins) / along for x in jnp.split(box, 2))
  enter = jnp.max(jnp.minimum(lower, upper), axis=-1, keepdims=True)
  leave = jnp.min(jnp.maximum(lower, upper), axis=-1, keepdims=True)
  near = jnp.clip(enter, rays.near, rays.far)
  far = jnp.clip(leave, near, rays.far)
  return rays._replace(near=near, far=far)


def to_ndc(rays: Rays, ndc: Ndc) -> Rays:
  """Rays in normalised device coordinates (appendix C of the paper).

  They begin at the near plane at t' = 0 and end at infinity at t' = 1.

  Args:
    rays: `R` rays that go towards -z; their near and far have no effect.
    ndc: the coordinates.

  Returns:
    The rays there; viewing directions are still those of the world.
  """
  origins = _at_near_plane(rays, ndc)[1]
  x, y, z = jnp.moveaxis(origins, -1, 0)
  along_x, along_y, along_z = jnp.moveaxis(rays.directions, -1, 0)
  focal_x, focal_y = ndc.focal
  starts = jnp.stack(
    [-focal_x * x / z, -focal_y * y / z, 1.0 + 2.0 * ndc.near / z], axis=-1
  )
  directions = jnp.stack(
    [
      -focal_x * (along_x / along_z - x / z),
      -focal_y * (along_y / along_z - y / z),
      -2.0 * ndc.near / z,
    ],
    axis=-1,
  )
  zeros = jnp.zeros_like(rays.near)
  return Rays(starts, directions, rays.viewdirs, zeros, zeros + 1.0)


def from_ndc(t: chex.Array, rays: Rays, ndc: Ndc) -> chex.Array:
  """Positions on rays of the world, from those in device coordinates.

  Args:
    t: `[R]` or `[R, S]` positions t' on `to_ndc(rays, ndc)`, 0 to 1.
    rays: `R` rays of the world.
    ndc: the coordinates.

  Returns:
    t on `rays`, scene units along the optical axis; at most the rays' far.
  """
  chex.assert_rank(t, {1, 2})
  shift, origins = _at_near_plane(rays, ndc)
  z, along, far = origins[:, 2], rays.directions[:, 2], rays.far[:, 0]
  if t.ndim == 2:
    shift, z, along, far = (x[:, None] for x in (shift, z, along, far))
  # Nothing is at t' = 1 but infinity: stop before what divides by 0.
  left = jnp.maximum(1.0 - t, jnp.finfo(t.dtype).eps)
  return jnp.minimum(shift + t * z / (along * left), far)


def min_cosines(cameras: Cameras) -> np.ndarray:
  """Of each of `N` cameras the least cosine `[N]` of its rays with -z.

  In normalised device coordinates it must be `MIN_COSINE` or more.
  """
  fx, fy, cx, cy = cameras.intrinsics.T
  height, width = cameras.sizes.T
  corners = [
    np.stack([(x - cx) / fx, (cy - y) / fy, -np.ones_like(fx)], axis=-1)
    for x in (np.zeros_like(width), width)
    for y in (np.zeros_like(height), height)
  ]
  directions = np.einsum(
    'nij,knj->kni', cameras.camera_to_world[:, :, :3], np.stack(corners)
  )
  lengths = np.linalg.norm(directions, axis=-1)
  return np.min(-directions[..., 2] / lengths, axis=0)


def _at_near_plane(rays: Rays, ndc: Ndc) -> tuple[chex.Array, chex.Array]:
  """Where rays meet the near plane: t `[R]`, and the points `[R, 3]`."""
  t = -(ndc.near + rays.origins[:, 2]) / rays.directions[:, 2]
  return t, rays.origins + t[:, None] * rays.directions


def pixels(height: int, width: int) -> np.ndarray:
  """All pixels of an image, row by row: `[height * width, 2]` int32."""
  grid = np.meshgrid(np.arange(height), np.arange(width), indexing='ij')
  return np.stack(grid, axis=-1).reshape(-1, 2).astype(np.int32)


def pinhole(
  camera_to_world: np.ndarray, sizes: np.ndarray, focal: np.ndarray
) -> Cameras:
  """Cameras with square pixels whose axis meets the centre of the image.

  Args:
    camera_to_world: `[N, 3, 4]` or `[N, 4, 4]` poses.
    sizes: `[N, 2]` height and width in pixels.
    focal: `[N]` focal lengths in pixels.

  Returns:
    `N` cameras of NumPy arrays, float32 and int32.
  """
  sizes = np.asarray(sizes, np.int32)
  focal = np.broadcast_to(np.asarray(focal, np.float64), sizes.shape[:1])
  intrinsics = np.stack([focal, focal, sizes[:, 1] / 2, sizes[:, 0] / 2], -1)
  return Cameras(
    np.asarray(camera_to_world, np.float32)[:, :3],
    intrinsics.astype(np.float32),
    sizes,
  )


def with_poses(camera_to_world: np.ndarray, cameras: Cameras) -> Cameras:
  """Cameras at poses `[N, 3, 4]`, of the first camera's lens and size."""
  num = len(camera_to_world)
  return Cameras(
    np.asarray(camera_to_world, np.float32),
    np.repeat(cameras.intrinsics[:1], num, axis=0),
    np.repeat(cameras.sizes[:1], num, axis=0),
  )


def scale(cameras: Cameras, sizes: np.ndarray) -> Cameras:
  """The same cameras taking images of other sizes, each axis by its ratio.

  Args:
    cameras: `N` cameras.
    sizes: `[N, 2]` new heights and widths in pixels.
  """
  sizes = np.asarray(sizes, np.int32)
  y, x = np.moveaxis(sizes / np.asarray(cameras.sizes, np.float64), -1, 0)
  intrinsics = cameras.intrinsics * np.stack([x, y, x, y], axis=-1)
  return cameras._replace(intrinsics=intrinsics.astype(np.float32), sizes=sizes)

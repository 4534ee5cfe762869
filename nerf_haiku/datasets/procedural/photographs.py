"""The built-in scene: photographs of a still life, ray-traced on demand.

Nothing is downloaded or stored. Depth and normals are exact, so that a trained
model can be compared with them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from nerf_haiku import camera_paths, cameras, scenes
from nerf_haiku.datasets.procedural import outdoor, solids, still_life

CAMERA_ANGLE_X = 0.6911112070083618  # radians: that of NeRF-synthetic.
_WIDE_ANGLE_X = np.pi / 3  # outdoors, as a phone's.
_RADIUS = 3.6  # of the sphere that cameras are on, scene units.

# Sample points in a pixel with an edge, relative to its center: a lattice that
# a quarter turn maps to itself, with 13 points in 13 rows and 13 columns.
_LATTICE = np.stack([np.arange(13), np.arange(13) * 5 % 13], axis=-1) / 13
_LATTICE = (_LATTICE + 0.5) % 1 - 0.5
_EDGE = 0.08  # difference of colors in [0, 1] in a pixel that is an edge.
_CHUNK = 24576  # rays traced at once; they fit a cache of some MB.

# Light, linear: a distant square lamp, a sky, and a ground that reflects.
_LAMP = np.array([0.46, -0.34, 0.82]) / np.linalg.norm([0.46, -0.34, 0.82])
_ACROSS = np.array([0.34, 0.46, 0.0]) / np.hypot(0.34, 0.46)
_LAMP_AXES = np.stack([_ACROSS, np.cross(_LAMP, _ACROSS)])  # The lamp's sides.
_LAMP_CORNERS = (
  _LAMP + 0.045 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) @ _LAMP_AXES
)  # [4, 3] where shadow rays go.
_LAMP_CORNERS /= np.linalg.norm(_LAMP_CORNERS, axis=1, keepdims=True)
_LAMP_COLOR = np.array([0.80, 0.755, 0.69])
_SKY = np.array([0.38, 0.41, 0.45])
_GROUND = np.array([0.30, 0.26, 0.22])
_GAMMA = 2.2

Items = Sequence[still_life.Item]
# What is between a camera and surfaces, and behind all, see `outdoor.air`.
Air = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class Hit(NamedTuple):
  """The first intersections of `R` rays."""

  t: np.ndarray  # [R] in lengths of the direction; infinity for a miss.
  item: np.ndarray  # [R] int, index of the item; -1 for a miss.
  normal: np.ndarray  # [R, 3] unit, towards the viewer; 0 for a miss.
  rgb: np.ndarray  # [R, 3] in [0, 1]; for a miss 0, or the sky.


def trace(
  items: Items,
  origins: np.ndarray,
  directions: np.ndarray,
  *,
  air: Air | None = None,
) -> Hit:
  """Computes the first hit of each ray and its color, exactly, in float64.

  Args:
    items: the scene, as from `still_life.make_items`.
    origins: `[R, 3]` scene units, outside of all solids.
    directions: `[R, 3]`; t is depth where they are 1 along the optical axis.
    air: what is between; None: nothing.

  Returns:
    The first hit of each ray.
  """
  origins = np.asarray(origins, np.float64)
  directions = np.asarray(directions, np.float64)
  t, which = solids.nearest([i.solid for i in items], origins, directions)
  normal, rgb = np.zeros((2, len(t), 3))
  hit = np.flatnonzero(which >= 0)
  points = origins[hit] + t[hit, None] * directions[hit]
  albedo, gloss = np.zeros((len(hit), 3)), np.zeros(len(hit))
  for i, item in enumerate(items):
    on_item = np.flatnonzero(which[hit] == i)
    normal[hit[on_item]] = solids.normals(item.solid, points[on_item])
    albedo[on_item] = item.paint(solids.to_local(item.solid, points[on_item]))
    gloss[on_item] = item.gloss
  rgb[hit] = _shade(items, points, normal[hit], directions[hit], albedo, gloss)
  if air is not None:
    lengths = np.linalg.norm(directions, axis=1)
    rgb = air(rgb, t * lengths, directions / lengths[:, None])
  return Hit(t=t, item=which, normal=normal, rgb=rgb)


def _shade(
  items: Items,
  points: np.ndarray,
  normal: np.ndarray,
  directions: np.ndarray,
  albedo: np.ndarray,
  gloss: np.ndarray,
) -> np.ndarray:
  """Computes the display colors `[R, 3]` in [0, 1] of visible points.

  All arguments are `[R, 3]`, but `gloss` is `[R]`.
  """
  lamp = _lambert(items, points, normal)[:, None]
  up = 0.5 + 0.5 * normal[:, 2:]
  sky = _GROUND + (_SKY - _GROUND) * up
  ambient = sky * _visible_sky(items, points, normal)
  rgb = albedo * (_LAMP_COLOR * lamp + ambient)
  shiny = np.flatnonzero(gloss)
  if len(shiny):
    rgb[shiny] = _add_reflections(
      rgb[shiny],
      lamp[shiny],
      normal[shiny],
      directions[shiny],
      gloss[shiny, None],
    )
  display: np.ndarray = np.clip(rgb, 0, 1) ** (1 / _GAMMA)
  return display


def _lambert(
  items: Items, points: np.ndarray, normal: np.ndarray
) -> np.ndarray:
  """Returns Lambert's cosine `[R]`, averaged over the lamp's visible corners.

  A hidden corner counts as 0.
  """
  cosine = np.maximum(np.einsum('rj,dj->dr', normal, _LAMP_CORNERS), 0)
  faces = np.flatnonzero(np.any(cosine > 0, axis=0))
  # Points need no offset: a ray leaving a surface entered it at t < 0.
  occluders = [item.solid for item in items if item.shade]
  hidden = solids.occluded(occluders, points[faces], _LAMP_CORNERS)
  cosine[:, faces] *= ~hidden
  mean: np.ndarray = np.mean(cosine, axis=0)
  return mean


def _visible_sky(
  items: Items, points: np.ndarray, normal: np.ndarray
) -> np.ndarray:
  """Returns the fraction `[R, 1]` of the sky that is visible.

  Items are approximated by balls.
  """
  fraction = np.ones(len(points))
  x, y, z, *n = np.ascontiguousarray(np.concatenate([points, normal], 1).T)
  for item in items:
    if item.shade:
      a, b, c = item.solid.center
      a, b, c = a - x, b - y, c - z
      square = np.maximum(a * a + b * b + c * c, 1e-12)
      cosine = np.maximum(a * n[0] + b * n[1] + c * n[2], 0)
      near = np.minimum(item.shade**2 / square, 1)
      fraction *= 1 - 0.75 * near * cosine / np.sqrt(square)
  return fraction[:, None]


def _add_reflections(
  rgb: np.ndarray,
  lamp: np.ndarray,
  normal: np.ndarray,
  directions: np.ndarray,
  gloss: np.ndarray,
) -> np.ndarray:
  """Adds reflections of sky, ground and lamp (Schlick), in linear light.

  `lamp` and `gloss` are `[R, 1]`, the other arguments `[R, 3]`.
  """
  view = directions / np.linalg.norm(directions, axis=1, keepdims=True)
  cosine = np.sum(view * normal, axis=1, keepdims=True)
  reflected = view - 2 * cosine * normal
  fresnel = gloss + (1 - gloss) * (1 - np.clip(-cosine, 0, 1)) ** 5
  height = _smoothstep(reflected[:, 2:], -0.2, 0.5)
  sky = 0.3 + 0.6 * height
  rgb = rgb + fresnel * (sky - rgb)
  aside = np.abs(np.einsum('rj,kj->rk', reflected, _LAMP_AXES))
  aside = np.max(aside, axis=1, keepdims=True)
  ahead = np.sum(reflected * _LAMP, axis=1, keepdims=True) > 0
  glint = _smoothstep(aside, 0.27, 0.19) * ahead * (lamp > 0) * 0.85
  with_glint: np.ndarray = rgb + glint * (1 - rgb)
  return with_glint


def _smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
  """Interpolates smoothly from 0 at `low` to 1 at `high`."""
  x = np.clip((x - low) / (high - low), 0, 1)
  y: np.ndarray = x * x * (3 - 2 * x)
  return y


def camera_rays(
  pose: np.ndarray, intrinsics: np.ndarray, pixel: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns rays through points of an image, float64.

  Args:
    pose: `[3, 4]` camera-to-world, OpenGL axes.
    intrinsics: `[4]` fx, fy, cx, cy in pixels.
    pixel: `[R, 2]` row and column; the first pixel's center is (0.5, 0.5).

  Returns:
    `[R, 3]` origins and directions, the latter 1 along the optical axis.
  """
  pose = np.asarray(pose, np.float64)
  fx, fy, cx, cy = np.asarray(intrinsics, np.float64)
  row, column = np.asarray(pixel, np.float64).T
  local = np.stack([(column - cx) / fx, (cy - row) / fy, -np.ones_like(row)])
  directions = np.einsum('ij,jr->ri', pose[:, :3], local)
  return np.broadcast_to(pose[:, 3], directions.shape), directions


def render(
  items: Items, cams: cameras.Cameras, index: int, *, air: Air | None = None
) -> np.ndarray:
  """Renders the photograph of one of `N` cameras.

  Every pixel is traced at its center and its corners, and at 13 points instead
  if these differ.

  Returns:
    `[H, W, 4]` uint8 with straight alpha: the fraction of the pixel that is
    covered, and the mean color of this fraction. With `air` all of it is.
  """
  height, width = (int(x) for x in cams.sizes[index])
  upper_left = cameras.pixels(height, width).astype(np.float64)
  corners = cameras.pixels(height + 1, width + 1)
  rgba = _trace_pixels(
    items, cams, index, np.concatenate([upper_left + 0.5, corners]), air
  )
  center = rgba[: height * width].reshape(height, width, 4)
  corner = rgba[height * width :].reshape(height + 1, width + 1, 4)
  five = np.stack(
    [center, corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]]
  )
  image = (0.5 * center + 0.125 * np.sum(five[1:], 0)).reshape(-1, 4)
  edge = np.flatnonzero(np.max(np.ptp(five, axis=0), axis=-1) > _EDGE)
  finer = (upper_left[edge, None] + 0.5 + _LATTICE).reshape(-1, 2)
  rgba = _trace_pixels(items, cams, index, finer, air)
  image[edge] = np.mean(rgba.reshape(-1, len(_LATTICE), 4), axis=1)
  image[:, :3] /= np.maximum(image[:, 3:], 1 / len(_LATTICE))
  rounded: np.ndarray = np.rint(image.reshape(height, width, 4) * 255)
  return rounded.astype(np.uint8)


def _trace_pixels(
  items: Items,
  cams: cameras.Cameras,
  index: int,
  pixel: np.ndarray,
  air: Air | None,
) -> np.ndarray:
  """Returns color times alpha, and alpha, `[R, 4]` at points `[R, 2]`."""
  pose = np.asarray(cams.camera_to_world[index])
  intrinsics = np.asarray(cams.intrinsics[index])
  rgba = np.empty((len(pixel), 4))
  for i in range(0, len(pixel), _CHUNK):
    rays = camera_rays(pose, intrinsics, pixel[i : i + _CHUNK])
    hit = trace(items, *rays, air=air)
    rgba[i : i + _CHUNK, :3] = hit.rgb
    rgba[i : i + _CHUNK, 3] = (hit.item >= 0) | (air is not None)
  return rgba


class _Place(NamedTuple):
  """What is photographed, and from where."""

  items: Items
  air: Air | None
  box: np.ndarray | None  # [2, 3] around the items; None: they have no bound.
  angle_x: float  # field of view, radians.
  radii: tuple[float, float]  # of the spheres that cameras are between.
  sines: tuple[float, float]  # of training cameras' elevations.
  held_out_sines: tuple[float, float]  # of the others'.
  path_elevation: float  # degrees, of the video's circle.


def _indoors(seed: int) -> _Place:
  return _Place(
    items=still_life.make_items(seed),
    air=None,
    box=still_life.BOX.astype(np.float32),
    angle_x=CAMERA_ANGLE_X,
    radii=(_RADIUS, _RADIUS),
    sines=(0.02, 0.998),
    held_out_sines=(0.05, 0.95),
    path_elevation=30.0,
  )


def _outdoors(seed: int) -> _Place:
  return _Place(
    items=outdoor.make_items(seed),
    air=outdoor.air,
    box=None,
    angle_x=_WIDE_ANGLE_X,
    radii=(outdoor.NEAREST, outdoor.FARTHEST),
    sines=(0.05, 0.6),
    held_out_sines=(0.1, 0.5),
    path_elevation=15.0,
  )


def make_scene(
  *,
  seed: int,
  size: int | tuple[int, int],
  unbounded: bool = False,
  num_train: int = 100,
  num_val: int = 25,
  num_test: int = 25,
  num_poses: int = 40,
  near: float = 2.0,
  far: float = 6.0,
) -> scenes.Scene:
  """Builds the scene of a seed and renders its photographs.

  Training views are sampled uniformly from the upper hemisphere; held-out
  views lie on a spiral around it. The same seed gives the same bits.

  Args:
    seed: 0 or more; determines colors, arrangement and cameras.
    size: height and width in pixels, or one number for both.
    unbounded: whether the still life stands outdoors, see `outdoor`. Cameras
      are then as high as a person may hold them.
    num_train: number of training views, traced immediately.
    num_val: number of validation views, each traced when accessed.
    num_test: number of test views, each traced when accessed.
    num_poses: number of cameras of the rendered video.
    near: where rays begin, scene units along the optical axis.
    far: where rays end.

  Returns:
    The scene; images have alpha, which is 1 outdoors.

  Raises:
    ValueError: if the size, the seed or a number is out of range.
  """
  size = (size, size) if isinstance(size, int) else size
  if min(size) < 1:
    raise ValueError(f'size must be positive, got {size}.')
  if seed < 0 or min(num_train, num_poses) < 1 or min(num_val, num_test) < 0:
    raise ValueError(
      'seed, num_val and num_test must be 0 or more, num_train and num_poses '
      f'1 or more, got {(seed, num_val, num_test, num_train, num_poses)}.'
    )
  place = _outdoors(seed) if unbounded else _indoors(seed)
  rng = np.random.default_rng([seed, 1])
  first = rng.uniform(0, 360)
  train = _cameras(place, _random_poses(place, rng, num_train), size)
  photographs = [
    render(place.items, train, i, air=place.air) for i in range(num_train)
  ]
  pixels = np.concatenate(photographs).reshape(-1, 4)
  images = scenes.Images(pixels, np.asarray(train.sizes))
  return scenes.Scene(
    train=scenes.Split(images, train),
    val=_held_out(place, num_val, first, size),
    test=_held_out(place, num_test, first + 90, size),
    near=near,
    far=far,
    box=place.box,
    path=_cameras(
      place,
      camera_paths.circle(
        num_poses,
        elevation=-place.path_elevation,
        radius=float(np.mean(place.radii)),
      ),
      size,
    ),
    notices=(),
  )


def _cameras(
  place: _Place, poses: np.ndarray, size: tuple[int, int]
) -> cameras.Cameras:
  focal = 0.5 * size[1] / np.tan(0.5 * place.angle_x)
  sizes = np.tile(size, (len(poses), 1))
  return cameras.pinhole(poses, sizes, np.full(len(poses), focal))


def _held_out(
  place: _Place, number: int, first: float, size: tuple[int, int]
) -> scenes.Split[scenes.LazyImages]:
  """Returns a split whose images are traced whenever they are accessed."""
  cams = _cameras(place, _spiral_poses(place, number, first), size)
  read = functools.partial(render, place.items, cams, air=place.air)
  return scenes.Split(scenes.LazyImages(len(cams.sizes), read), cams)


def _random_poses(
  place: _Place, rng: np.random.Generator, number: int
) -> np.ndarray:
  """Returns poses `[number, 3, 4]`, uniform on part of the upper hemisphere."""
  azimuth = rng.uniform(-180, 180, number)
  elevation = np.rad2deg(np.arcsin(rng.uniform(*place.sines, number)))
  return _poses(azimuth, elevation, rng.uniform(*place.radii, number))


def _spiral_poses(place: _Place, number: int, first: float) -> np.ndarray:
  """Returns poses `[number, 3, 4]` on a spiral of two turns, from low to high.

  The first azimuth is `first`, in degrees.
  """
  fraction = (np.arange(number) + 0.5) / max(number, 1)
  low, high = place.held_out_sines
  elevation = np.rad2deg(np.arcsin(low + (high - low) * fraction))
  radius = np.full(number, np.mean(place.radii))
  return _poses(first + 720 * fraction, elevation, radius)


def _poses(
  azimuths: np.ndarray, elevations: np.ndarray, radii: np.ndarray
) -> np.ndarray:
  poses = [
    camera_paths.sphere_pose(azimuth, -elevation, radius)
    for azimuth, elevation, radius in zip(
      azimuths, elevations, radii, strict=True
    )
  ]
  return np.asarray(poses, np.float32).reshape(-1, 3, 4)

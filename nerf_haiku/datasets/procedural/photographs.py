"""The built-in scene: a still life, ray-traced when it is asked for.

Nothing is downloaded and nothing is stored. Depth and normals are exact, so
that what a field has learned can be compared with the truth.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nerf_haiku import camera_paths, cameras, scenes
from nerf_haiku.datasets.procedural import solids, still_life

CAMERA_ANGLE_X = 0.6911112070083618  # radians: that of NeRF-synthetic.
_RADIUS = 3.6  # of the sphere that cameras are on, scene units.

# Where a pixel with an edge in it is looked at, from its middle: a lattice, the
# same after a quarter turn, whose 13 points lie in 13 rows and 13 columns.
_LATTICE = np.stack([np.arange(13), np.arange(13) * 5 % 13], axis=-1) / 13
_LATTICE = (_LATTICE + 0.5) % 1 - 0.5
_EDGE = 0.08  # change of a color in [0, 1] to a neighbour that is an edge.
_CHUNK = 24576  # rays traced at once: what a cache of some MB holds.

# Light, linear: a square lamp far away, a sky, a ground that throws some back.
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


class Hit(NamedTuple):
  """What `R` rays meet first."""

  t: np.ndarray  # [R] in lengths of the direction; infinity for a miss.
  item: np.ndarray  # [R] int, index of the item; -1 for a miss.
  normal: np.ndarray  # [R, 3] unit, towards the viewer; 0 for a miss.
  rgb: np.ndarray  # [R, 3] in [0, 1]; 0 for a miss.


def trace(items: Items, origins: np.ndarray, directions: np.ndarray) -> Hit:
  """What rays see, exactly: no samples, float64.

  Args:
    items: the scene, as from `still_life.make_items`.
    origins: `[R, 3]` scene units, outside of all solids.
    directions: `[R, 3]`; t is depth where they are 1 along the optical axis.

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
    here = np.flatnonzero(which[hit] == i)
    normal[hit[here]] = solids.normals(item.solid, points[here])
    albedo[here] = item.paint(solids.to_local(item.solid, points[here]))
    gloss[here] = item.gloss
  rgb[hit] = _shade(items, points, normal[hit], directions[hit], albedo, gloss)
  return Hit(t, which, normal, rgb)


def _shade(
  items: Items,
  points: np.ndarray,
  normal: np.ndarray,
  directions: np.ndarray,
  albedo: np.ndarray,
  gloss: np.ndarray,
) -> np.ndarray:
  """Colors `[R, 3]` in [0, 1], for display, of points that are seen.

  All arguments but `gloss`, `[R]`, are `[R, 3]`.
  """
  lamp = _lamp(items, points, normal)[:, None]
  up = 0.5 + 0.5 * normal[:, 2:]
  ambient = (_GROUND + (_SKY - _GROUND) * up) * _open(items, points, normal)
  rgb = albedo * (_LAMP_COLOR * lamp + ambient)
  shiny = np.flatnonzero(gloss)
  if len(shiny):
    rgb[shiny] = _polish(
      rgb[shiny],
      lamp[shiny],
      normal[shiny],
      directions[shiny],
      gloss[shiny, None],
    )
  return np.clip(rgb, 0, 1) ** (1 / _GAMMA)


def _lamp(items: Items, points: np.ndarray, normal: np.ndarray) -> np.ndarray:
  """Lambert's cosine `[R]`, averaged over the lamp's corners that are seen."""
  cosine = np.maximum(np.einsum('rj,dj->dr', normal, _LAMP_CORNERS), 0)
  faces = np.flatnonzero(np.any(cosine > 0, axis=0))
  # No need to lift the points: a ray leaving a surface entered it at t < 0.
  things = [item.solid for item in items if item.shade]
  dark = solids.occluded(things, points[faces], _LAMP_CORNERS)
  cosine[:, faces] *= ~dark
  return np.mean(cosine, axis=0)


def _open(items: Items, points: np.ndarray, normal: np.ndarray) -> np.ndarray:
  """Share `[R, 1]` of the sky that balls in place of the items leave free."""
  share = np.ones(len(points))
  x, y, z, *n = np.ascontiguousarray(np.concatenate([points, normal], 1).T)
  for item in items:
    if item.shade:
      a, b, c = item.solid.center
      a, b, c = a - x, b - y, c - z
      square = np.maximum(a * a + b * b + c * c, 1e-12)
      cosine = np.maximum(a * n[0] + b * n[1] + c * n[2], 0)
      near = np.minimum(item.shade**2 / square, 1)
      share *= 1 - 0.75 * near * cosine / np.sqrt(square)
  return share[:, None]


def _polish(
  rgb: np.ndarray,
  lamp: np.ndarray,
  normal: np.ndarray,
  directions: np.ndarray,
  gloss: np.ndarray,
) -> np.ndarray:
  """Adds what a varnish mirrors: sky, ground and the lamp (Schlick).

  `lamp` and `gloss` are `[R, 1]`, all else `[R, 3]`; linear light.
  """
  view = directions / np.linalg.norm(directions, axis=1, keepdims=True)
  cosine = np.sum(view * normal, axis=1, keepdims=True)
  mirrored = view - 2 * cosine * normal
  fresnel = gloss + (1 - gloss) * (1 - np.clip(-cosine, 0, 1)) ** 5
  height = _step(mirrored[:, 2:], -0.2, 0.5)
  sky = 0.3 + 0.6 * height
  rgb = rgb + fresnel * (sky - rgb)
  aside = np.abs(np.einsum('rj,kj->rk', mirrored, _LAMP_AXES))
  aside = np.max(aside, axis=1, keepdims=True)
  ahead = np.sum(mirrored * _LAMP, axis=1, keepdims=True) > 0
  glint = _step(aside, 0.27, 0.19) * ahead * (lamp > 0) * 0.85
  return rgb + glint * (1 - rgb)


def _step(x: np.ndarray, low: float, high: float) -> np.ndarray:
  """From 0 at `low` smoothly to 1 at `high`."""
  x = np.clip((x - low) / (high - low), 0, 1)
  return x * x * (3 - 2 * x)


def camera_rays(
  pose: np.ndarray, intrinsics: np.ndarray, pixel: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Rays through points of an image, float64.

  Args:
    pose: `[3, 4]` camera-to-world, OpenGL axes.
    intrinsics: `[4]` fx, fy, cx, cy in pixels.
    pixel: `[R, 2]` row and column; the middle of the first is (0.5, 0.5).

  Returns:
    `[R, 3]` origins and directions, the latter 1 along the optical axis.
  """
  pose = np.asarray(pose, np.float64)
  fx, fy, cx, cy = np.asarray(intrinsics, np.float64)
  row, column = np.asarray(pixel, np.float64).T
  local = np.stack([(column - cx) / fx, (cy - row) / fy, -np.ones_like(row)])
  directions = np.einsum('ij,jr->ri', pose[:, :3], local)
  return np.broadcast_to(pose[:, 3], directions.shape), directions


def render(items: Items, views: cameras.Cameras, index: int) -> np.ndarray:
  """Takes the photograph of one of `N` cameras.

  Every pixel is traced at its middle and its corners, and where these differ
  at 13 points instead.

  Returns:
    `[H, W, 4]` uint8 with straight alpha: the share of the pixel that is
    covered, and the mean color of that share.
  """
  height, width = (int(x) for x in views.sizes[index])
  upper_left = cameras.pixels(height, width).astype(np.float64)
  corners = cameras.pixels(height + 1, width + 1)
  seen = _look(items, views, index, np.concatenate([upper_left + 0.5, corners]))
  middle = seen[: height * width].reshape(height, width, 4)
  corner = seen[height * width :].reshape(height + 1, width + 1, 4)
  five = np.stack(
    [middle, corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]]
  )
  image = (0.5 * middle + 0.125 * np.sum(five[1:], 0)).reshape(-1, 4)
  edge = np.flatnonzero(np.max(np.ptp(five, axis=0), axis=-1) > _EDGE)
  finer = (upper_left[edge, None] + 0.5 + _LATTICE).reshape(-1, 2)
  seen = _look(items, views, index, finer).reshape(-1, len(_LATTICE), 4)
  image[edge] = np.mean(seen, axis=1)
  image[:, :3] /= np.maximum(image[:, 3:], 1 / len(_LATTICE))
  return np.rint(image.reshape(height, width, 4) * 255).astype(np.uint8)


def _look(
  items: Items, views: cameras.Cameras, index: int, pixel: np.ndarray
) -> np.ndarray:
  """Color times alpha, and alpha, `[R, 4]` at points `[R, 2]` of an image."""
  pose, intrinsics = views.camera_to_world[index], views.intrinsics[index]
  seen = np.empty((len(pixel), 4))
  for i in range(0, len(pixel), _CHUNK):
    hit = trace(items, *camera_rays(pose, intrinsics, pixel[i : i + _CHUNK]))
    seen[i : i + _CHUNK, :3] = hit.rgb
    seen[i : i + _CHUNK, 3] = hit.item >= 0
  return seen


def make_scene(
  *,
  seed: int,
  size: int | tuple[int, int],
  num_train: int = 100,
  num_val: int = 25,
  num_test: int = 25,
  num_poses: int = 40,
  near: float = 2.0,
  far: float = 6.0,
) -> scenes.Scene:
  """Builds the scene of a seed and takes its photographs.

  Training views are drawn evenly from the upper hemisphere; those held out
  wind around it, evenly too. The same seed gives the same bits.

  Args:
    seed: 0 or more; draws colors, arrangement and cameras.
    size: height and width in pixels; one number for both.
    num_train: views for training, traced at once.
    num_val: held-out views, each traced when it is asked for.
    num_test: the same, others.
    num_poses: views of the path.
    near: where rays begin, scene units along the optical axis.
    far: where rays end.

  Raises:
    ValueError: a size or number that makes no scene.
  """
  size = (size, size) if isinstance(size, int) else size
  if min(size) < 1:
    raise ValueError(f'size must be positive, got {size}.')
  if seed < 0 or min(num_train, num_poses) < 1 or min(num_val, num_test) < 0:
    raise ValueError(
      'seed, num_val and num_test must be 0 or more, num_train and num_poses '
      f'1 or more, got {(seed, num_val, num_test, num_train, num_poses)}.'
    )
  items = still_life.make_items(seed)
  rng = np.random.default_rng([seed, 1])
  first = rng.uniform(0, 360)
  train = _cameras(_random_poses(rng, num_train), size)
  photographs = [render(items, train, i) for i in range(num_train)]
  pixels = np.concatenate(photographs).reshape(-1, 4)
  return scenes.Scene(
    train=scenes.Split(scenes.Images(pixels, train.sizes), train),
    val=_held_out(items, _cameras(_spiral_poses(num_val, first), size)),
    test=_held_out(items, _cameras(_spiral_poses(num_test, first + 90), size)),
    near=near,
    far=far,
    box=still_life.BOX.astype(np.float32),
    path=_cameras(camera_paths.circle(num_poses, radius=_RADIUS), size),
    notices=(),
  )


def _cameras(poses: np.ndarray, size: tuple[int, int]) -> cameras.Cameras:
  focal = 0.5 * size[1] / np.tan(0.5 * CAMERA_ANGLE_X)
  sizes = np.tile(size, (len(poses), 1))
  return cameras.pinhole(poses, sizes, np.full(len(poses), focal))


def _held_out(items: Items, views: cameras.Cameras) -> scenes.Split:
  """A split whose images are traced whenever they are asked for."""
  read = functools.partial(render, items, views)
  return scenes.Split(scenes.LazyImages(len(views.sizes), read), views)


def _random_poses(rng: np.random.Generator, number: int) -> np.ndarray:
  """Poses `[number, 3, 4]` spread evenly over the upper hemisphere."""
  azimuth = rng.uniform(-180, 180, number)
  elevation = np.rad2deg(np.arcsin(rng.uniform(0.02, 0.998, number)))
  return _poses(azimuth, elevation)


def _spiral_poses(number: int, first: float) -> np.ndarray:
  """Poses `[number, 3, 4]` winding twice around, from low to high."""
  middle = (np.arange(number) + 0.5) / max(number, 1)
  elevation = np.rad2deg(np.arcsin(0.05 + 0.9 * middle))
  return _poses(first + 720 * middle, elevation)


def _poses(azimuths: np.ndarray, elevations: np.ndarray) -> np.ndarray:
  poses = [
    camera_paths.sphere_pose(azimuth, -elevation, _RADIUS)
    for azimuth, elevation in zip(azimuths, elevations, strict=True)
  ]
  return np.asarray(poses, np.float32).reshape(-1, 3, 4)

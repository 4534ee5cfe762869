"""Surfaces of a field: volumes on a grid, and meshes of them.

A volume is either the truncated signed distance to what cameras see, fused from
their depths (Curless and Levoy, 1996), or the density itself. Marching cubes
(`scikit-image`) turns it into a mesh. Grids lie in the field's own space; what
maps them to the world is given by the caller.

It needs the extra `export`: `pip install 'nerf_haiku[export]'`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from nerf_haiku import arrays, cameras, extras

# Voxels along a side of the blocks that are kept or passed over as a whole.
_BLOCK = 8
# Points that are projected, or queried, together.
_POINTS = 1 << 17
# A pixel is of a surface if it is at least so opaque.
_MIN_OPACITY = 0.5
_ROUNDED = 1e-5  # Of squares of distances in float32.

# Moves points [N, 3] from one space to another.
Move = Callable[[np.ndarray], np.ndarray]


class Space(NamedTuple):
  """Maps between the space of a grid and the world, the cameras' space."""

  to_world: Move
  from_world: Move


WORLD = Space(lambda points: points, lambda points: points)


class Grid(NamedTuple):
  """A grid of points, which include the faces of its box."""

  box: np.ndarray  # [2, 3] lower and upper corner, in its space.
  shape: tuple[int, int, int]  # points along x, y and z.
  space: Space = WORLD

  def points(self, index: np.ndarray) -> np.ndarray:
    """Returns points `[N, 3]` by indices `[N]`; z varies fastest."""
    return self.at(np.stack(np.unravel_index(index, self.shape), axis=-1))

  def at(self, place: np.ndarray) -> np.ndarray:
    """Returns points `[N, 3]` by their places `[N, 3]` along the axes."""
    fraction = place / (np.asarray(self.shape) - 1)
    points: np.ndarray = self.box[0] + fraction * (self.box[1] - self.box[0])
    return points

  def cell(self) -> np.ndarray:
    """Returns the widths `[3]` of a cell along the axes, in its space."""
    sides = self.box[1] - self.box[0]
    width: np.ndarray = sides / (np.asarray(self.shape) - 1)
    return width

  def cell_sizes(self, points: np.ndarray) -> np.ndarray:
    """Returns the width `[N]` of cells at points, in the world."""
    return self.to_world(points)[1]

  def to_world(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moves points to the world, and returns the width of a cell there too.

    The width is the geometric mean of those along the axes.
    """
    world = self.space.to_world(points)
    towards = np.where(points > self.box.mean(axis=0), 1.0, -1.0)
    lengths = [
      # Towards the middle of the box: there may be nothing beyond its faces.
      np.linalg.norm(
        self.space.to_world(points - towards * step) - world, axis=-1
      )
      for step in np.diag(0.5 * self.cell())
    ]
    width = 2.0 * np.exp(np.mean(np.log(np.maximum(lengths, 1e-30)), axis=0))
    return world, width


def make_grid(box: np.ndarray, resolution: int, space: Space = WORLD) -> Grid:
  """Makes a grid of cubes.

  Args:
    box: `[2, 3]` lower and upper corner.
    resolution: points along the longest side, 2 or more.
    space: of the grid.
  """
  sides = box[1] - box[0]
  x, y, z = np.maximum(np.rint(sides / sides.max() * (resolution - 1)), 1)
  return Grid(box, (int(x) + 1, int(y) + 1, int(z) + 1), space)


class Mesh(NamedTuple):
  """Triangles in the space of the caller."""

  vertices: np.ndarray  # [V, 3] float64.
  faces: np.ndarray  # [F, 3] int, counterclockwise from outside.


class Volume(NamedTuple):
  """Values at the points of a grid, which include the faces of its box."""

  box: np.ndarray  # [2, 3] lower and upper corner.
  values: np.ndarray  # [X, Y, Z] float32, larger inside of a surface.
  known: np.ndarray  # [X, Y, Z] bool: where there is a value.


class DepthView(NamedTuple):
  """What one camera sees, float32."""

  camera: cameras.Cameras  # one camera.
  depth: np.ndarray  # [H, W] expected depth along the optical axis.
  opacity: np.ndarray  # [H, W] in [0, 1].
  # [H, W] widths of cells at what is seen, in the world.
  cell: arrays.Array | float = np.inf
  # Tangent of the largest angle to the axis in the image. The polynomial of a
  # lens may lead points beyond it back into the image.
  reach: float = np.inf


def sample_volume(
  grid: Grid,
  evaluate: Callable[[np.ndarray], np.ndarray],
  is_needed: Callable[[np.ndarray], np.ndarray],
) -> Volume:
  """Evaluates a function at the points of a grid.

  Args:
    grid: the grid.
    evaluate: maps points `[N, 3]` to values `[N]`.
    is_needed: maps points to bool; the value of the others is 0.

  Returns:
    The volume, known everywhere.
  """
  size = int(np.prod(grid.shape))
  values = np.zeros(size, np.float32)
  for block in _slices(size):
    index = np.arange(block.start, block.stop)
    points = grid.points(index)
    kept = is_needed(points)
    if np.any(kept):
      values[index[kept]] = evaluate(points[kept])
  known = np.ones(grid.shape, np.bool_)
  return Volume(grid.box, values.reshape(grid.shape), known)


def fuse_depths(
  views: Sequence[DepthView],
  grid: Grid,
  *,
  truncation: float = 4.0,
  min_views: int = 1,
) -> Volume:
  """Fuses depths to a truncated signed distance.

  A value is the mean over the views that see the point, or see no more than
  the truncation behind its surface: the distance along the optical axis from
  the surface to the point, positive inside, in cells, and cut off at the
  truncation. Where a pixel is not opaque all of its ray is outside.

  Args:
    views: what cameras see.
    grid: the grid.
    truncation: cells; best at least three pixels wide, so that errors of
      depths average out.
    min_views: how many views must say something of a point for it to be known.
      What one view sees alone is often the blurred edge of something.

  Returns:
    The volume, known near surfaces that are seen. Memory is 13 bytes a point.
  """
  views = [_with_cells(_with_reach(view), grid) for view in views]
  size = int(np.prod(grid.shape))
  total, count = np.zeros(size, np.float32), np.zeros(size, np.int32)
  for index in _near_surfaces(views, grid, truncation):
    world, cell = grid.to_world(grid.points(index))
    for view in views:
      value, is_seen = _signed_distance(view, world, cell, truncation)
      total[index] += np.where(is_seen, value, 0.0)
      count[index] += is_seen
  values = total / np.maximum(count, 1)
  known = count >= max(min_views, 1)
  return Volume(grid.box, values.reshape(grid.shape), known.reshape(grid.shape))


def extract(volume: Volume, level: float) -> Mesh:
  """Returns the surface where a volume has a value, by marching cubes.

  Args:
    volume: at least 2 points along each axis.
    level: of the surface.

  Returns:
    The mesh, in the space of the grid; empty where no value reaches the level.

  Raises:
    UserError: if scikit-image is not installed.
  """
  measure = extras.load('skimage.measure', 'export')
  known = volume.values[volume.known]
  if not known.size or not known.min() <= level < known.max():
    return Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))
  # Cubes are dropped that have an unknown corner.
  vertices, faces, _, _ = measure.marching_cubes(
    np.where(volume.known, volume.values, level - 1.0),
    level,
    mask=_whole_cubes(volume.known),
    # Its axes are z, y, x: in ours, left-handed, faces are the other way round.
    gradient_direction='ascent',
    allow_degenerate=False,
  )
  fraction = vertices / (np.asarray(volume.values.shape) - 1)
  corner, sides = volume.box[0], volume.box[1] - volume.box[0]
  return Mesh(corner + fraction * sides, faces.astype(np.int64))


def keep_faces(mesh: Mesh, is_kept: np.ndarray) -> Mesh:
  """Returns the faces that are kept, `[F]` bool, and the vertices they need."""
  faces = mesh.faces[is_kept]
  used, faces = np.unique(faces, return_inverse=True)
  return Mesh(mesh.vertices[used], faces.reshape(-1, 3))


def drop_specks(mesh: Mesh, min_faces: int) -> Mesh:
  """Drops the connected parts that have fewer faces than `min_faces`."""
  if not len(mesh.faces):
    return mesh
  edges = mesh.faces[:, [0, 1, 1, 2]].reshape(-1, 2)
  graph = sparse.coo_array(
    (np.ones(len(edges)), edges.T), shape=(len(mesh.vertices),) * 2
  )
  _, part = csgraph.connected_components(graph, directed=False)
  part_of_face = part[mesh.faces[:, 0]]
  return keep_faces(mesh, np.bincount(part_of_face)[part_of_face] >= min_faces)


def simplify(mesh: Mesh, num_faces: int) -> Mesh:
  """Returns a mesh of at most about `num_faces` faces (Garland and Heckbert).

  Raises:
    UserError: if fast-simplification is not installed.
  """
  if len(mesh.faces) <= num_faces:
    return mesh
  library = extras.load('fast_simplification', 'export')
  # It works in float32: around the middle nothing is lost.
  middle = mesh.vertices.mean(axis=0)
  vertices, faces = library.simplify(
    (mesh.vertices - middle).astype(np.float32),
    mesh.faces.astype(np.int32),
    target_count=num_faces,
  )
  return Mesh(vertices + middle, faces.astype(np.int64))


def vertex_normals(mesh: Mesh) -> np.ndarray:
  """Returns unit normals `[V, 3]` of vertices, means by the faces' areas."""
  a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
  area = np.cross(b - a, c - a)
  normals = np.zeros_like(mesh.vertices)
  for i in range(3):
    np.add.at(normals, mesh.faces[:, i], area)
  length = np.linalg.norm(normals, axis=-1, keepdims=True)
  return normals / np.where(length > 0, length, 1.0)


def count_views(
  views: Sequence[DepthView], points: np.ndarray, tolerance: np.ndarray
) -> np.ndarray:
  """Counts the views that see points: nothing opaque is in front of them.

  Args:
    views: what cameras see.
    points: `[N, 3]` in the space of the cameras.
    tolerance: `[N]` how far a point may lie behind the surface that is seen,
      or before it.

  Returns:
    `[N]` int.
  """
  views = [_with_reach(view) for view in views]
  count = np.zeros(len(points), np.int64)
  for block in _slices(len(points)):
    for view in views:
      value, is_seen = _signed_distance(
        view, points[block], tolerance[block], 1.0
      )
      count[block] += is_seen & (np.abs(value) < 1.0)
  return count


def most_frontal_view(
  views: Sequence[DepthView],
  points: np.ndarray,
  normals: np.ndarray,
  tolerance: np.ndarray,
) -> np.ndarray:
  """Returns which view sees each point from nearest to its normal.

  Args:
    views: what cameras see.
    points: `[N, 3]` in the space of the cameras.
    normals: `[N, 3]` unit vectors.
    tolerance: `[N]` see `count_views`.

  Returns:
    `[N]` int, -1 where no view sees the point from outside.
  """
  views = [_with_reach(view) for view in views]
  best, cosine = np.full(len(points), -1), np.zeros(len(points))
  for i, view in enumerate(views):
    towards = np.asarray(view.camera.camera_to_world[0, :, 3]) - points
    distance = np.maximum(np.linalg.norm(towards, axis=-1), 1e-30)
    new = np.sum(towards * normals, axis=-1) / distance
    # Only where it would be better: visibility takes most of the time.
    better = np.flatnonzero(new > cosine)
    for part in _slices(len(better)):
      index = better[part]
      value, is_seen = _signed_distance(
        view, points[index], tolerance[index], 1.0
      )
      index = index[is_seen & (np.abs(value) < 1.0)]
      best[index], cosine[index] = i, new[index]
  return best


def _with_reach(view: DepthView) -> DepthView:
  """Returns a view of a distorted lens with its reach; others see no limit."""
  if view.camera.distortion is None:
    return view
  corners = cameras.image_corners(view.camera)[0, :, :2]
  return view._replace(reach=float(np.linalg.norm(corners, axis=-1).max()))


def _with_cells(view: DepthView, grid: Grid) -> DepthView:
  """Returns a view with the widths of cells at what it sees.

  They are 0 where nothing opaque is: its depth may not be one of the space.
  """
  rows, columns = np.nonzero(view.opacity >= _MIN_OPACITY)
  pixel = np.stack([rows, columns], axis=-1) + 0.5
  pose = np.asarray(view.camera.camera_to_world[0], np.float64)
  plane = cameras.image_plane(view.camera, np.zeros(len(pixel), int), pixel)
  distance = view.depth[rows, columns, None].astype(np.float64)
  seen = pose[:, 3] + distance * (plane @ pose[:, :3].T)
  cell = np.zeros(view.depth.shape, np.float32)
  cell[rows, columns] = grid.cell_sizes(grid.space.from_world(seen))
  return view._replace(cell=cell)


def _whole_cubes(known: np.ndarray) -> np.ndarray:
  """Returns which cubes have eight known corners, at their last corner.

  Marching cubes looks for its mask there.
  """
  whole = np.zeros_like(known)
  inner = known[1:, 1:, 1:].copy()
  for x in (slice(0, -1), slice(1, None)):
    for y in (slice(0, -1), slice(1, None)):
      for z in (slice(0, -1), slice(1, None)):
        inner &= known[x, y, z]
  whole[1:, 1:, 1:] = inner
  return whole


def _near_surfaces(
  views: Sequence[DepthView], grid: Grid, truncation: float
) -> Iterator[np.ndarray]:
  """Yields the indices of points in blocks that a surface may be in."""
  blocks = tuple(-(-n // _BLOCK) for n in grid.shape)
  corner = np.stack(np.unravel_index(np.arange(np.prod(blocks)), blocks), -1)
  last = np.asarray(grid.shape) - 1
  points = grid.at(np.minimum(corner * _BLOCK + _BLOCK // 2, last))
  # From the middle to a corner, and as far as values matter.
  reach = truncation + 0.5 * np.sqrt(3.0) * _BLOCK
  is_near = np.zeros(len(points), np.bool_)
  for block in _slices(len(points)):
    world, cell = grid.to_world(points[block])
    for view in views:
      value, is_seen = _signed_distance(
        view, world, cell, reach, is_coarse=True
      )
      is_near[block] |= is_seen & (np.abs(value) < reach)
  offset = np.indices((_BLOCK,) * 3).reshape(3, -1).T
  per_call = max(1, _POINTS // len(offset))
  near = corner[is_near]
  for start in range(0, len(near), per_call):
    place = near[start : start + per_call, None] * _BLOCK + offset
    place = place.reshape(-1, 3)
    place = place[np.all(place < grid.shape, axis=-1)]
    yield np.ravel_multi_index(tuple(place.T), grid.shape)


def _slices(count: int) -> Iterator[slice]:
  for start in range(0, count, _POINTS):
    yield slice(start, min(start + _POINTS, count))


def _signed_distance(
  view: DepthView,
  points: np.ndarray,
  cell: np.ndarray,
  truncation: float,
  *,
  is_coarse: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns how far points are behind what a view shows, in cells.

  Args:
    view: what a camera sees.
    points: `[N, 3]`, at most `_POINTS`.
    cell: `[N]` widths of cells.
    truncation: cells.
    is_coarse: whether points stand for all that is around them, so that edges
      between pixels do not matter.

  Returns:
    `[N]` values, cut off; and which of them the view tells something about.
  """
  size = len(points)
  padded = np.zeros((_POINTS, 3), np.float32)
  padded[:size] = points
  cells = np.ones(_POINTS, np.float32)
  cells[:size] = cell
  whole = np.broadcast_to(np.float32(view.cell), view.depth.shape)
  view = view._replace(cell=whole)
  value, is_seen = _signed_distance_fn(
    view, padded, cells, truncation, is_coarse
  )
  return np.asarray(value)[:size], np.asarray(is_seen)[:size]


@jax.jit
def _signed_distance_fn(
  view: DepthView,
  points: jax.Array,
  cell: jax.Array,
  truncation: float,
  is_coarse: bool,
) -> tuple[jax.Array, jax.Array]:
  position, z = cameras.project(
    view.camera, jnp.zeros(len(points), jnp.int32), points
  )
  height, width = view.depth.shape
  is_inside = (z > 0) & jnp.all(
    (position >= 0) & (position < jnp.array([[height, width]])), axis=-1
  )
  center = jnp.asarray(view.camera.camera_to_world)[:, :, 3]  # [1, 3]
  distance = jnp.linalg.norm(points - center, axis=-1)
  is_inside &= distance**2 <= z**2 * (1 + view.reach**2) * (1 + _ROUNDED)
  # Between the centers of four pixels.
  place = position - 0.5
  first = jnp.floor(place).astype(int)
  weight = place - first
  depth = opacity = surface_cell = jnp.zeros(len(points))
  nearest, farthest = depth + jnp.inf, depth - jnp.inf
  for row in (0, 1):
    for column in (0, 1):
      i = jnp.clip(first[:, 0] + row, 0, height - 1)
      j = jnp.clip(first[:, 1] + column, 0, width - 1)
      share = jnp.abs(1 - row - weight[:, 0]) * jnp.abs(
        1 - column - weight[:, 1]
      )
      depth += share * view.depth[i, j]
      opacity += share * view.opacity[i, j]
      surface_cell = jnp.maximum(surface_cell, jnp.asarray(view.cell)[i, j])
      nearest = jnp.minimum(nearest, view.depth[i, j])
      farthest = jnp.maximum(farthest, view.depth[i, j])
  value = (z - depth) / cell
  is_empty = opacity < _MIN_OPACITY
  value = jnp.where(is_empty, -truncation, value)
  # A surface ends between these pixels: its depth there is no one's. But
  # nothing is in front of what is nearest.
  is_edge = ~is_empty & (farthest - nearest > 2 * truncation * cell)
  is_edge &= z - nearest > -truncation * cell
  # Cells may be larger where the point is, far behind what is seen.
  is_hidden = (value >= truncation) | (z - depth >= truncation * surface_cell)
  is_hidden &= ~is_empty
  is_seen = is_inside & ~is_hidden & (~is_edge | is_coarse)
  return jnp.clip(value, -truncation, truncation), is_seen

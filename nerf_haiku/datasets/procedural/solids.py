"""Solids of the built-in scene, which rays intersect in closed form.

A solid is an intersection of quadrics minus another one, in its own frame. A
line crosses such an intersection in one interval, so that the first point of a
ray in it takes a few lines of arithmetic, to the precision of float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Prevents 0 / 0 for a line that is parallel to a quadric: it then crosses at a
# distance of at least 1e12, if at all.
_PARALLEL = 1e-24


class Quadrics(NamedTuple):
  """The points where `sum(weights * (x - centers)**2) <= 1` for all `K`.

  Three nonzero weights make an ellipsoid, two an infinite cylinder, one a slab.
  """

  weights: np.ndarray  # [K, 3] 0 or more, per square of a scene unit.
  centers: np.ndarray  # [K, 3] scene units, in the frame of the solid.


class Solid(NamedTuple):
  """The points in `outer` that are not in `hole`."""

  outer: Quadrics
  hole: Quadrics | None
  center: np.ndarray  # [3] of the frame, scene units.
  rotation: np.ndarray  # [3, 3] whose columns are the frame's axes.
  radius: float  # of a ball around the center that contains the solid.


def quadrics(*pieces: tuple[Sequence[float], Sequence[float]]) -> Quadrics:
  """Returns the intersection of pieces, given by their half axes and centers.

  Along a half axis of infinity, a piece is unbounded.
  """
  axes, centers = (np.asarray(x, np.float64) for x in zip(*pieces, strict=True))
  return Quadrics(axes**-2.0, centers)


def turn(yaw: float, tilt: float = 0.0) -> np.ndarray:
  """Returns the rotation `[3, 3]` by `tilt` about x, then `yaw` about z.

  Angles are in degrees.
  """
  (cy, ct), (sy, st) = (f(np.deg2rad([yaw, tilt])) for f in (np.cos, np.sin))
  about_x = np.array([[1, 0, 0], [0, ct, -st], [0, st, ct]])
  rotation: np.ndarray = (
    np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ about_x
  )
  return rotation


def ellipsoid(
  center: Sequence[float] | np.ndarray,
  half_axes: Sequence[float],
  rotation: np.ndarray | None = None,
) -> Solid:
  """Returns an ellipsoid."""
  outer = quadrics((half_axes, (0, 0, 0)))
  return _solid(outer, None, center, rotation, max(half_axes))


def box(
  center: Sequence[float] | np.ndarray,
  half_sides: Sequence[float],
  rotation: np.ndarray | None = None,
  *,
  arch: float = 0.0,
) -> Solid:
  """Returns a box.

  Args:
    center: `[3]` scene units.
    half_sides: `[3]` half of each side.
    rotation: `[3, 3]`, or None for none.
    arch: radius of a half-round arch cut along y from below; 0 for none.
  """
  far = np.inf
  x, y, z = half_sides
  outer = quadrics(
    ((x, far, far), (0, 0, 0)),
    ((far, y, far), (0, 0, 0)),
    ((far, far, z), (0, 0, 0)),
  )
  hole = quadrics(((arch, far, arch), (0, 0, -z))) if arch else None
  return _solid(outer, hole, center, rotation, np.hypot(np.hypot(x, y), z))


def cylinder(
  center: Sequence[float] | np.ndarray,
  radius: float,
  half_height: float,
  rotation: np.ndarray | None = None,
  *,
  bore: float = 0.0,
) -> Solid:
  """Returns a cylinder around z.

  Args:
    center: `[3]` scene units.
    radius: of the cylinder.
    half_height: half of its height.
    rotation: `[3, 3]`, or None for none.
    bore: radius of a bore that makes it a tube; 0 for none.
  """
  far = np.inf
  outer = quadrics(
    ((radius, radius, far), (0, 0, 0)), ((far, far, half_height), (0, 0, 0))
  )
  hole = quadrics(((bore, bore, far), (0, 0, 0))) if bore else None
  return _solid(outer, hole, center, rotation, np.hypot(radius, half_height))


def bowl(
  center: Sequence[float] | np.ndarray,
  radius: float,
  depth: float,
  *,
  wall: float,
) -> Solid:
  """Returns a bowl: half a hollow ellipsoid with a flat foot.

  Args:
    center: `[3]` of the rim.
    radius: of the rim.
    depth: half axis of the ellipsoid below the rim.
    wall: thickness.
  """
  far, foot = np.inf, 0.92 * depth
  outer = quadrics(
    ((radius, radius, depth), (0, 0, 0)),
    ((far, far, foot / 2), (0, 0, -foot / 2)),
  )
  inner = (radius - wall, radius - wall, foot - wall)
  hole = quadrics((inner, (0, 0, 0)))
  return _solid(outer, hole, center, None, max(radius, depth))


def _solid(
  outer: Quadrics,
  hole: Quadrics | None,
  center: Sequence[float] | np.ndarray,
  rotation: np.ndarray | None,
  radius: float,
) -> Solid:
  rotation = np.eye(3) if rotation is None else np.asarray(rotation)
  return Solid(
    outer=outer,
    hole=hole,
    center=np.asarray(center, np.float64),
    rotation=rotation,
    radius=radius,
  )


def to_local(solid: Solid, points: np.ndarray) -> np.ndarray:
  """Converts points `[R, 3]` of the world to the frame of a solid."""
  return _rotate(solid.rotation.T, (points - solid.center).T).T


def intersect(
  solid: Solid, origins: np.ndarray, directions: np.ndarray
) -> np.ndarray:
  """Computes where rays first enter a solid.

  Args:
    solid: the solid; no ray starts inside it.
    origins: `[R, 3]` float64, scene units.
    directions: `[R, 3]` float64, of any length.

  Returns:
    `[R]` positions above 0, in lengths of the direction; infinity for a miss.
  """
  return _enter(solid, origins.T, directions.T)


def normals(solid: Solid, points: np.ndarray) -> np.ndarray:
  """Computes outward unit normals `[R, 3]` at points `[R, 3]` on a solid."""
  local = to_local(solid, points).T
  weights, centers = solid.outer
  sign = np.ones(len(weights))
  if solid.hole is not None:
    weights = np.concatenate([weights, solid.hole.weights])
    centers = np.concatenate([centers, solid.hole.centers])
    sign = np.concatenate([sign, -np.ones(len(solid.hole.weights))])
  # The point is on the quadric whose equation it satisfies.
  offset = local - centers[:, :, None]  # [K, 3, R]
  error = np.abs(np.einsum('kj,kjr->kr', weights, offset * offset) - 1)
  which = np.argmin(error, axis=0)
  offset = np.take_along_axis(offset, which[None, None], axis=0)[0]
  normal = sign[which] * weights[which].T * offset
  normal /= np.sqrt(_dot(normal, normal))
  return _rotate(solid.rotation, normal).T


def nearest(
  solids: Sequence[Solid], origins: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Computes the first intersections of rays with several solids.

  Args:
    solids: the solids; no ray starts inside one.
    origins: `[R, 3]` float64, scene units.
    directions: `[R, 3]` float64, of any length.

  Returns:
    `[R]` positions, infinity for a miss; and `[R]` int, the solid's index, -1
    for a miss.
  """
  t = np.full(len(directions), np.inf)
  which = np.full(len(directions), -1)
  start, along = (np.ascontiguousarray(x.T) for x in (origins, directions))
  unit = along / np.sqrt(_dot(along, along))
  for i, solid in enumerate(solids):
    near = _near_ball(solid, start, unit, 0.0)
    new = _enter(solid, start[:, near], along[:, near])
    closer = new < t[near]
    near = near[closer]
    t[near], which[near] = new[closer], i
  return t, which


def occluded(
  solids: Sequence[Solid], points: np.ndarray, directions: np.ndarray
) -> np.ndarray:
  """Returns whether rays from points, in several directions, hit a solid.

  Args:
    solids: the solids.
    points: `[R, 3]` outside the solids.
    directions: `[D, 3]` of length 1; the closer together, the faster.

  Returns:
    `[D, R]` bool.
  """
  start, count = np.ascontiguousarray(points.T), len(directions)
  axis = np.mean(directions, axis=0)
  axis /= np.linalg.norm(axis)
  spread = np.max(np.linalg.norm(directions - axis, axis=1))
  hidden = np.zeros((count, len(points)), bool)
  for solid in solids:
    near = _near_ball(solid, start, axis, spread)
    along = np.repeat(directions.T, len(near), axis=1)
    t = _enter(solid, np.tile(start[:, near], count), along)
    hidden[:, near] |= np.isfinite(t).reshape(count, -1)
  return hidden


# Below, vectors are `[3, R]`: arithmetic on three long rows is faster.


def _near_ball(
  solid: Solid, start: np.ndarray, unit: np.ndarray, spread: float
) -> np.ndarray:
  """Returns indices of rays that may hit a solid, by the ball around it.

  Args:
    solid: the solid.
    start: `[3, R]` origins of the rays.
    unit: `[3, R]` or `[3]` their directions, of length 1.
    spread: distance of the rays' actual directions from `unit`, at most.

  Returns:
    `[M]` int.
  """
  offset = solid.center[:, None] - start
  square, ahead = _dot(offset, offset), _dot(offset, unit)
  reach: float | np.ndarray = solid.radius
  if spread:
    reach = reach + spread * np.sqrt(square)
  aside = square - ahead * ahead
  return np.flatnonzero((aside <= reach * reach) & (ahead > -reach))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns inner products `[R]` of vectors `[3, R]`; one may be `[3]`."""
  products: np.ndarray = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
  return products


def _rotate(rotation: np.ndarray, vectors: np.ndarray) -> np.ndarray:
  """Rotates `[3, R]` vectors, without BLAS so that threads change no bit."""
  rotated: np.ndarray = np.einsum('ij,jr->ir', rotation, vectors)
  return rotated


def _enter(solid: Solid, start: np.ndarray, along: np.ndarray) -> np.ndarray:
  """Computes where rays `[3, R]` first enter a solid; infinity for a miss."""
  start = _rotate(solid.rotation.T, start - solid.center[:, None])
  along = _rotate(solid.rotation.T, along)
  enter, leave = _interval(solid.outer, start, along)
  if solid.hole is None:
    return np.where((enter < leave) & (enter > 0), enter, np.inf)
  # The hole splits the interval in two: before it and after it.
  begin, end = _interval(solid.hole, start, along)
  again = np.maximum(enter, end)
  again = np.where((again < leave) & (again > 0), again, np.inf)
  in_front = (enter < np.minimum(leave, begin)) & (enter > 0)
  return np.where(in_front, enter, again)


def _interval(
  quadrics_: Quadrics, start: np.ndarray, along: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Computes where lines `[3, R]` enter and leave; swapped for a miss."""
  enter = np.full(start.shape[1], -np.inf)
  leave = np.full(start.shape[1], np.inf)
  for weights, center in zip(*quadrics_, strict=True):
    # Solves a t^2 + 2 b t + c = 0.
    a, b, c = _PARALLEL, 0.0, -1.0
    for axis in np.flatnonzero(weights):
      root = np.sqrt(weights[axis])
      o, d = root * (start[axis] - center[axis]), root * along[axis]
      a, b, c = a + d * d, b + o * d, c + o * o
    square = b * b - a * c
    half = np.where(square < 0, -np.inf, np.sqrt(np.abs(square)))
    enter = np.maximum(enter, (-b - half) / a)
    leave = np.minimum(leave, (half - b) / a)
  return enter, leave

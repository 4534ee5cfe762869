"""Solids that a ray meets in closed form: what the built-in scene is made of.

A solid is one overlap of quadrics less another, in a frame of its own. A line
crosses such an overlap in one piece, so that a few lines of arithmetic give
the first point that a ray meets, to the precision of float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Keeps a line that is parallel to a quadric from 0 / 0: it then crosses, if it
# does, 1e12 and more away.
_PARALLEL = 1e-24


class Quadrics(NamedTuple):
  """Where `sum(weights * (x - centers)**2) <= 1` for all `K` at once.

  Three weights make an ellipsoid, two a pillar without ends, one a slab.
  """

  weights: np.ndarray  # [K, 3] 0 or more, per square of a scene unit.
  centers: np.ndarray  # [K, 3] scene units, in the frame of the solid.


class Solid(NamedTuple):
  """What lies in `outer` and not in `hole`."""

  outer: Quadrics
  hole: Quadrics | None
  center: np.ndarray  # [3] of the frame, scene units.
  rotation: np.ndarray  # [3, 3] its columns are the frame's axes.
  radius: float  # of a ball about the center that holds the solid.


def quadrics(*pieces: tuple[Sequence[float], Sequence[float]]) -> Quadrics:
  """An overlap of pieces, each given by its half axes and its center.

  A half axis of infinity leaves the piece without an end that way.
  """
  axes, centers = (np.asarray(x, np.float64) for x in zip(*pieces, strict=True))
  return Quadrics(axes**-2.0, centers)


def turn(yaw: float, tilt: float = 0.0) -> np.ndarray:
  """Rotation `[3, 3]` by `tilt` about x, then by `yaw` about z, in degrees."""
  (cy, ct), (sy, st) = (f(np.deg2rad([yaw, tilt])) for f in (np.cos, np.sin))
  about_x = np.array([[1, 0, 0], [0, ct, -st], [0, st, ct]])
  return np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ about_x


def ellipsoid(
  center: Sequence[float],
  half_axes: Sequence[float],
  rotation: np.ndarray | None = None,
) -> Solid:
  """An ellipsoid; a ball where the half axes are equal."""
  outer = quadrics((half_axes, (0, 0, 0)))
  return _solid(outer, None, center, rotation, max(half_axes))


def box(
  center: Sequence[float],
  half_sides: Sequence[float],
  rotation: np.ndarray | None = None,
  *,
  arch: float = 0.0,
) -> Solid:
  """A box; with `arch`, the radius of a half round gate cut along y below."""
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
  center: Sequence[float],
  radius: float,
  half_height: float,
  rotation: np.ndarray | None = None,
  *,
  bore: float = 0.0,
) -> Solid:
  """A cylinder about z; a tube open at both ends where `bore` is a radius."""
  far = np.inf
  outer = quadrics(
    ((radius, radius, far), (0, 0, 0)), ((far, far, half_height), (0, 0, 0))
  )
  hole = quadrics(((bore, bore, far), (0, 0, 0))) if bore else None
  return _solid(outer, hole, center, rotation, np.hypot(radius, half_height))


def bowl(
  center: Sequence[float], radius: float, depth: float, *, wall: float
) -> Solid:
  """Half an ellipsoid, hollow, its foot flat; the center is the rim's."""
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
  center: Sequence[float],
  rotation: np.ndarray | None,
  radius: float,
) -> Solid:
  rotation = np.eye(3) if rotation is None else np.asarray(rotation)
  return Solid(outer, hole, np.asarray(center, np.float64), rotation, radius)


def to_local(solid: Solid, points: np.ndarray) -> np.ndarray:
  """Points `[R, 3]` of the world in the frame of the solid."""
  return _rotate(solid.rotation.T, (points - solid.center).T).T


def intersect(
  solid: Solid, origins: np.ndarray, directions: np.ndarray
) -> np.ndarray:
  """Where rays enter a solid first.

  Args:
    solid: what the rays meet; no ray starts inside it.
    origins: `[R, 3]` float64, scene units.
    directions: `[R, 3]` float64, of any length.

  Returns:
    `[R]` positions above 0, in lengths of the direction; infinity for a miss.
  """
  return _enter(solid, origins.T, directions.T)


def normals(solid: Solid, points: np.ndarray) -> np.ndarray:
  """Unit normals `[R, 3]`, out of the matter, at points `[R, 3]` on it."""
  local = to_local(solid, points).T
  weights, centers = solid.outer
  sign = np.ones(len(weights))
  if solid.hole is not None:
    weights = np.concatenate([weights, solid.hole.weights])
    centers = np.concatenate([centers, solid.hole.centers])
    sign = np.concatenate([sign, -np.ones(len(solid.hole.weights))])
  # The point is on the quadric whose equation it fulfils.
  away = local - centers[:, :, None]  # [K, 3, R]
  error = np.abs(np.einsum('kj,kjr->kr', weights, away * away) - 1)
  which = np.argmin(error, axis=0)
  away = np.take_along_axis(away, which[None, None], axis=0)[0]
  normal = sign[which] * weights[which].T * away
  normal /= np.sqrt(_dot(normal, normal))
  return _rotate(solid.rotation, normal).T


def nearest(
  solids: Sequence[Solid], origins: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """What rays `[R, 3]` meet first: positions `[R]`, infinity for a miss.

  The second result is `[R]` int: the solid's index, -1 for a miss.
  """
  t = np.full(len(directions), np.inf)
  which = np.full(len(directions), -1)
  start, along = (np.ascontiguousarray(x.T) for x in (origins, directions))
  unit = along / np.sqrt(_dot(along, along))
  for i, solid in enumerate(solids):
    near = _towards(solid, start, unit, 0.0)
    new = _enter(solid, start[:, near], along[:, near])
    closer = new < t[near]
    near = near[closer]
    t[near], which[near] = new[closer], i
  return t, which


def occluded(
  solids: Sequence[Solid], points: np.ndarray, directions: np.ndarray
) -> np.ndarray:
  """Whether a solid is in sight from points, in each of some directions.

  Args:
    solids: what may be in the way.
    points: `[R, 3]` outside of the solids.
    directions: `[D, 3]` of length 1, the closer together the faster.

  Returns:
    `[D, R]` bool.
  """
  start, count = np.ascontiguousarray(points.T), len(directions)
  axis = np.mean(directions, axis=0)
  axis /= np.linalg.norm(axis)
  spread = np.max(np.linalg.norm(directions - axis, axis=1))
  hidden = np.zeros((count, len(points)), bool)
  for solid in solids:
    near = _towards(solid, start, axis, spread)
    along = np.repeat(directions.T, len(near), axis=1)
    t = _enter(solid, np.tile(start[:, near], count), along)
    hidden[:, near] |= np.isfinite(t).reshape(count, -1)
  return hidden


# From here on vectors are `[3, R]`: three long rows are faster to work on.


def _towards(
  solid: Solid, start: np.ndarray, unit: np.ndarray, spread: float
) -> np.ndarray:
  """Indices of rays that may meet a solid, by the ball around it.

  Args:
    solid: what they may meet.
    start: `[3, R]` where they start.
    unit: `[3, R]` or `[3]` where they go; of length 1.
    spread: how far, at a distance of 1, a ray may be aside of that.
  """
  away = solid.center[:, None] - start
  square, ahead = _dot(away, away), _dot(away, unit)
  reach = solid.radius
  if spread:
    reach = reach + spread * np.sqrt(square)
  aside = square - ahead * ahead
  return np.flatnonzero((aside <= reach * reach) & (ahead > -reach))


def _dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Inner products `[R]` of vectors `[3, R]`, or `[3]` for one of them."""
  return one[0] * other[0] + one[1] * other[1] + one[2] * other[2]


def _rotate(rotation: np.ndarray, vectors: np.ndarray) -> np.ndarray:
  """Rotates `[3, R]` vectors; without BLAS, so that threads change no bit."""
  return np.einsum('ij,jr->ir', rotation, vectors)


def _enter(solid: Solid, start: np.ndarray, along: np.ndarray) -> np.ndarray:
  """Where rays `[3, R]` enter a solid first; infinity for a miss."""
  start = _rotate(solid.rotation.T, start - solid.center[:, None])
  along = _rotate(solid.rotation.T, along)
  enter, leave = _span(solid.outer, start, along)
  if solid.hole is None:
    return np.where((enter < leave) & (enter > 0), enter, np.inf)
  # The hole cuts the span in two: up to where it begins, on from its end.
  begin, end = _span(solid.hole, start, along)
  again = np.maximum(enter, end)
  again = np.where((again < leave) & (again > 0), again, np.inf)
  in_front = (enter < np.minimum(leave, begin)) & (enter > 0)
  return np.where(in_front, enter, again)


def _span(
  overlap: Quadrics, start: np.ndarray, along: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Where lines `[3, R]` enter and leave an overlap; swapped for a miss."""
  enter = np.full(start.shape[1], -np.inf)
  leave = np.full(start.shape[1], np.inf)
  for weights, center in zip(*overlap, strict=True):
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

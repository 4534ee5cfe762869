"""Solids that a ray meets in closed form: what the built-in scene is made of.

A solid is one overlap of quadrics less another, in a frame of its own. A line
crosses such an overlap in one piece, so that a few lines of arithmetic give
the first point that a ray meets, to the precision of float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# A direction whose square is under this, measured by a quadric, is parallel.
_PARALLEL = 1e-24


class Quadrics(NamedTuple):
  """Where `sum(weights * (x - centres)**2) <= 1` for all `K` at once.

  Three weights make an ellipsoid, two a pillar without ends, one a slab.
  """

  weights: np.ndarray  # [K, 3] 0 or more, per square of a scene unit.
  centres: np.ndarray  # [K, 3] scene units, in the frame of the solid.


class Solid(NamedTuple):
  """What lies in `outer` and not in `hole`."""

  outer: Quadrics
  hole: Quadrics | None
  centre: np.ndarray  # [3] of the frame, scene units.
  rotation: np.ndarray  # [3, 3] its columns are the frame's axes.
  radius: float  # of a ball about the centre that holds the solid.


def quadrics(*pieces: tuple[Sequence[float], Sequence[float]]) -> Quadrics:
  """An overlap of pieces, each given by its half axes and its centre.

  A half axis of infinity leaves the piece without an end that way.
  """
  axes, centres = (np.asarray(x, np.float64) for x in zip(*pieces, strict=True))
  return Quadrics(axes**-2.0, centres)


def turn(yaw: float, tilt: float = 0.0) -> np.ndarray:
  """Rotation `[3, 3]` by `tilt` about x, then by `yaw` about z, in degrees."""
  (cy, ct), (sy, st) = (f(np.deg2rad([yaw, tilt])) for f in (np.cos, np.sin))
  about_x = np.array([[1, 0, 0], [0, ct, -st], [0, st, ct]])
  return np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ about_x


def ellipsoid(
  centre: Sequence[float],
  half_axes: Sequence[float],
  rotation: np.ndarray | None = None,
) -> Solid:
  """An ellipsoid; a ball where the half axes are equal."""
  outer = quadrics((half_axes, (0, 0, 0)))
  return _solid(outer, None, centre, rotation, max(half_axes))


def box(
  centre: Sequence[float],
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
  return _solid(outer, hole, centre, rotation, np.hypot(np.hypot(x, y), z))


def cylinder(
  centre: Sequence[float],
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
  return _solid(outer, hole, centre, rotation, np.hypot(radius, half_height))


def _solid(outer, hole, centre, rotation, radius) -> Solid:
  rotation = np.eye(3) if rotation is None else np.asarray(rotation)
  return Solid(outer, hole, np.asarray(centre, np.float64), rotation, radius)


def to_local(solid: Solid, points: np.ndarray) -> np.ndarray:
  """Points `[R, 3]` of the world in the frame of the solid."""
  return _rotate(solid.rotation.T, (points - solid.centre).T).T


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
  start = _rotate(solid.rotation.T, (origins - solid.centre).T)
  along = _rotate(solid.rotation.T, directions.T)
  enter, leave = _span(solid.outer, start, along)
  if solid.hole is None:
    return np.where((enter < leave) & (enter > 0), enter, np.inf)
  # The hole cuts the span in two: up to where it begins, on from its end.
  begin, end = _span(solid.hole, start, along)
  again = np.maximum(enter, end)
  again = np.where((again < leave) & (again > 0), again, np.inf)
  in_front = (enter < np.minimum(leave, begin)) & (enter > 0)
  return np.where(in_front, enter, again)


def normals(solid: Solid, points: np.ndarray) -> np.ndarray:
  """Unit normals `[R, 3]`, out of the matter, at points `[R, 3]` on it."""
  local = to_local(solid, points).T
  weights, centres = solid.outer
  sign = np.ones(len(weights))
  if solid.hole is not None:
    weights = np.concatenate([weights, solid.hole.weights])
    centres = np.concatenate([centres, solid.hole.centres])
    sign = np.concatenate([sign, -np.ones(len(solid.hole.weights))])
  # The point is on the quadric whose equation it fulfils.
  away = local - centres[:, :, None]  # [K, 3, R]
  error = np.abs(np.sum(weights[:, :, None] * away**2, axis=1) - 1)
  which = np.argmin(error, axis=0)
  away = np.take_along_axis(away, which[None, None], axis=0)[0]
  normal = sign[which] * weights[which].T * away
  normal /= np.sqrt(np.sum(normal**2, axis=0))
  return _rotate(solid.rotation, normal).T


def nearest(
  solids: Sequence[Solid], origins: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """What rays meet first: positions `[R]`, infinity for a miss, and which.

  The second is `[R]` int: the solid's index, -1 for a miss.
  """
  t = np.full(len(directions), np.inf)
  which = np.full(len(directions), -1)
  for i, near in enumerate(_may_meet(solids, origins, directions)):
    new = intersect(solids[i], origins[near], directions[near])
    closer = new < t[near]
    near = near[closer]
    t[near], which[near] = new[closer], i
  return t, which


def occluded(
  solids: Sequence[Solid], origins: np.ndarray, direction: np.ndarray
) -> np.ndarray:
  """Whether `[R]` points `[R, 3]` see a solid in one `direction` `[3]`."""
  directions = np.broadcast_to(direction, origins.shape)
  hidden = np.zeros(len(origins), bool)
  for i, near in enumerate(_may_meet(solids, origins, directions)):
    near = near[~hidden[near]]
    t = intersect(solids[i], origins[near], directions[near])
    hidden[near] = np.isfinite(t)
  return hidden


def _may_meet(solids, origins, directions):
  """Yields, for each solid, indices of the rays that meet its ball."""
  square = np.einsum('rj,rj->r', directions, directions)
  for solid in solids:
    away = solid.centre - origins
    along = np.einsum('rj,rj->r', away, directions)
    behind = np.einsum('rj,rj->r', away, away) - solid.radius**2
    # Behind is under 0 inside the ball; a ray outside must come towards it.
    meets = (along**2 >= behind * square) & ((along > 0) | (behind < 0))
    yield np.flatnonzero(meets)


def _rotate(rotation: np.ndarray, vectors: np.ndarray) -> np.ndarray:
  """Rotates `[3, R]` vectors; without BLAS, so that threads change no bit."""
  return np.einsum('ij,jr->ir', rotation, vectors)


def _span(
  overlap: Quadrics, start: np.ndarray, along: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Where lines `[3, R]` enter and leave an overlap; swapped for a miss."""
  enter = np.full(start.shape[1], -np.inf)
  leave = np.full(start.shape[1], np.inf)
  for weights, centre in zip(*overlap, strict=True):
    axes = np.flatnonzero(weights)
    root = np.sqrt(weights[axes])[:, None]
    o, d = root * (start[axes] - centre[axes, None]), root * along[axes]
    # Solves a t^2 + 2 b t + c = 0.
    a, b, c = np.sum(d * d, 0), np.sum(o * d, 0), np.sum(o * o, 0) - 1
    parallel = a < _PARALLEL
    half = b * b - a * c
    miss = np.where(parallel, c > 0, half < 0)
    a = np.where(parallel, 1.0, a)
    half = np.where(parallel, np.inf, np.sqrt(np.maximum(half, 0)) / a)
    middle = -b / a
    enter = np.maximum(enter, np.where(miss, np.inf, middle - half))
    leave = np.minimum(leave, np.where(miss, -np.inf, middle + half))
  return enter, leave

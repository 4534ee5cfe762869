"""The multi-resolution hash grid (Müller et al., 2022)."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

# Factors of the spatial hash (equation 4 of Müller et al., 2022).
_PRIMES = (1, 2_654_435_761, 805_459_861)


def grid_resolutions(
  *, num_levels: int, coarsest: int, finest: int
) -> tuple[int, ...]:
  """Cells along each side of the levels of a hash grid.

  They grow geometrically (equations 2 and 3 of Müller et al., *Instant Neural
  Graphics Primitives*, 2022).

  Args:
    num_levels: 1 or more.
    coarsest: of the first level.
    finest: of the last, `coarsest` or more.
  """
  growth = (finest / coarsest) ** (1 / max(num_levels - 1, 1))
  # The last power may round to just below the finest.
  sides = [coarsest * growth**level for level in range(num_levels)]
  return tuple(int(np.floor(side + 1e-6)) for side in sides)


class GridLevels(NamedTuple):
  """The `L` levels of a hash grid, whose rows lie one after the other."""

  resolutions: tuple[int, ...]  # cells along each side.
  sizes: tuple[int, ...]  # rows.

  def num_rows(self) -> int:
    """`T`, of all levels together."""
    return sum(self.sizes)

  def offsets(self) -> tuple[int, ...]:
    """The first row of each level."""
    return tuple(itertools.accumulate((0, *self.sizes[:-1])))


def grid_levels(
  *, num_levels: int, coarsest: int, finest: int, table_size: int
) -> GridLevels:
  """The levels of a hash grid (Müller et al., 2022, section 3).

  Args:
    num_levels: `L`.
    coarsest: cells along each side of the first level.
    finest: of the last.
    table_size: most rows of a level, a power of 2; one with fewer corners has
      a row for each.
  """
  resolutions = grid_resolutions(
    num_levels=num_levels, coarsest=coarsest, finest=finest
  )
  return GridLevels(
    resolutions, tuple(min((n + 1) ** 3, table_size) for n in resolutions)
  )


def hash_grid(
  tables: Sequence[chex.Array], points: chex.Array, levels: GridLevels
) -> chex.Array:
  """Interpolates features at the corners of cells (Müller et al., 2022).

  The corners of a level that has a row for each are found directly; those of a
  finer one share rows by the hash (equation 4). A feature is interpolated
  linearly along each axis (section 3).

  Args:
    tables: `F` tables `[T]`, one of each feature: a gather of single numbers
      is twice as fast as one of rows.
    points: `[3, N]` coordinates in [0, 1].
    levels: `L` of them.

  Returns:
    `[L * F, N]` features, level by level, with gradients of tables and points.
  """
  chex.assert_rank(points, 2)
  chex.assert_axis_dimension(points, 0, 3)
  chex.assert_shape(list(tables), (levels.num_rows(),))
  return _interpolate(list(tables), points, levels)


class _Level(NamedTuple):
  """What the corners of a level ask for; arrays `[L]` of all levels."""

  resolution: chex.Array  # float32
  factors: tuple[chex.Array, chex.Array, chex.Array]  # uint32, of x, y, z.
  direct: chex.Array  # bool, whether each corner has a row of its own.
  mask: chex.Array  # uint32, of the hash.
  offset: chex.Array  # int32, the first row.


def _arrays(levels: GridLevels) -> _Level:
  """The levels as arrays: a loop over them compiles one level, not `L`."""
  sides = [n + 1 for n in levels.resolutions]
  direct = [n**3 <= size for n, size in zip(sides, levels.sizes, strict=True)]
  factors = [
    (1, n, n**2) if fits else _PRIMES
    for n, fits in zip(sides, direct, strict=True)
  ]
  x, y, z = jnp.asarray(np.asarray(factors, np.uint32).T)
  return _Level(
    jnp.asarray(levels.resolutions, jnp.float32),
    (x, y, z),
    jnp.asarray(direct),
    jnp.asarray(levels.sizes, jnp.uint32) - 1,
    jnp.asarray(levels.offsets(), jnp.int32),
  )


def _gather(
  tables: Sequence[chex.Array], points: chex.Array, levels: GridLevels
) -> chex.Array:
  def interpolate(before, level):
    corners = _corners(points, level)
    features = [
      sum(
        weight * jnp.asarray(table).at[row].get(mode='promise_in_bounds')
        for row, weight in corners
      )
      for table in tables
    ]
    # Put in its place by the next turn: a CPU computes what goes right into
    # the loop's result on one core.
    return features, before

  nothing = [jnp.zeros(points.shape[1], points.dtype) for _ in tables]
  last, before = jax.lax.scan(interpolate, nothing, _arrays(levels))
  features = [
    jnp.concatenate([x[1:], y[None]]) for x, y in zip(before, last, strict=True)
  ]
  return jnp.stack(features, axis=1).reshape(-1, points.shape[1])


_interpolate = jax.custom_vjp(_gather, nondiff_argnums=(2,))


def _interpolate_forward(tables, points, levels):
  return _gather(tables, points, levels), (tables, points)


def _interpolate_backward(levels, kept, g):
  """A scatter for each level; autodiff would make one for each corner."""
  tables, points = kept

  def add(totals, part):
    level, shares = part
    rows, weights = zip(*_corners(points, level), strict=True)
    row = jnp.concatenate(rows)
    totals = [
      total.at[row].add(
        jnp.concatenate([weight * share for weight in weights]),
        mode='promise_in_bounds',
      )
      for total, share in zip(totals, shares, strict=True)
    ]
    return totals, None

  shares = g.reshape(len(levels.sizes), len(tables), -1)
  to_tables, _ = jax.lax.scan(
    add,
    [jnp.zeros_like(table) for table in tables],
    (_arrays(levels), [shares[:, i] for i in range(len(tables))]),
  )
  # Nothing is computed of it where nobody asks for it.
  _, move = jax.vjp(lambda x: _gather(tables, x, levels), points)
  return to_tables, move(g)[0]


_interpolate.defvjp(_interpolate_forward, _interpolate_backward)


def _corners(
  points: chex.Array, level: _Level
) -> list[tuple[chex.Array, chex.Array]]:
  """Rows `[N]` of the 8 corners around points `[3, N]`, and their weights."""
  scaled = points * level.resolution
  lower = jax.lax.stop_gradient(
    jnp.clip(jnp.floor(scaled), 0, level.resolution - 1)
  )
  fraction = scaled - lower
  lower = lower.astype(jnp.uint32)
  terms = [
    [(lower[k] + np.uint32(step)) * level.factors[k] for step in (0, 1)]
    for k in range(3)
  ]
  shares = [[1 - fraction[k], fraction[k]] for k in range(3)]
  corners = []
  for z, y, x in itertools.product((0, 1), repeat=3):
    own = terms[2][z] + terms[1][y] + terms[0][x]
    shared = (terms[2][z] ^ terms[1][y] ^ terms[0][x]) & level.mask
    row = jnp.where(level.direct, own, shared).astype(jnp.int32)
    weight = shares[2][z] * shares[1][y] * shares[0][x]
    corners.append((row + level.offset, weight))
  return corners

"""The multi-resolution hash grid of Müller et al., *Instant Neural Graphics
Primitives with a Multiresolution Hash Encoding*, 2022.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

# Factors of the spatial hash (equation 4).
_PRIMES = (1, 2_654_435_761, 805_459_861)


class GridLevels(NamedTuple):
  """The `L` levels of a hash grid, whose rows lie one after the other."""

  resolutions: tuple[int, ...]  # cells along each side.
  sizes: tuple[int, ...]  # rows.

  def num_rows(self) -> int:
    """Returns `T`, the rows of all levels together."""
    return sum(self.sizes)

  def offsets(self) -> tuple[int, ...]:
    """Returns the first row of each level."""
    return tuple(itertools.accumulate((0, *self.sizes[:-1])))


def grid_resolutions(
  *, num_levels: int, base_resolution: int, max_resolution: int
) -> tuple[int, ...]:
  """Returns the cells along each side of the levels of a hash grid.

  They grow geometrically (equations 2 and 3).

  Args:
    num_levels: `L`, 1 or more.
    base_resolution: cells along each side of the first level.
    max_resolution: of the last level, `base_resolution` or more.
  """
  growth = (max_resolution / base_resolution) ** (1 / max(num_levels - 1, 1))
  # The last power may round to just below the maximum.
  sides = [base_resolution * growth**level for level in range(num_levels)]
  return tuple(int(np.floor(side + 1e-6)) for side in sides)


def grid_levels(
  *,
  num_levels: int,
  base_resolution: int,
  max_resolution: int,
  hashmap_size: int,
) -> GridLevels:
  """Returns the levels of a hash grid (section 3).

  Args:
    num_levels: `L`.
    base_resolution: cells along each side of the first level.
    max_resolution: of the last level.
    hashmap_size: most rows of a level, a power of 2 (not its logarithm); a
      level with fewer corners has a row for each.
  """
  resolutions = grid_resolutions(
    num_levels=num_levels,
    base_resolution=base_resolution,
    max_resolution=max_resolution,
  )
  sizes = tuple(min((n + 1) ** 3, hashmap_size) for n in resolutions)
  return GridLevels(resolutions=resolutions, sizes=sizes)


def interpolate_plain(
  tables: Sequence[jax.Array], points: jax.Array, levels: GridLevels
) -> jax.Array:
  """Interpolates the features at the corners of cells.

  The corners of a level that has a row for each are found directly; those of a
  finer one share rows by the hash (equation 4). A feature is interpolated
  linearly along each axis (section 3).

  Args:
    tables: `F` tables `[T]`, one of each feature.
    points: `[3, N]` coordinates in [0, 1].
    levels: `L` of them.

  Returns:
    `[L * F, N]` features, level by level.
  """
  stacked = _stack_levels(levels)
  features = []
  for i in range(len(levels.sizes)):
    level = jax.tree.map(lambda x, i=i: x[i], stacked)
    corners = _corners(points, level)
    features += [
      sum(weight * table[row] for row, weight in corners) for table in tables
    ]
  return jnp.stack(features)


def interpolate(
  tables: Sequence[jax.Array], points: jax.Array, levels: GridLevels
) -> jax.Array:
  """Computes `interpolate_plain` in the form that is fast on the device.

  On a CPU level by level in a loop: it compiles one level instead of `L`, and
  tables of single features are gathered twice as fast as rows of all features.
  Elsewhere all levels at once, in few kernels, and from rows of all features:
  a gather or an atomic addition moves a row as fast as a number.

  Both make one scatter where autodiff makes one for each corner.

  Args:
    tables: `F` tables `[T]`, one of each feature.
    points: `[3, N]` coordinates in [0, 1].
    levels: `L` of them.

  Returns:
    `[L * F, N]` features, level by level, with gradients of tables and points.
  """
  chex.assert_rank(points, 2)
  chex.assert_axis_dimension(points, 0, 3)
  chex.assert_shape(list(tables), (levels.num_rows(),))
  return _interpolate(list(tables), points, levels)


def level_weights(
  variance: jax.Array, levels: GridLevels, features_per_level: int
) -> jax.Array:
  """Returns by how much the features of levels fade for Gaussians.

  A level counts by the part of a Gaussian that lies within a cell's width
  (Barron et al., *Zip-NeRF*, 2023, section 3.2): what is smaller than a pixel
  cannot alias.

  Args:
    variance: `[N]` of isotropic Gaussians, for coordinates in [0, 1].
    levels: `L` of them.
    features_per_level: `F`.

  Returns:
    `[L * F, N]` in [0, 1], level by level; 1 where the variance is 0.
  """
  resolutions = jnp.asarray(levels.resolutions, variance.dtype)[:, None]
  spread = jnp.maximum(variance, jnp.finfo(variance.dtype).tiny)
  weights = jax.lax.erf(jax.lax.rsqrt(8.0 * resolutions**2 * spread[None]))
  return jnp.repeat(weights, features_per_level, axis=0)


class _Level(NamedTuple):
  """The numbers of a level, or arrays `[L]` of all levels."""

  resolution: jax.Array  # float32
  factors: tuple[jax.Array, jax.Array, jax.Array]  # uint32, of x, y, z.
  is_direct: jax.Array  # bool, whether each corner has a row of its own.
  mask: jax.Array  # uint32, of the hash.
  offset: jax.Array  # int32, the first row.


def _stack_levels(levels: GridLevels) -> _Level:
  sides = [n + 1 for n in levels.resolutions]
  direct = [n**3 <= size for n, size in zip(sides, levels.sizes, strict=True)]
  factors = [
    (1, n, n**2) if fits else _PRIMES
    for n, fits in zip(sides, direct, strict=True)
  ]
  x, y, z = jnp.asarray(np.asarray(factors, np.uint32).T)
  return _Level(
    resolution=jnp.asarray(levels.resolutions, jnp.float32),
    factors=(x, y, z),
    is_direct=jnp.asarray(direct),
    mask=jnp.asarray(levels.sizes, jnp.uint32) - 1,
    offset=jnp.asarray(levels.offsets(), jnp.int32),
  )


_Tables = Sequence[jax.Array]


def _gather(
  tables: _Tables, points: jax.Array, levels: GridLevels
) -> jax.Array:
  # The choice is made where a function is lowered: that is right for one that
  # is compiled for another device too.
  features: jax.Array = jax.lax.platform_dependent(
    tables,
    points,
    cpu=functools.partial(_gather_in_loop, levels=levels),
    default=functools.partial(_gather_at_once, levels=levels),
  )
  return features


def _gather_in_loop(
  tables: _Tables, points: jax.Array, levels: GridLevels
) -> jax.Array:
  def add_level(
    previous: list[jax.Array], level: _Level
  ) -> tuple[list[jax.Array], list[jax.Array]]:
    corners = _corners(points, level)
    features = [
      functools.reduce(
        jnp.add,
        [
          weight * jnp.asarray(table).at[row].get(mode='promise_in_bounds')
          for row, weight in corners
        ],
      )
      for table in tables
    ]
    # Stored by the next turn: a CPU computes what goes straight into the
    # loop's result on one core.
    return features, previous

  zeros = [jnp.zeros(points.shape[1], points.dtype) for _ in tables]
  last, previous = jax.lax.scan(add_level, zeros, _stack_levels(levels))
  features = [
    jnp.concatenate([x[1:], y[None]])
    for x, y in zip(previous, last, strict=True)
  ]
  return jnp.stack(features, axis=1).reshape(-1, points.shape[1])


def _gather_at_once(
  tables: _Tables, points: jax.Array, levels: GridLevels
) -> jax.Array:
  table = jnp.stack(tables, axis=-1)
  row, weight = _corner_arrays(points, levels)
  read = table.at[row].get(mode='promise_in_bounds')
  features = jnp.sum(weight[..., None] * read, axis=0)  # [L, N, F]
  return jnp.moveaxis(features, 2, 1).reshape(-1, points.shape[1])


_interpolate = jax.custom_vjp(_gather, nondiff_argnums=(2,))

_Residuals = tuple[_Tables, jax.Array]


def _interpolate_forward(
  tables: _Tables, points: jax.Array, levels: GridLevels
) -> tuple[jax.Array, _Residuals]:
  return _gather(tables, points, levels), (tables, points)


def _interpolate_backward(
  levels: GridLevels, residuals: _Residuals, gradient: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
  tables, points = residuals
  table_gradients: list[jax.Array] = jax.lax.platform_dependent(
    tables,
    points,
    gradient,
    cpu=functools.partial(_scatter_in_loop, levels=levels),
    default=functools.partial(_scatter_at_once, levels=levels),
  )
  # The compiler drops this where the gradient of points is not used.
  _, pull_back = jax.vjp(lambda x: _gather(tables, x, levels), points)
  return table_gradients, pull_back(gradient)[0]


_interpolate.defvjp(_interpolate_forward, _interpolate_backward)


def _scatter_in_loop(
  tables: _Tables, points: jax.Array, gradient: jax.Array, levels: GridLevels
) -> list[jax.Array]:
  """Returns the gradients of tables from that of the features."""

  def scatter_level(
    totals: list[jax.Array], inputs: tuple[_Level, list[jax.Array]]
  ) -> tuple[list[jax.Array], None]:
    level, gradients = inputs
    rows, weights = zip(*_corners(points, level), strict=True)
    row = jnp.concatenate(rows)
    totals = [
      total.at[row].add(
        jnp.concatenate([weight * gradient for weight in weights]),
        mode='promise_in_bounds',
      )
      for total, gradient in zip(totals, gradients, strict=True)
    ]
    return totals, None

  by_level = gradient.reshape(len(levels.sizes), len(tables), -1)
  totals, _ = jax.lax.scan(
    scatter_level,
    [jnp.zeros_like(table) for table in tables],
    (_stack_levels(levels), [by_level[:, i] for i in range(len(tables))]),
  )
  return totals


def _scatter_at_once(
  tables: _Tables, points: jax.Array, gradient: jax.Array, levels: GridLevels
) -> list[jax.Array]:
  by_level = gradient.reshape(len(levels.sizes), len(tables), -1)
  by_level = jnp.moveaxis(by_level, 1, 2)  # [L, N, F]
  row, weight = _corner_arrays(points, levels)
  # Points without a gradient add nothing. Those that fill up a list of samples
  # are all one point, and a GPU adds to one row one after the other: they took
  # three quarters of a step.
  num_rows = levels.num_rows()
  row = jnp.where(jnp.any(by_level != 0, axis=-1)[None], row, num_rows)
  zeros = jnp.zeros((num_rows, len(tables)), points.dtype)
  total = zeros.at[row].add(weight[..., None] * by_level[None], mode='drop')
  return [total[:, i] for i in range(len(tables))]


def _corners(
  points: jax.Array, level: _Level
) -> list[tuple[jax.Array, jax.Array]]:
  """Returns rows `[N]` of the 8 corners around points `[3, N]`, and weights."""
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
  weights = [[1 - fraction[k], fraction[k]] for k in range(3)]
  corners = []
  for z, y, x in itertools.product((0, 1), repeat=3):
    direct = terms[2][z] + terms[1][y] + terms[0][x]
    hashed = (terms[2][z] ^ terms[1][y] ^ terms[0][x]) & level.mask
    row = jnp.where(level.is_direct, direct, hashed).astype(jnp.int32)
    weight = weights[2][z] * weights[1][y] * weights[0][x]
    corners.append((row + level.offset, weight))
  return corners


def _corner_arrays(
  points: jax.Array, levels: GridLevels
) -> tuple[jax.Array, jax.Array]:
  """Returns rows and weights `[8, L, N]` of the corners of all levels.

  As expressions of each element, which the compiler joins with what reads them.
  """
  level = jax.tree.map(lambda x: x[None, :, None], _stack_levels(levels))
  scaled = points[:, None] * level.resolution  # [3, L, N]
  lower = jnp.clip(jnp.floor(scaled), 0, level.resolution - 1)
  fraction, first = scaled - lower, lower.astype(jnp.uint32)
  corner = np.arange(8, dtype=np.uint32)[:, None, None]
  direct = hashed = jnp.zeros((1, 1, 1), jnp.uint32)
  weight = jnp.ones((1, 1, 1))
  for axis in range(3):
    is_upper = corner >> np.uint32(axis) & np.uint32(1)
    term = (first[axis][None] + is_upper) * level.factors[axis]
    direct, hashed = direct + term, hashed ^ term
    share = fraction[axis][None]
    weight *= jnp.where(is_upper > 0, share, 1 - share)
  row = jnp.where(level.is_direct, direct, hashed & level.mask)
  return row.astype(jnp.int32) + level.offset, weight

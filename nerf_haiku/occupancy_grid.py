"""The occupancy grid: the cells of a box where a field has density.

See section "Occupancy grids" (appendix E.2) of Müller et al., *Instant Neural
Graphics Primitives*, 2022.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import arrays


class Grid(NamedTuple):
  """What is known of the `G` x `G` x `G` cells of a box, by z, y, x."""

  density: jax.Array  # [G, G, G] decayed maximum, per scene unit.
  occupied: jax.Array  # [G, G, G] bool.


def init_grid(resolution: int) -> Grid:
  """Returns a grid of `resolution` cells a side, all of them occupied."""
  shape = (resolution,) * 3
  return Grid(
    density=jnp.zeros(shape), occupied=jnp.ones(shape, dtype=jnp.bool_)
  )


def cell_points(
  index: jax.Array, offset: jax.Array, box: np.ndarray, resolution: int
) -> jax.Array:
  """Returns points inside cells.

  Args:
    index: `[N]` int32, cells in the order of a flat `[G, G, G]`: x varies
      fastest.
    offset: `[N, 3]` x, y, z in [0, 1), of a cell.
    box: `[2, 3]` lower and upper corner.
    resolution: `G`.

  Returns:
    `[N, 3]` points, scene units.
  """
  lower, upper = np.asarray(box, np.float32)
  cell = jnp.stack(
    [index // resolution**axis % resolution for axis in range(3)], axis=-1
  )
  fraction = (cell + offset) / resolution
  points: jax.Array = lower[None] + fraction * (upper - lower)[None]
  return points


def update_density(
  grid: Grid, index: jax.Array, density: jax.Array, *, decay: float
) -> Grid:
  """Records densities that were measured in cells.

  Args:
    grid: of any resolution.
    index: `[N]` int32, distinct cells as for `cell_points`.
    density: `[N]` measured in them, per scene unit.
    decay: in (0, 1); what the old density of these cells is multiplied by.

  Returns:
    The grid with the maximum of both in these cells; `occupied` is unchanged.
  """
  flat = grid.density.reshape(-1)
  updated = flat.at[index].set(jnp.maximum(decay * flat[index], density))
  return grid._replace(density=updated.reshape(grid.density.shape))


def update_occupied(grid: Grid, *, min_density: float) -> Grid:
  """Marks the cells as occupied that have some density.

  Args:
    grid: of any resolution.
    min_density: the density of an occupied cell, per scene unit. Half of the
      mean density is enough where that is less: at the start a thin fog is
      everywhere, which is not empty space.
  """
  threshold = jnp.minimum(min_density, 0.5 * jnp.mean(grid.density))
  return grid._replace(occupied=grid.density >= threshold)


def is_occupied(grid: Grid, points: arrays.Array, box: np.ndarray) -> jax.Array:
  """Returns which points lie in occupied cells.

  Args:
    grid: of any resolution.
    points: `[N, 3]` in the units of the box; outside of it nothing is occupied.
    box: `[2, 3]` lower and upper corner.

  Returns:
    `[N]` bool.
  """
  lower, upper = np.asarray(box, np.float32)
  resolution = grid.occupied.shape[0]
  fraction = (jnp.asarray(points) - lower[None]) / (upper - lower)[None]
  is_inside = jnp.all((fraction >= 0) & (fraction <= 1), axis=-1)
  cell = jnp.clip((fraction * resolution).astype(int), 0, resolution - 1)
  x, y, z = jnp.moveaxis(cell, -1, 0)
  return is_inside & jnp.asarray(grid.occupied)[z, y, x]

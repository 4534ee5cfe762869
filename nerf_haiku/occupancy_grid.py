"""The occupancy grid: where a field has density."""

from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np


class Grid(NamedTuple):
  """What is known of `G` x `G` x `G` cells of a box."""

  density: chex.Array  # [G * G * G] decayed maximum, per scene unit.
  occupied: chex.Array  # [G * G * G] bool.


def init_grid(resolution: int) -> Grid:
  """A grid of which nothing is known: all is occupied."""
  return Grid(
    jnp.zeros(resolution**3), jnp.ones(resolution**3, dtype=jnp.bool_)
  )


def cell_points(
  index: chex.Array, offset: chex.Array, box: np.ndarray, resolution: int
) -> chex.Array:
  """Points `[N, 3]` in cells `[N]`, at offsets `[N, 3]` in [0, 1) of a cell."""
  lower, upper = np.asarray(box, np.float32)
  cell = jnp.stack(
    [index // resolution**k % resolution for k in range(3)], axis=-1
  )
  share = (cell + offset) / resolution
  return lower[None] + share * (upper - lower)[None]


def update_density(
  grid: Grid, index: chex.Array, density: chex.Array, *, decay: float
) -> Grid:
  """The grid after cells `[N]` were found to have densities `[N]`.

  What is remembered of a cell fades by `decay` whenever it is looked at.
  """
  remembered = jnp.maximum(decay * grid.density[index], density)
  return grid._replace(density=grid.density.at[index].set(remembered))


def update_occupied(grid: Grid, *, least: float) -> Grid:
  """Marks cells as occupied whose density is `least`, or half of the mean.

  The mean is for the start: a thin fog everywhere is not taken for nothing.
  """
  threshold = jnp.minimum(least, 0.5 * jnp.mean(grid.density))
  return grid._replace(occupied=grid.density >= threshold)

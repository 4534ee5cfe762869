import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import cameras, occupancy_grid, ray_marching

_BOX = np.array([[-1.0, -2.0, 0.0], [1.0, 1.0, 2.0]], np.float32)


class GridTest(chex.TestCase):
  def test_points_lie_in_their_cells(self):
    """A march to each point alone meets just that cell."""
    index = jnp.arange(4**3)
    offset = jax.random.uniform(jax.random.key(0), (64, 3))
    points = occupancy_grid.cell_points(index, offset, _BOX, 4)
    for i in (0, 5, 22, 63):
      occupied = (index == i).reshape(4, 4, 4)
      rays = cameras.Rays(
        points - jnp.array([[0.0, 0.0, 9.0]]),
        jnp.tile(jnp.array([[0.0, 0.0, 1.0]]), (64, 1)),
        points,
        jnp.full((64, 1), 9.0),
        jnp.full((64, 1), 9.001),
      )
      marched = ray_marching.march(
        occupied, rays, jnp.zeros(64), box=_BOX, step=0.5, num_positions=4
      )
      np.testing.assert_array_equal(
        np.flatnonzero(ray_marching.count_samples(marched)), [i]
      )

  def test_offsets_reach_from_corner_to_corner(self):
    index, box = jnp.array([0, 63]), np.array([[0.0, 1, 2], [4, 9, 6]])
    for offset, expected in (
      ([0, 0, 0], [[0, 1, 2], [3, 7, 5]]),
      ([1, 0.5, 0.25], [[1, 2, 2.25], [4, 8, 5.25]]),
    ):
      offset = jnp.tile(jnp.array([offset], jnp.float32), (2, 1))
      points = occupancy_grid.cell_points(index, offset, box, 4)
      np.testing.assert_allclose(points, expected, rtol=1e-6)

  def test_densities_decay_when_a_cell_is_measured(self):
    grid = occupancy_grid.init_grid(2)
    chex.assert_shape(grid, (2, 2, 2))
    self.assertTrue(bool(jnp.all(grid.occupied)))
    grid = occupancy_grid.update_density(
      grid, jnp.array([1, 3]), jnp.array([8.0, 2.0]), decay=0.5
    )
    grid = occupancy_grid.update_density(
      grid, jnp.array([1, 2]), jnp.array([1.0, 3.0]), decay=0.5
    )
    np.testing.assert_array_equal(
      grid.density.reshape(-1), [0, 4, 3, 2, 0, 0, 0, 0]
    )

  @parameterized.parameters((2.5, [1, 2, 5, 6]), (100.0, [1, 5]))
  def test_cells_with_the_density_or_half_the_mean(self, min_density, expected):
    """Half of the mean density is 5.6."""
    density = jnp.tile(jnp.array([0.0, 40.0, 3.0, 2.0]), 2)
    grid = occupancy_grid.Grid(
      density=density.reshape(2, 2, 2), occupied=jnp.ones((2, 2, 2), bool)
    )
    grid = occupancy_grid.update_occupied(grid, min_density=min_density)
    found = np.flatnonzero(grid.occupied.reshape(-1))
    np.testing.assert_array_equal(found, expected)

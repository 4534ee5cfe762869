import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import cameras, occupancy_grid, ray_marching

_BOX = np.array([[-1.0, -2.0, 0.0], [1.0, 1.0, 2.0]], np.float32)


def _rays(count=12, seed=0):
  """Rays from around the box into it, with directions of any length."""
  rng = np.random.default_rng(seed)
  origins = rng.normal(size=(count, 3)) * 4
  directions = rng.uniform(_BOX[0], _BOX[1], (count, 3)) - origins
  directions[0] *= -1  # Away from the box.
  directions *= rng.uniform(0.2, 2, (count, 1))
  near, far = np.zeros((count, 1)), np.full((count, 1), 50.0)
  arrays = (origins, directions, directions, near, far)
  rays = cameras.Rays(*(jnp.asarray(x, jnp.float32) for x in arrays))
  return cameras.clip(rays, _BOX)


def _slow_march(occupied, rays, shift, step, resolution):
  """Positions of each ray in occupied cells, one by one."""
  grid = np.asarray(occupied).reshape((resolution,) * 3)  # z, y, x.
  found = []
  for i in range(len(shift)):
    origin, direction = (np.float64(x[i]) for x in rays[:2])
    near, far = float(rays.near[i, 0]), float(rays.far[i, 0])
    dt = step / np.linalg.norm(direction)
    positions, k = [], 0
    while near + (k + shift[i]) * dt < far:
      point = origin + (near + (k + shift[i]) * dt) * direction
      cell = (point - _BOX[0]) / (_BOX[1] - _BOX[0]) * resolution
      x, y, z = np.clip(cell.astype(int), 0, resolution - 1)
      if grid[z, y, x]:
        positions.append(k)
      k += 1
    found.append(positions)
  return found


def _positions(bits):
  """The set bits of rows of words."""
  return [
    [
      32 * w + b
      for w, word in enumerate(row)
      for b in range(32)
      if int(word) >> b & 1
    ]
    for row in np.asarray(bits)
  ]


class MarchTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(0.05, 0.2)
  def test_matches_a_loop(self, step):
    rng = np.random.default_rng(1)
    occupied = rng.uniform(size=8**3) < 0.3
    rays, shift = _rays(), rng.uniform(size=12)
    march = self.variant(
      lambda o, r, s: ray_marching.march(
        o, r, s, box=_BOX, step=step, num_positions=120
      )
    )
    marched = march(
      jnp.asarray(occupied), rays, jnp.asarray(shift, jnp.float32)
    )
    expected = _slow_march(occupied, rays, shift, step, 8)
    self.assertEqual(_positions(marched.bits), expected)
    self.assertEqual(expected[0], [])
    self.assertGreater(max(map(len, expected)), 3)
    np.testing.assert_array_equal(
      ray_marching.count_samples(marched), [len(x) for x in expected]
    )

  def test_positions_are_no_more_than_asked_for(self):
    march = ray_marching.march(
      jnp.ones(8, bool),
      _rays(),
      jnp.zeros(12),
      box=_BOX,
      step=0.01,
      num_positions=40,
    )
    self.assertEqual(int(jnp.max(ray_marching.count_samples(march))), 40)


class PackTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_matches_a_loop(self):
    rng = np.random.default_rng(2)
    bits = rng.integers(0, 2**32, (9, 5), np.uint32)
    bits[3] = 0  # A ray without samples, words without any, full ones.
    bits[5, 1:4] = 0
    bits[6, :2] = 2**32 - 1
    positions = _positions(bits)
    first = rng.integers(0, 3, 9)
    number = [
      max(0, min(len(p) - f, 30)) for p, f in zip(positions, first, strict=True)
    ]
    samples = self.variant(
      lambda b, f, n: ray_marching.pack_samples(
        ray_marching.MarchedRays(b, jnp.zeros(9)), f, n, budget=320
      )
    )(jnp.asarray(bits), jnp.asarray(first), jnp.asarray(number, jnp.int32))
    expected = [
      (ray, k, positions[ray][first[ray] + k])
      for ray in range(9)
      for k in range(number[ray])
    ]
    used = np.asarray(samples.used)
    self.assertEqual(int(used.sum()), len(expected))
    self.assertTrue(np.all(used[: len(expected)]))
    found = np.stack(samples[:3], axis=-1)[used]
    np.testing.assert_array_equal(found, expected)
    self.assertTrue(np.all(np.diff(samples.ray) >= 0))

  def test_a_full_list(self):
    bits = jnp.full((4, 1), 7, jnp.uint32)
    samples = ray_marching.pack_samples(
      ray_marching.MarchedRays(bits, jnp.zeros(4)),
      jnp.zeros(4, int),
      jnp.full(4, 3, jnp.int32),
      budget=12,
    )
    np.testing.assert_array_equal(samples.ray, np.repeat(np.arange(4), 3))
    np.testing.assert_array_equal(samples.position, np.tile([0, 1, 2], 4))
    self.assertTrue(bool(jnp.all(samples.used)))


class GridTest(chex.TestCase):
  def test_points_lie_in_their_cells(self):
    """A march to each point alone meets just that cell."""
    index = jnp.arange(4**3)
    offset = jax.random.uniform(jax.random.key(0), (64, 3))
    points = occupancy_grid.cell_points(index, offset, _BOX, 4)
    for i in (0, 5, 22, 63):
      occupied = index == i
      rays = cameras.Rays(
        points - jnp.array([[0.0, 0.0, 9.0]]),
        jnp.tile(jnp.array([[0.0, 0.0, 1.0]]), (64, 1)),
        points,
        jnp.full((64, 1), 9.0),
        jnp.full((64, 1), 9.001),
      )
      march = ray_marching.march(
        occupied, rays, jnp.zeros(64), box=_BOX, step=0.5, num_positions=4
      )
      np.testing.assert_array_equal(
        np.flatnonzero(ray_marching.count_samples(march)), [i]
      )

  def test_what_is_remembered_fades_when_it_is_looked_at(self):
    grid = occupancy_grid.init_grid(2)
    self.assertTrue(bool(jnp.all(grid.occupied)))
    seen = occupancy_grid.update_density(
      grid, jnp.array([1, 3]), jnp.array([8.0, 2.0]), decay=0.5
    )
    seen = occupancy_grid.update_density(
      seen, jnp.array([1, 2]), jnp.array([1.0, 3.0]), decay=0.5
    )
    np.testing.assert_array_equal(seen.density, [0, 4, 3, 2, 0, 0, 0, 0])

  @parameterized.parameters(
    (2.5, [False, True, True, False]), (100.0, [False, True, False, False])
  )
  def test_cells_of_the_least_density_or_half_the_mean(self, least, expected):
    grid = occupancy_grid.Grid(
      jnp.array([0.0, 40.0, 3.0, 2.0]), jnp.ones(4, bool)
    )
    marked = occupancy_grid.update_occupied(grid, least=least)
    np.testing.assert_array_equal(marked.occupied, expected)

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from nerf_haiku import hash_grid


def _slow_hash_grid(tables, point, levels):
  """One point, level by level, corner by corner, in Python's integers."""
  code, first = [], 0
  for side, size in zip(*levels, strict=True):
    scaled = [float(x) * side for x in point]
    lower = [min(int(x), side - 1) for x in scaled]
    feature = np.zeros(len(tables))
    for corner in itertools.product((0, 1), repeat=3):
      x, y, z = (a + b for a, b in zip(lower, corner, strict=True))
      if (side + 1) ** 3 <= size:
        row = x + (side + 1) * (y + (side + 1) * z)
      else:
        row = (x ^ (y * 2_654_435_761) ^ (z * 805_459_861)) % 2**32 % size
      weight = 1.0
      for share, low, up in zip(scaled, lower, corner, strict=True):
        weight *= share - low if up else 1 - (share - low)
      feature += weight * np.array([t[first + row] for t in tables])
    code += list(feature)
    first += size
  return np.array(code)


def _grid(levels, num_features=2, seed=0):
  rng = np.random.default_rng(seed)
  return [
    jnp.asarray(rng.normal(size=levels.num_rows()), jnp.float32)
    for _ in range(num_features)
  ]


class HashGridTest(chex.TestCase):
  _LEVELS = hash_grid.grid_levels(
    num_levels=4, base_resolution=3, max_resolution=24, hashmap_size=256
  )

  def _points(self, count=9):
    points = np.random.default_rng(1).uniform(size=(3, count))
    points[:, 0], points[:, 1] = 0.0, 1.0  # The corners of the box.
    return jnp.asarray(points, jnp.float32)

  def test_levels_grow_geometrically(self):
    # 16, 32, 64 and so on; (side + 1) ** 3 corners, as far as there is room.
    levels = hash_grid.grid_levels(
      num_levels=6, base_resolution=16, max_resolution=512, hashmap_size=2**17
    )
    self.assertEqual(levels.resolutions, (16, 32, 64, 128, 256, 512))
    self.assertEqual(levels.sizes, (17**3, 33**3) + (2**17,) * 4)
    self.assertEqual(levels.offsets()[:3], (0, 17**3, 17**3 + 33**3))
    self.assertEqual(
      hash_grid.grid_resolutions(
        num_levels=1, base_resolution=7, max_resolution=99
      ),
      (7,),
    )

  @chex.variants(with_jit=True, without_jit=True)
  def test_matches_a_loop_over_the_equations(self):
    tables, points = _grid(self._LEVELS, 3), self._points()
    self.assertIn(4**3, self._LEVELS.sizes)  # Direct levels and hashed ones.
    self.assertIn(256, self._LEVELS.sizes)
    code = self.variant(lambda t, x: hash_grid.interpolate(t, x, self._LEVELS))(
      tables, points
    )
    chex.assert_shape(code, (12, 9))
    for i in range(9):
      expected = _slow_hash_grid(tables, points[:, i], self._LEVELS)
      np.testing.assert_allclose(code[:, i], expected, atol=1e-4)

  def test_gradient_of_tables_matches_a_loop(self):
    """The features are linear in the tables: a unit table shows a column."""
    tables, points = _grid(self._LEVELS), self._points(4)
    g = np.random.default_rng(3).normal(size=(8, 4)).astype(np.float32)
    found = jax.grad(
      lambda t: jnp.sum(hash_grid.interpolate(t, points, self._LEVELS) * g)
    )(tables)
    expected = np.zeros((2, self._LEVELS.num_rows()))
    for row in range(self._LEVELS.num_rows()):
      unit = np.zeros(self._LEVELS.num_rows())
      unit[row] = 1.0
      for i in range(4):
        code = _slow_hash_grid([unit], points[:, i], self._LEVELS)
        expected[:, row] += code @ g[:, i].reshape(-1, 2)
    np.testing.assert_allclose(found, expected, atol=1e-4)

  def test_gradient_of_points_matches_finite_differences(self):
    tables = _grid(self._LEVELS)
    point = np.array([[0.31], [0.52], [0.77]])  # Of no cell's border.
    jacobian = jax.jacobian(
      lambda x: hash_grid.interpolate(tables, x, self._LEVELS)[:, 0]
    )(jnp.asarray(point, jnp.float32))
    for k in range(3):
      move = np.zeros((3, 1))
      move[k] = 1e-4
      ahead, behind = (
        _slow_hash_grid(tables, (point + s * move)[:, 0], self._LEVELS)
        for s in (1, -1)
      )
      np.testing.assert_allclose(
        jacobian[:, k, 0], (ahead - behind) / 2e-4, rtol=1e-2, atol=1e-2
      )

  def test_gradient_at_the_upper_faces_is_that_of_the_last_cell(self):
    tables = _grid(self._LEVELS)
    corner = np.ones((3, 1))
    jacobian = jax.jacobian(
      lambda x: hash_grid.interpolate(tables, x, self._LEVELS)[:, 0]
    )(jnp.asarray(corner, jnp.float32))
    at_corner = _slow_hash_grid(tables, corner[:, 0], self._LEVELS)
    for k in range(3):
      behind = corner.copy()
      behind[k] -= 1e-3
      slope = at_corner - _slow_hash_grid(tables, behind[:, 0], self._LEVELS)
      np.testing.assert_allclose(
        jacobian[:, k, 0], slope / 1e-3, rtol=1e-3, atol=1e-3
      )

  def test_no_jump_across_the_borders_of_cells(self):
    tables = _grid(self._LEVELS)
    for side in self._LEVELS.resolutions:
      border = np.full((3, 2), 0.43)
      border[1] = 1 / side + np.array([-1e-6, 1e-6])
      code = hash_grid.interpolate(
        tables, jnp.asarray(border, jnp.float32), self._LEVELS
      )
      np.testing.assert_allclose(code[:, 0], code[:, 1], atol=1e-3)

  def test_equals_its_plain_definition_with_gradients(self):
    tables, points = _grid(self._LEVELS), self._points()
    g = np.random.default_rng(4).normal(size=(8, 9)).astype(np.float32)

    def loss(interpolate):
      return lambda t, x: jnp.sum(interpolate(t, x, self._LEVELS) * g)

    tuned, plain = (
      jax.value_and_grad(loss(x), argnums=(0, 1))(tables, points)
      for x in (hash_grid.interpolate, hash_grid.interpolate_plain)
    )
    chex.assert_trees_all_close(tuned, plain, atol=2e-4)

  def test_all_levels_at_once_equal_its_plain_definition(self):
    """The form of other devices than CPUs, on one."""
    tables, points = _grid(self._LEVELS), self._points()
    g = np.random.default_rng(4).normal(size=(8, 9)).astype(np.float32)
    at_once = functools.partial(hash_grid._gather_at_once, levels=self._LEVELS)
    plain, pull_back = jax.vjp(
      lambda t, x: hash_grid.interpolate_plain(t, x, self._LEVELS),
      tables,
      points,
    )
    of_tables, of_points = pull_back(jnp.asarray(g))
    chex.assert_trees_all_close(at_once(tables, points), plain, atol=2e-5)
    chex.assert_trees_all_close(
      hash_grid._scatter_at_once(tables, points, g, self._LEVELS),
      of_tables,
      atol=2e-4,
    )
    _, pull_back = jax.vjp(lambda x: at_once(tables, x), points)
    chex.assert_trees_all_close(pull_back(g), (of_points,), atol=2e-4)

  def test_all_levels_at_once_leave_points_without_a_gradient_out(self):
    """Their weights, which are no numbers here, do not count."""
    tables, points = _grid(self._LEVELS), self._points()
    g = np.random.default_rng(4).normal(size=(8, 9)).astype(np.float32)
    g[:, 3] = 0.0
    scatter = hash_grid._scatter_at_once
    chex.assert_trees_all_close(
      scatter(tables, points.at[:, 3].set(np.nan), g, self._LEVELS),
      scatter(tables, points, g, self._LEVELS),
    )

  def test_levels_fade_as_their_cells_grow_too_small_for_a_gaussian(self):
    deviation = np.array([0.0, 1e-3, 0.02, 0.3])
    found = hash_grid.level_weights(
      jnp.asarray(deviation**2, jnp.float32), self._LEVELS, 2
    )
    for i, cells in enumerate(np.repeat(self._LEVELS.resolutions, 2)):
      for weight, width in zip(found[i, 1:], deviation[1:], strict=True):
        half = 0.5 / cells
        inside = stats.norm.cdf(half, scale=width) * 2 - 1
        np.testing.assert_allclose(weight, inside, atol=1e-6)
    np.testing.assert_array_equal(found[:, 0], np.ones(len(found)))

  def test_the_form_is_that_of_the_device_it_is_compiled_for(self):
    tables, points = _grid(self._LEVELS), self._points()

    def loss(tables):
      return jnp.sum(hash_grid.interpolate(tables, points, self._LEVELS) ** 2)

    traced = jax.jit(jax.grad(loss)).trace(tables)
    counts = {}
    for platform in ('cpu', 'cuda', 'tpu'):
      text = traced.lower(lowering_platforms=(platform,)).as_text()
      names = ('while', '"stablehlo.scatter"')
      counts[platform] = tuple(text.count(x) for x in names)
    self.assertEqual(counts['cuda'], (0, 1))
    self.assertEqual(counts['tpu'], (0, 1))
    self.assertEqual(counts['cpu'][0], 2)  # Forward and backward.

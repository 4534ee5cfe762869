import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import encodings, hash_grid
from tests.support import references


def _slow_positional(x, frequencies, fns):
  rows = []
  for row in x:
    code = list(row)
    for frequency in frequencies:
      for fn in fns:
        code += [fn(frequency * v) for v in row]
    rows.append(code)
  return np.array(rows)


class PositionalTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(10, 4)
  def test_matches_reference(self, octaves):
    reference = references.load('encoding')
    encode = functools.partial(encodings.positional, num_octaves=octaves)
    code = self.variant(encode)(reference['x'])
    expected = reference[f'multires{octaves}']
    np.testing.assert_allclose(code, expected, atol=2e-5)

  @parameterized.parameters(
    ({'log_sampling': True}, (1.0, 2.0, 4.0, 8.0), (np.sin, np.cos)),
    ({'log_sampling': False}, np.linspace(1.0, 8.0, 4), (np.sin, np.cos)),
    ({'periodic_fns': ('cos',)}, (1.0, 2.0, 4.0, 8.0), (np.cos,)),
    ({'periodic_fns': ('cos', 'sin')}, (1, 2, 4, 8), (np.cos, np.sin)),
  )
  def test_matches_a_loop(self, settings, frequencies, fns):
    x = np.linspace(-2.0, 2.0, 15, dtype=np.float32).reshape(5, 3)
    code = encodings.positional(jnp.asarray(x), num_octaves=4, **settings)
    expected = _slow_positional(x.astype(np.float64), frequencies, fns)
    np.testing.assert_allclose(code, expected, atol=2e-6)

  def test_input_can_be_left_out(self):
    x = jnp.ones((2, 5, 3))
    whole = encodings.positional(x, num_octaves=2)
    bare = encodings.positional(x, num_octaves=2, include_input=False)
    chex.assert_shape([whole, bare], [(2, 5, 15), (2, 5, 12)])
    np.testing.assert_array_equal(whole[..., 3:], bare)

  def test_gradient_is_finite_far_away(self):
    grad = jax.grad(lambda x: encodings.positional(x, num_octaves=10).sum())
    chex.assert_tree_all_finite(grad(jnp.array([[0.0, 1e6, -1e30]])))


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
    num_levels=4, coarsest=3, finest=24, table_size=256
  )

  def _points(self, count=9):
    points = np.random.default_rng(1).uniform(size=(3, count))
    points[:, 0], points[:, 1] = 0.0, 1.0  # The corners of the box.
    return jnp.asarray(points, jnp.float32)

  def test_levels_grow_geometrically(self):
    # 16, 32, 64 and so on; (side + 1) ** 3 corners, as far as there is room.
    levels = hash_grid.grid_levels(
      num_levels=6, coarsest=16, finest=512, table_size=2**17
    )
    self.assertEqual(levels.resolutions, (16, 32, 64, 128, 256, 512))
    self.assertEqual(levels.sizes, (17**3, 33**3) + (2**17,) * 4)
    self.assertEqual(levels.offsets()[:3], (0, 17**3, 17**3 + 33**3))
    self.assertEqual(
      hash_grid.grid_resolutions(num_levels=1, coarsest=7, finest=99), (7,)
    )

  @chex.variants(with_jit=True, without_jit=True)
  def test_matches_a_loop_over_the_equations(self):
    tables, points = _grid(self._LEVELS, 3), self._points()
    self.assertIn(4**3, self._LEVELS.sizes)  # Direct levels and hashed ones.
    self.assertIn(256, self._LEVELS.sizes)
    code = self.variant(lambda t, x: hash_grid.hash_grid(t, x, self._LEVELS))(
      tables, points
    )
    chex.assert_shape(code, (12, 9))
    for i in range(9):
      expected = _slow_hash_grid(tables, points[:, i], self._LEVELS)
      np.testing.assert_allclose(code[:, i], expected, atol=1e-4)

  def test_gradient_of_tables_matches_a_loop(self):
    """The features are linear in the tables: a unit table shows a column."""
    tables, points = _grid(self._LEVELS), self._points(4)
    g = np.random.default_rng(3).normal(size=(8, 4))
    found = jax.grad(
      lambda t: jnp.sum(hash_grid.hash_grid(t, points, self._LEVELS) * g)
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
      lambda x: hash_grid.hash_grid(tables, x, self._LEVELS)[:, 0]
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

  def test_no_jump_across_the_borders_of_cells(self):
    tables = _grid(self._LEVELS)
    for side in self._LEVELS.resolutions:
      border = np.full((3, 2), 0.43)
      border[1] = 1 / side + np.array([-1e-6, 1e-6])
      code = hash_grid.hash_grid(
        tables, jnp.asarray(border, jnp.float32), self._LEVELS
      )
      np.testing.assert_allclose(code[:, 0], code[:, 1], atol=1e-3)


class SphericalHarmonicsTest(chex.TestCase):
  def test_orthonormal_on_the_sphere(self):
    """Integrals of products of degree 6, exact by Gauss and even angles."""
    z, weight = np.polynomial.legendre.leggauss(8)
    angle = 2 * np.pi * np.arange(16) / 16
    radius = np.sqrt(1 - z**2)[:, None]
    directions = np.stack(
      [
        radius * np.cos(angle),
        radius * np.sin(angle),
        np.broadcast_to(z[:, None], (8, 16)),
      ],
      axis=-1,
    )
    code = np.asarray(
      encodings.spherical_harmonics(jnp.asarray(directions, jnp.float32))
    )
    weights = np.broadcast_to(weight[:, None] * 2 * np.pi / 16, (8, 16))
    product = np.einsum('ija,ijb,ij->ab', code, code, weights)
    np.testing.assert_allclose(product, np.eye(16), atol=1e-5)

  def test_degrees_are_in_order(self):
    """A degree's functions change their sign with the direction, or not."""
    directions = jax.random.normal(jax.random.key(0), (20, 3))
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
    one, other = map(encodings.spherical_harmonics, (directions, -directions))
    sign = np.repeat([1, -1, 1, -1], [1, 3, 5, 7])
    np.testing.assert_allclose(other, one * sign[None], atol=1e-5)

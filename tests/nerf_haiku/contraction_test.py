import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import contraction

_RADII = (0.0, 1e-20, 0.3, 1.0, 1.001, 2.0, 10.0, 1e3, 1e6, 1e15)


def _directions(count=50):
  directions = np.random.default_rng(0).normal(size=(count, 3))
  return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


class ContractTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_closed_form(self):
    points = [[0, 0, 0], [0.6, 0, -0.8], [0, 2, 0], [-3, 0, 4], [0, 0, 1e6]]
    expected = [
      [0, 0, 0],
      [0.6, 0, -0.8],
      [0, 1.5, 0],
      [-0.6 * 1.8, 0, 0.8 * 1.8],
      [0, 0, 2 - 1e-6],
    ]
    contracted = self.variant(contraction.contract)(jnp.array(points))
    np.testing.assert_allclose(contracted, expected, atol=2e-7)
    # What is near is not changed at all.
    near = 0.57 * _directions().astype(np.float32)
    np.testing.assert_array_equal(contraction.contract(near), near)

  def test_radii_grow_and_stay_below_2(self):
    radii = np.logspace(-3, 3, 200, dtype=np.float32)
    points = radii[:, None, None] * _directions().astype(np.float32)
    contracted = np.asarray(contraction.contract(points), np.float64)
    lengths = np.linalg.norm(contracted, axis=-1)
    self.assertTrue(np.all(np.diff(lengths, axis=0) > 0))
    self.assertLess(lengths.max(), 2)
    # Directions stay.
    np.testing.assert_allclose(
      contracted / lengths[..., None],
      np.broadcast_to(_directions(), contracted.shape),
      atol=1e-6,
    )

  def test_signed_distances(self):
    x = jnp.array([-4.0, -1.0, 0.25, 2.0])
    np.testing.assert_allclose(
      contraction.contract(x[:, None])[:, 0], [-1.75, -1, 0.25, 1.5]
    )

  @parameterized.parameters(*_RADII)
  def test_the_gradient_is_finite_and_closed_form(self, radius):
    """Along the radius 1 / r^2, across it (2 - 1 / r) / r."""
    point = jnp.array([0.0, radius, 0.0])
    jacobian = jax.jacobian(contraction.contract)(point)
    along = 1.0 if radius <= 1 else radius**-2.0
    across = 1.0 if radius <= 1 else (2 - 1 / radius) / radius
    np.testing.assert_allclose(
      jacobian,
      np.diag([across, along, across]),
      rtol=1e-5,
      atol=1e-6 * across,  # Of 2 - 1 / r at large r, float32 keeps no more.
    )

  @parameterized.parameters(*_RADII[:-3])
  def test_expand_is_the_inverse(self, radius):
    points = (radius * _directions()).astype(np.float32)
    np.testing.assert_allclose(
      contraction.expand(contraction.contract(points)),
      points,
      rtol=1e-5 * max(radius, 1),
      atol=1e-6 * radius**2,
    )

  def test_expand_is_finite_beyond_the_ball(self):
    points = jnp.array([[0.0, 2.0, 0.0], [2.0, -2.0, 2.0], [0.0, 0.0, 0.0]])
    radii = np.linalg.norm(contraction.expand(points), axis=-1)
    np.testing.assert_allclose(radii, [1e6, 1e6, 0], rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(contraction.expand(x)))(points)
    chex.assert_tree_all_finite(gradient)


class DensityFactorTest(chex.TestCase):
  def test_it_is_how_much_lengths_shrink(self):
    point = jnp.array([0.0, 4.0, -3.0])
    along = jax.jvp(contraction.contract, (point,), (point / 5,))[1]
    factor = contraction.density_factor(point)
    np.testing.assert_allclose(factor, jnp.linalg.norm(along), rtol=1e-5)
    self.assertEqual(float(contraction.density_factor(point / 6)), 1.0)


class LengthFactorTest(chex.TestCase):
  def test_it_is_the_third_root_of_how_much_volumes_shrink(self):
    points = jnp.array([[0.3, 0.1, -0.2], [2.0, -1.0, 0.5], [0.0, 40.0, 9.0]])
    jacobian = jax.vmap(jax.jacobian(contraction.contract))(points)
    volumes = np.abs(np.linalg.det(np.asarray(jacobian, np.float64)))
    np.testing.assert_allclose(
      contraction.length_factor(points), np.cbrt(volumes), rtol=1e-4
    )


class ContractFieldTest(chex.TestCase):
  def test_gaussians_are_contracted_too(self):
    asked = []

    def apply(params, points, viewdirs, variance=None):
      del params, viewdirs
      asked.append(variance)
      return points[..., 0], points

    field = contraction.contract_field(hk.Transformed(None, apply))
    points, variance = jnp.array([[3.0, 0.0, 4.0]]), jnp.array([[1.0, 2.0, 3]])
    field.apply({}, points, points, variance)
    # Volumes shrink by 1/25 along, and by (2 - 1/5) / 5 twice across.
    factor = (0.04 * 0.36**2) ** (1 / 3)
    np.testing.assert_allclose(asked[0], factor**2 * variance, rtol=1e-5)

  def test_the_field_is_queried_at_contracted_points(self):
    field = hk.Transformed(
      lambda *_: {}, lambda params, points, viewdirs: (points[..., 1], viewdirs)
    )
    contracted = contraction.contract_field(field)
    self.assertEqual(contracted.init(None, None, None), {})
    density, rgb = contracted.apply({}, jnp.array([[0.0, -4.0, 0.0]]), 'colors')
    np.testing.assert_allclose(density, [-1.75])
    self.assertEqual(rgb, 'colors')

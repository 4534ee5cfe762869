import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import encodings
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

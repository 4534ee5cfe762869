import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import encodings
from tests import references


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

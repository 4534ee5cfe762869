import chex
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku.renderers import base


class WithinBudgetTest(chex.TestCase):
  @parameterized.parameters(
    ([3, 4, 0, 5, 1], 7, [1, 1, 1, 0, 0]),
    ([3, 4, 0, 5, 1], 12, [1, 1, 1, 1, 0]),
    ([3, 4, 0, 5, 1], 13, [1, 1, 1, 1, 1]),
    ([9, 0, 0], 8, [0, 0, 0]),  # Rays behind the excess do not fit.
    ([0, 2**31 - 1, 1], 8, [1, 0, 0]),
    ([2**30, 2**31 - 1], 2**30, [1, 0]),  # The largest sum at first excess.
  )
  def test_rays_fit_until_the_first_excess(self, count, max_samples, expected):
    found = base.within_budget(jnp.asarray(count, jnp.int32), max_samples)
    np.testing.assert_array_equal(found, np.asarray(expected, bool))

  def test_all_rays_fit_without_a_budget(self):
    found = base.within_budget(jnp.full(4, 2**30, jnp.int32), None)
    np.testing.assert_array_equal(found, True)

  @parameterized.parameters((2**22, 600), (2**23, 600), (2**12, 2**26))
  def test_sums_past_32_bits_do_not_wrap(self, num_rays, samples):
    """Of 600 samples each, 17 rays fit 10,304."""
    count = jnp.full(num_rays, samples, jnp.int32)
    fits = base.within_budget(count, 10_304)
    self.assertEqual(int(jnp.sum(fits)), 10_304 // samples)

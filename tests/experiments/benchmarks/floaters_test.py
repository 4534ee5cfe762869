"""The nearest 5 % of rays, by hand."""

import chex
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import floaters
from nerf_haiku import cameras


class NearestTest(chex.TestCase):
  def _ray(self):
    direction = jnp.array([[0.0, 0.5, 0.0]])
    near, far = jnp.full((1, 1), 1.0), jnp.full((1, 1), 1e3)
    return cameras.Rays(
      jnp.array([[0.0, -2.5, 0.0]]), direction, direction, near, far
    )

  def test_it_is_a_fraction_of_the_length(self):
    rays = floaters.nearest(self._ray(), contracted=False)
    np.testing.assert_allclose(rays.far, 1 + 0.05 * 999, rtol=1e-6)
    np.testing.assert_allclose(rays.near, 1)

  def test_contracted_it_is_one_of_s(self):
    """From 2 before the origin, an s of -1.5, to 497.5 behind it."""
    rays = floaters.nearest(self._ray(), contracted=True)
    near, far = -1.5, 2 - 1 / 497.5
    s = near + 0.05 * (far - near)
    place = -1 / (2 + s)  # Still more than 1 away.
    np.testing.assert_allclose(rays.far, (2.5 + place) / 0.5, rtol=1e-5)

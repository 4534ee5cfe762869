import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import cameras, sampling
from tests.support import references


def _keys(rays):
  return jax.random.split(jax.random.key(0), rays)


def _bounds(*pairs):
  near, far = jnp.array(pairs, jnp.float32).T
  return near[:, None], far[:, None]


class EvenTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(
    (False, [2.0, 3.0, 4.0, 5.0, 6.0]),
    (True, [2.0, 2.4, 3.0, 4.0, 6.0]),  # 1/t: 30, 25, 20, 15, 10 sixtieths.
  )
  def test_spacing(self, lindisp, expected):
    even = functools.partial(sampling.even, num_samples=5, lindisp=lindisp)
    t = self.variant(even)(*_bounds((2.0, 6.0)))
    np.testing.assert_allclose(t, [expected], rtol=1e-6)

  def test_each_ray_has_its_bounds(self):
    bounds = _bounds((2.0, 6.0), (1.0, 1.0))
    t = sampling.even(*bounds, num_samples=3, lindisp=False)
    np.testing.assert_allclose(t, [[2, 4, 6], [1, 1, 1]])


def _ray(origin, direction):
  direction = jnp.array([direction], jnp.float32)
  bound = jnp.zeros((1, 1))
  return cameras.Rays(
    jnp.array([origin], jnp.float32), direction, direction, bound, bound
  )


class SpacingTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_closed_form(self):
    """A ray that passes the origin at 0.6, from 0.8 before that point."""
    ray = _ray([0.6, -0.8, 0.0], [0.0, 2.0, 0.0])

    @self.variant
    def convert(t):
      spacing = sampling.contracted_spacing(ray)
      s = spacing.from_t(t)
      return s, spacing.to_t(s)

    # Distances from that point: -0.8, 0, 1; beyond 1 even in disparity.
    t = jnp.array([[0.0, 0.4, 0.9, 1.4, 2.4, 500.4, 5e5 + 0.4]])
    s, back = convert(t)
    expected = [[-0.8, 0.0, 1.0, 1.5, 1.75, 1.999, 2.0 - 1e-6]]
    np.testing.assert_allclose(s, expected, atol=2e-7)
    np.testing.assert_allclose(back[:, :-1], t[:, :-1], rtol=2e-4, atol=1e-6)

  def test_steps_have_no_jump_where_disparity_begins(self):
    spacing = sampling.contracted_spacing(_ray([0, 0, 0], [0.0, 1.0, 0.0]))
    slope = jax.vmap(jax.grad(lambda t: spacing.from_t(t)[0, 0]))
    slopes = slope(jnp.array([0.0, 0.999, 1.001, 2.0, 1e3]))
    np.testing.assert_allclose(slopes, [1, 1, 1.001**-2, 0.25, 1e-6], rtol=1e-3)
    chex.assert_tree_all_finite(slope(jnp.array([1e6, 1e15])))

  def test_on_a_ray_through_the_origin_it_is_the_contraction(self):
    ray = _ray([-3.0, 0.0, 0.0], [0.5, 0.0, 0.0])
    t = jnp.linspace(0.0, 40.0, 30)[None]
    s = sampling.contracted_spacing(ray).from_t(t)
    x = -3 + 0.5 * np.linspace(0.0, 40.0, 30)
    far = np.sign(x) * (2 - 1 / np.maximum(np.abs(x), 1e-9))
    np.testing.assert_allclose(s[0], np.where(np.abs(x) < 1, x, far), atol=1e-6)


class StratifiedTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_each_stratum_has_one_uniform_sample(self):
    t = jnp.tile(jnp.array([0.0, 2.0, 3.0]), (20000, 1))
    drawn = np.asarray(self.variant(sampling.stratified)(_keys(20000), t))
    edges = np.array([0.0, 1.0, 2.5, 3.0])
    low, high = edges[:-1], edges[1:]
    self.assertTrue(np.all((drawn >= low) & (drawn <= high)))
    # Mean and deviation of a uniform, within 5 standard errors.
    width = high - low
    np.testing.assert_allclose(
      drawn.mean(0), (low + high) / 2, atol=5 * 0.29 * 1.5 / 141
    )
    np.testing.assert_allclose(drawn.std(0), width / 12**0.5, rtol=0.03)

  def test_rays_and_strata_are_independent(self):
    t = jnp.tile(jnp.arange(4.0), (5000, 1))
    drawn = sampling.stratified(_keys(5000), t)
    correlation = np.corrcoef(drawn.T)[np.triu_indices(4, k=1)]
    self.assertLess(np.abs(correlation).max(), 0.07)
    # A ray's positions depend on its own key, not on its neighbours.
    alone = sampling.stratified(_keys(5000)[7:8], t[7:8])
    np.testing.assert_array_equal(alone[0], drawn[7])

  def test_equal_positions_stay(self):
    t = jnp.full((3, 4), 2.5)
    np.testing.assert_array_equal(sampling.stratified(_keys(3), t), t)


class InvertCdfTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_matches_reference(self):
    reference = references.load('render')
    u = jnp.tile(jnp.linspace(0.0, 1.0, 32), (16, 1))
    t = self.variant(sampling.invert_cdf)(
      u, reference['bins'], reference['weights'][:, 1:-1]
    )
    difference = np.abs(t - reference['det_samples'])
    difference[1, -1] = 0.0  # Only rounding of a running sum.
    np.testing.assert_array_less(difference, 1e-4)

  def test_closed_form(self):
    edges = jnp.array([[0.0, 1.0, 3.0, 4.0]])
    weights = jnp.array([[1.0, 2.0, 1.0]]) * 1e6  # The floor is negligible.
    u = jnp.array([[0.0, 0.125, 0.25, 0.5, 0.75, 0.875]])
    t = sampling.invert_cdf(u, edges, weights)
    np.testing.assert_allclose(t, [[0, 0.5, 1, 2, 3, 3.5]], atol=1e-5)

  def test_histogram_follows_weights(self):
    edges = jnp.tile(jnp.linspace(0.0, 1.0, 6), (1000, 1))
    weights = jnp.tile(jnp.array([1.0, 0.0, 3.0, 4.0, 2.0]), (1000, 1))
    t = sampling.invert_cdf(sampling.uniforms(_keys(1000), 100), edges, weights)
    counts, _ = np.histogram(t, np.linspace(0.0, 1.0, 6))
    np.testing.assert_allclose(
      counts / 1e5, [0.1, 0.0, 0.3, 0.4, 0.2], atol=0.008
    )

  @parameterized.named_parameters(
    ('zero', 0.0), ('equal', 0.3), ('tiny', 1e-30), ('huge', 1e30)
  )
  def test_equal_weights_spread_evenly(self, weight):
    u = jnp.linspace(0.0, 1.0, 11)[None]
    edges = jnp.linspace(2.0, 6.0, 9)[None]
    t = sampling.invert_cdf(u, edges, jnp.full((1, 8), weight))
    np.testing.assert_allclose(t, 2 + 4 * u, atol=1e-5)

  def test_stays_within_the_edges_in_order(self):
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=(200, 12)) ** 8
    weights[rng.uniform(size=weights.shape) < 0.5] = 0.0
    edges = np.sort(rng.uniform(2.0, 6.0, size=(200, 13)))
    edges[50:100, 4:8] = edges[50:100, 4:5]  # Empty bins.
    edges[100:] = 3.0  # Rays of no length.
    u = np.sort(rng.uniform(size=(200, 32)))
    u[:, -1] = 1.0
    t = sampling.invert_cdf(
      *(x.astype(np.float32) for x in (u, edges, weights))
    )
    self.assertTrue(np.all(t >= edges[:, :1].astype(np.float32) - 1e-6))
    self.assertTrue(np.all(t <= edges[:, -1:].astype(np.float32) + 1e-6))
    self.assertTrue(np.all(np.diff(t) >= -1e-5))

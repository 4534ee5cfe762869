import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import cameras, volume
from nerf_haiku.renderers import hierarchical
from tests.support import models, references


def _rays(count=8):
  """Rays along -z from z = 4, spread over [-1, 1] in x."""
  x = jnp.linspace(-1.0, 1.0, count)
  origins = jnp.stack([x, jnp.zeros(count), jnp.full(count, 4.0)], -1)
  directions = jnp.tile(jnp.array([0.0, 0.0, -1.0]), (count, 1))
  near, far = jnp.full((count, 1), 2.0), jnp.full((count, 1), 6.0)
  return cameras.Rays(origins, directions, directions, near, far)


def _wall(z=0.0, sharpness=300.0):
  """A field whose density rises at a plane, coloured by x; no parameters."""

  def apply(params, points, viewdirs):
    del viewdirs
    density = sharpness * (z - points[..., 2]) + params['mlp']['bias']
    x = points[..., :1] / 2 + 0.5
    return density, jnp.concatenate([x, 1 - x, x], -1)

  return hk.Transformed(lambda *_: {'mlp': {'bias': jnp.zeros(())}}, apply)


def _make(coarse=None, fine=None, **changes):
  settings = {
    'num_samples': 32,
    'num_importance': 0 if fine is None else 64,
    'perturb': True,
    'lindisp': False,
    'raw_noise_std': 0.0,
    'density_activation': 'relu',
    'infinite_end': False,
    'white_background': True,
  } | changes
  return hierarchical.make_hierarchical(coarse or _wall(), fine, **settings)


def _keys(count=8, seed=0):
  return jax.random.split(jax.random.key(seed), count)


class ReferenceTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_matches_the_original(self):
    reference = references.load('model')
    coarse, fine = self.variant(models.renderer().render)(
      models.params(reference), models.rays(reference, 0)
    )
    expected = {
      'rgb_map': fine.rgb,
      'disp_map': fine.disparity,
      'acc_map': fine.opacity,
      'rgb0': coarse.rgb,
      'disp0': coarse.disparity,
      'acc0': coarse.opacity,
      'z_std': fine.spread,
    }
    for name, value in expected.items():
      np.testing.assert_allclose(
        value, reference[f'out_{name}'], atol=1e-3, err_msg=name
      )


class HierarchicalTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_a_wall_is_seen_where_it_is(self):
    renderer = _make(_wall(), _wall(z=0.4))
    params = jax.jit(renderer.init)(jax.random.key(0))
    for seen in (
      self.variant(renderer.render)(params, _rays()),
      self.variant(renderer.train)(params, _keys(), _rays()),
    ):
      # Neighbours in strata of 4 / 31 are at most twice that apart.
      np.testing.assert_allclose(seen[0].depth, np.full(8, 4.0), atol=8 / 31)
      np.testing.assert_allclose(seen[1].depth, np.full(8, 3.6), atol=0.15)
      np.testing.assert_allclose(seen[1].opacity, np.ones(8), atol=1e-4)
      x = np.linspace(0.0, 1.0, 8)
      np.testing.assert_allclose(seen[1].rgb[:, 0], x, atol=1e-3)
      np.testing.assert_allclose(seen[1].rgb[:, 1], 1 - x, atol=1e-3)

  def test_fine_samples_gather_at_the_wall(self):
    renderer = _make(_wall(), _wall())
    _, fine = renderer.render(renderer.init(jax.random.key(0)), _rays())
    chex.assert_shape(fine.t, (8, 96))
    self.assertTrue(bool(jnp.all(jnp.diff(fine.t) >= 0)))
    near_wall = jnp.mean(jnp.abs(fine.t - 4.0) < 0.2)
    self.assertGreater(float(near_wall), 0.6)

  def test_no_gradient_flows_through_the_samples(self):
    renderer = _make(_wall(), _wall())
    params = jax.jit(renderer.init)(jax.random.key(0))
    grad = jax.grad(lambda p: renderer.render(p, _rays())[1].rgb.sum())(params)
    self.assertEqual(float(grad['coarse']['mlp']['bias']), 0.0)
    self.assertNotEqual(float(grad['fine']['mlp']['bias']), 0.0)

  def test_what_is_random_follows_the_keys(self):
    renderer = _make(_wall(), _wall(), raw_noise_std=1.0)
    params = jax.jit(renderer.init)(jax.random.key(0))
    rays = _rays()
    train = jax.jit(renderer.train)
    one = train(params, _keys(), rays)
    chex.assert_trees_all_equal(one, train(params, _keys(), rays))
    other = train(params, _keys(seed=1), rays)
    self.assertGreater(float(jnp.max(jnp.abs(one[0].t - other[0].t))), 0.01)
    # A ray on its own sees what it sees among others.
    third = jax.tree.map(lambda x: x[3:4], (_keys(), rays))
    alone = train(params, *third)
    chex.assert_trees_all_close(
      alone, jax.tree.map(lambda x: x[3:4], one), atol=1e-5
    )

  def test_perturb_off_is_even(self):
    renderer = _make(_wall(), _wall(), perturb=False)
    params = jax.jit(renderer.init)(jax.random.key(0))
    chex.assert_trees_all_equal(
      renderer.train(params, _keys(), _rays()), renderer.render(params, _rays())
    )

  def test_noise_reaches_each_network(self):
    """Empty space with noise of 1 has the density of a rectified normal."""

    def nothing(params, points, viewdirs):
      del params, viewdirs
      return jnp.zeros(points.shape[:-1]), jnp.ones(points.shape)

    empty = hk.Transformed(lambda *_: {}, nothing)
    renderer = _make(
      empty, empty, raw_noise_std=1.0, perturb=False, white_background=False
    )
    none = {'coarse': {}, 'fine': {}}
    coarse, fine = jax.jit(renderer.train)(none, _keys(2000), _rays(2000))
    for seen in (coarse, fine):
      # Mean of max(0, normal) is 0.4 over a length of 4; light left is
      # exp(-4 * 0.4) on the average, and more by half the variance.
      steps = jnp.diff(seen.t, append=jnp.full((2000, 1), 6.0))
      variance = jnp.sum(jnp.square(steps), -1) * 0.341
      expected = 1 - jnp.mean(jnp.exp(-4 * 0.3989 + variance / 2))
      np.testing.assert_allclose(seen.opacity.mean(), expected, atol=0.02)
    still, _ = renderer.render(none, _rays())
    np.testing.assert_array_equal(still.opacity, 0.0)

  def test_one_network(self):
    renderer = _make(_wall())
    params = jax.jit(renderer.init)(jax.random.key(0))
    self.assertEqual(set(params), {'coarse'})
    self.assertLen(renderer.render(params, _rays()), 1)

  def test_lindisp_spreads_samples_in_disparity(self):
    renderer = _make(lindisp=True, num_samples=5)
    (seen,) = renderer.render(renderer.init(jax.random.key(0)), _rays(1))
    np.testing.assert_allclose(seen.t, [[2.0, 2.4, 3.0, 4.0, 6.0]], rtol=1e-6)

  @parameterized.parameters('relu', 'softplus')
  def test_density_activation(self, name):
    renderer = _make(_wall(sharpness=1.0), density_activation=name)
    (seen,) = renderer.render(renderer.init(jax.random.key(0)), _rays(1))
    activation = volume.DENSITY_ACTIVATIONS[name]
    z = 4.0 - np.linspace(2.0, 6.0, 32)
    steps = np.append(np.full(31, 4 / 31), 0.0)
    expected = 1 - np.exp(-np.sum(activation(-z) * steps))
    np.testing.assert_allclose(seen.opacity, [expected], rtol=1e-4)

  def test_an_infinite_end_is_opaque(self):
    far_wall = _wall(z=-1.9)  # Begins just before the far bound at z = -2.
    params = {'coarse': {'mlp': {'bias': jnp.zeros(())}}}
    (open_end,) = _make(far_wall, infinite_end=True).render(params, _rays())
    (ended,) = _make(far_wall, infinite_end=False).render(params, _rays())
    np.testing.assert_allclose(open_end.opacity, np.ones(8))
    np.testing.assert_array_less(ended.opacity, 0.1)

  @parameterized.parameters(False, True)
  def test_rays_of_no_length_see_nothing_with_finite_gradients(self, infinite):
    # At near the fields are dense.
    renderer = _make(_wall(z=9.0), _wall(z=9.0), infinite_end=infinite)
    params = jax.jit(renderer.init)(jax.random.key(0))
    rays = _rays()._replace(far=_rays().near)

    def total(params):
      seen = renderer.train(params, _keys(), rays)
      return sum(x.rgb.sum() + x.depth.sum() for x in seen), seen

    grads, seen = jax.grad(total, has_aux=True)(params)
    np.testing.assert_array_equal(seen[1].rgb, 1.0)
    chex.assert_tree_all_finite((grads, seen))

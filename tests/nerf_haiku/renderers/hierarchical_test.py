import functools

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import backgrounds, cameras, sampling, volume
from nerf_haiku.renderers import base, hierarchical
from tests.support import contracted, models, references


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
    'background': backgrounds.WHITE,
  } | changes
  return hierarchical.make_hierarchical(coarse or _wall(), fine, **settings)


def _keys(count=8, seed=0):
  return jax.random.split(jax.random.key(seed), count)


def _variables(renderer):
  return jax.jit(renderer.init)(jax.random.key(0))


def _train(renderer, variables, keys, rays):
  """Renders as a training step does."""
  samples = renderer.sample_rays(variables, rays, keys)
  return renderer.render(variables.params, rays, samples)


def _even(renderer, rays):
  """The samples of evaluation."""
  t = sampling.even(
    rays.near, rays.far, num_samples=renderer.num_coarse, lindisp=False
  )
  return hierarchical.without_noise(t, renderer.num_fine)


class ReferenceTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_matches_the_reference(self):
    reference = references.load('model')
    variables = base.Variables(params=models.params(reference), state=())
    coarse, fine = self.variant(models.renderer().render_eval)(
      variables, models.rays(reference, 0)
    )
    expected = {
      'rgb_map': fine.outputs.rgb,
      'disp_map': fine.outputs.disparity,
      'acc_map': fine.outputs.opacity,
      'rgb0': coarse.outputs.rgb,
      'disp0': coarse.outputs.disparity,
      'acc0': coarse.outputs.opacity,
      'z_std': fine.fine_t_std,
    }
    for name, value in expected.items():
      np.testing.assert_allclose(
        value, reference[f'out_{name}'], atol=1e-3, err_msg=name
      )
    self.assertIsNone(coarse.fine_t_std)


class BackgroundTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(backgrounds.BLACK, backgrounds.WHITE, (0.3, 0.4, 0))
  def test_it_is_seen_through_haze(self, *background):
    """Of density 0.2 over a length of 4, all of one color."""
    color = np.array([0.2, 0.9, 0.6], np.float32)
    haze = models.haze(0.2, color)
    renderer = _make(haze, haze, background=background)
    none = base.Variables(params={'coarse': {}, 'fine': {}}, state=())
    passed = np.exp(-0.2 * 4)
    expected = (1 - passed) * color + passed * np.array(background)
    for rendering in self.variant(renderer.render_eval)(none, _rays()):
      np.testing.assert_allclose(
        rendering.outputs.rgb, np.tile(expected, (8, 1)), atol=1e-5
      )


class GradientScalingTest(chex.TestCase):
  def test_gradients_fall_with_the_squared_distance(self):
    """The first of two samples, at a t of 2; the second has no length."""
    rays = _rays()._replace(
      directions=jnp.tile(jnp.array([0, 0, -1.5]), (8, 1))
    )

    def gradient(radius):
      renderer = _make(num_samples=2, perturb=False, gradient_radius=radius)
      variables = _variables(renderer)

      def loss(params):
        params = {'coarse': {'mlp': {'bias': params}}}
        samples = renderer.sample_rays(variables, rays, _keys())
        return jnp.sum(renderer.render(params, rays, samples)[0].outputs.rgb)

      # A thin haze: the wall's density at z = 1 is -300.
      return jax.value_and_grad(loss)(jnp.asarray(300.1))

    value, usual = gradient(0.0)
    self.assertGreater(abs(float(usual)), 0.1)
    for radius, factor in ((2.9, 1.0), (6.0, 0.25), (30.0, 0.01)):
      same, scaled = gradient(radius)
      self.assertEqual(same, value)
      np.testing.assert_allclose(scaled, factor * usual, rtol=1e-5)


class ContractedTest(chex.TestCase):
  def test_even_samples_equal_plain_compositing(self):
    field = contracted.field()
    renderer = _make(field, num_samples=40, contracted=True, perturb=False)
    variables = _variables(renderer)
    rays = contracted.rays()
    near, far = (contracted.to_s(rays, x) for x in (rays.near, rays.far))
    t = contracted.to_t(rays, near + (far - near) * np.linspace(0, 1, 40))
    found = renderer.sample_rays(variables, rays, _keys(30)).t
    # A float32 s near 2 does not say exactly where 1e6 is.
    np.testing.assert_allclose(found[:, :-1], t[:, :-1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[:, -1:], rays.far, rtol=0.5)
    rays = contracted.rays(far=(3.0, 50.0))
    (rendering,) = jax.jit(renderer.render_eval)(variables, rays)
    found = renderer.sample_rays(variables, rays, _keys(30)).t
    expected, _ = contracted.composite(field, rays, found)
    for name in ('rgb', 'opacity', 'disparity', 'depth'):
      np.testing.assert_allclose(
        getattr(rendering.outputs, name),
        getattr(expected, name),
        atol=1e-5,
        rtol=1e-5 if name == 'depth' else 0,
        err_msg=name,
      )

  def test_strata_and_fine_samples_are_even_in_contracted_space(self):
    """Through empty space fine samples spread as the bins do."""
    rays = jax.tree.map(
      lambda x: jnp.tile(x[:1], (2000, 1)), contracted.rays(1, far=(1e3,))
    )
    empty = models.haze(0.0, np.zeros(3))
    renderer = _make(
      empty, empty, num_samples=6, num_importance=16, contracted=True
    )
    none = base.Variables(params={'coarse': {}, 'fine': {}}, state=())
    samples = renderer.sample_rays(none, rays, _keys(2000))
    _, fine = renderer.render(none.params, rays, samples)
    near, far = (contracted.to_s(rays, x)[0, 0] for x in (rays.near, rays.far))
    s = (contracted.to_s(rays, samples.t) - near) / (far - near)
    edges = np.concatenate([[0], np.arange(0.5, 5) / 5, [1]])
    self.assertTrue(np.all(s >= edges[:-1] - 1e-5))
    self.assertTrue(np.all(s <= edges[1:] + 1e-5))
    np.testing.assert_allclose(
      s.mean(0), (edges[1:] + edges[:-1]) / 2, atol=0.01
    )
    # Bins lie between the midpoints of the samples.
    fine_s = (contracted.to_s(rays, fine.history.fine_t) - near) / (far - near)
    middle = (s[:, 1:] + s[:, :-1]) / 2
    bins = np.sum(fine_s[:, :, None] > middle[:, None], axis=-1)
    counts = np.stack([np.sum(bins == i) for i in range(1, 5)])
    np.testing.assert_allclose(counts / counts.sum(), 0.25, atol=0.01)
    self.assertTrue(np.all(np.diff(fine.history.t) >= 0))

  def test_gradients_are_finite_to_the_horizon(self):
    rays = contracted.rays(8, far=(1e6,))
    field = contracted.field()
    renderer = _make(
      field, field, contracted=True, infinite_end=True, density_activation='exp'
    )
    variables = _variables(renderer)
    samples = renderer.sample_rays(variables, rays, _keys())

    @jax.jit
    @jax.value_and_grad
    def loss(params):
      coarse, fine = renderer.render(params, rays, samples)
      return jnp.sum(coarse.outputs.depth + fine.outputs.depth) + jnp.sum(
        volume.distortion(fine.history)
      )

    chex.assert_tree_all_finite(loss(variables.params))


class HierarchicalTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_a_wall_is_rendered_where_it_is(self):
    renderer = _make(_wall(), _wall(z=0.4))
    variables = _variables(renderer)
    train = functools.partial(_train, renderer)
    for coarse, fine in (
      self.variant(renderer.render_eval)(variables, _rays()),
      self.variant(train)(variables, _keys(), _rays()),
    ):
      # Neighbours in strata of 4 / 31 are at most twice that apart.
      coarse, fine = coarse.outputs, fine.outputs
      np.testing.assert_allclose(coarse.depth, np.full(8, 4.0), atol=8 / 31)
      np.testing.assert_allclose(fine.depth, np.full(8, 3.6), atol=0.15)
      np.testing.assert_allclose(fine.opacity, np.ones(8), atol=1e-4)
      x = np.linspace(0.0, 1.0, 8)
      np.testing.assert_allclose(fine.rgb[:, 0], x, atol=1e-3)
      np.testing.assert_allclose(fine.rgb[:, 1], 1 - x, atol=1e-3)

  def test_fine_samples_gather_at_the_wall(self):
    renderer, rays = _make(_wall(), _wall()), _rays()
    variables = _variables(renderer)
    _, fine = renderer.render(variables.params, rays, _even(renderer, rays))
    chex.assert_shape(fine.history.t, (8, 96))
    chex.assert_shape(fine.history.fine_t, (8, 64))
    self.assertTrue(bool(jnp.all(jnp.diff(fine.history.t) >= 0)))
    near_wall = jnp.mean(jnp.abs(fine.history.t - 4.0) < 0.2)
    self.assertGreater(float(near_wall), 0.6)

  def test_no_gradient_flows_through_the_samples(self):
    renderer, rays = _make(_wall(), _wall()), _rays()

    def total(params):
      renderings = renderer.render(params, rays, _even(renderer, rays))
      return renderings[1].outputs.rgb.sum()

    grad = jax.grad(total)(_variables(renderer).params)
    self.assertEqual(float(grad['coarse']['mlp']['bias']), 0.0)
    self.assertNotEqual(float(grad['fine']['mlp']['bias']), 0.0)

  def test_randomness_follows_the_keys(self):
    renderer = _make(_wall(), _wall(), raw_noise_std=1.0)
    variables, rays = _variables(renderer), _rays()
    train = jax.jit(functools.partial(_train, renderer))
    one = train(variables, _keys(), rays)
    chex.assert_trees_all_equal(one, train(variables, _keys(), rays))
    other = train(variables, _keys(seed=1), rays)
    moved = jnp.abs(one[0].history.t - other[0].history.t)
    self.assertGreater(float(jnp.max(moved)), 0.01)
    # A ray renders alone as it does among others.
    third = jax.tree.map(lambda x: x[3:4], (_keys(), rays))
    alone = train(variables, *third)
    chex.assert_trees_all_close(
      alone, jax.tree.map(lambda x: x[3:4], one), atol=1e-5
    )

  def test_perturb_off_is_even(self):
    renderer = _make(_wall(), _wall(), perturb=False)
    variables, rays = _variables(renderer), _rays()
    trained = _train(renderer, variables, _keys(), rays)
    evaluated = renderer.render_eval(variables, rays)
    for one, other in zip(trained, evaluated, strict=True):
      chex.assert_trees_all_equal(one.outputs, other.outputs)

  def test_importance_samples_are_independent_of_the_strata(self):
    even = hierarchical.without_noise(
      jnp.tile(jnp.arange(6.0)[None], (2000, 1)), 6
    )
    random = hierarchical.add_noise(
      _keys(2000), even, perturb=True, raw_noise_std=0.0
    )
    # Of 2,000 pairs, within 5 standard errors.
    for i in range(6):
      correlation = np.corrcoef(random.t[:, i], random.u[:, i])[0, 1]
      self.assertLess(abs(correlation), 5 / np.sqrt(2000))

  def test_noise_has_the_standard_deviation(self):
    even = hierarchical.without_noise(jnp.ones((500, 4)), 6)
    for std in (0.5, 2.0):
      noisy = hierarchical.add_noise(
        _keys(500), even, perturb=False, raw_noise_std=std
      )
      for noise, size in ((noisy.coarse_noise, 2000), (noisy.fine_noise, 5000)):
        self.assertEqual(noise.size, size)
        # Within four standard errors.
        error = 4 * std / np.sqrt(size)
        np.testing.assert_allclose(jnp.mean(noise), 0.0, atol=error)
        np.testing.assert_allclose(jnp.std(noise), std, atol=error)

  def test_noise_reaches_each_network(self):
    """Empty space with noise of 1 has the density of a rectified normal."""

    def nothing(params, points, viewdirs):
      del params, viewdirs
      return jnp.zeros(points.shape[:-1]), jnp.ones(points.shape)

    empty = hk.Transformed(lambda *_: {}, nothing)
    renderer = _make(
      empty,
      empty,
      raw_noise_std=1.0,
      perturb=False,
      background=backgrounds.BLACK,
    )
    none = base.Variables(params={'coarse': {}, 'fine': {}}, state=())
    train = jax.jit(functools.partial(_train, renderer))
    for rendering in train(none, _keys(2000), _rays(2000)):
      # Mean of max(0, normal) is 0.4 over a length of 4; the transmittance is
      # exp(-4 * 0.4) on the average, and more by half the variance.
      t = rendering.history.t
      steps = jnp.diff(t, append=jnp.full((2000, 1), 6.0))
      variance = jnp.sum(jnp.square(steps), -1) * 0.341
      expected = 1 - jnp.mean(jnp.exp(-4 * 0.3989 + variance / 2))
      opacity = rendering.outputs.opacity
      np.testing.assert_allclose(opacity.mean(), expected, atol=0.02)
    evaluated, _ = renderer.render_eval(none, _rays())
    np.testing.assert_array_equal(evaluated.outputs.opacity, 0.0)

  def test_one_network(self):
    renderer = _make(_wall())
    variables = _variables(renderer)
    self.assertEqual(set(variables.params), {'coarse'})
    self.assertLen(renderer.render_eval(variables, _rays()), 1)

  @parameterized.parameters((False, 32), (True, 32 + 32 + 64))
  def test_counts_the_samples_of_all_networks(self, has_fine, expected):
    renderer = _make(_wall(), _wall() if has_fine else None)
    samples = renderer.sample_rays(_variables(renderer), _rays(), _keys())
    np.testing.assert_array_equal(samples.num_samples, expected)
    kept = samples.keep(jnp.arange(8) < 3).num_samples
    np.testing.assert_array_equal(kept, [expected] * 3 + [0] * 5)

  def test_lindisp_spaces_samples_in_disparity(self):
    renderer = _make(lindisp=True, num_samples=5, perturb=False)
    samples = renderer.sample_rays(_variables(renderer), _rays(1), _keys(1))
    expected = [[2.0, 2.4, 3.0, 4.0, 6.0]]
    np.testing.assert_allclose(samples.t, expected, rtol=1e-6)

  @parameterized.parameters('relu', 'softplus')
  def test_density_activation(self, name):
    renderer = _make(_wall(sharpness=1.0), density_activation=name)
    (rendering,) = renderer.render_eval(_variables(renderer), _rays(1))
    activation = volume.DENSITY_ACTIVATIONS[name]
    z = 4.0 - np.linspace(2.0, 6.0, 32)
    steps = np.append(np.full(31, 4 / 31), 0.0)
    expected = 1 - np.exp(-np.sum(activation(-z) * steps))
    np.testing.assert_allclose(rendering.outputs.opacity, [expected], rtol=1e-4)

  def test_an_infinite_end_is_opaque(self):
    far_wall = _wall(z=-1.9)  # Begins just before the far bound at z = -2.
    for infinite_end in (True, False):
      renderer = _make(far_wall, infinite_end=infinite_end)
      (rendering,) = renderer.render_eval(_variables(renderer), _rays())
      if infinite_end:
        np.testing.assert_allclose(rendering.outputs.opacity, np.ones(8))
      else:
        np.testing.assert_array_less(rendering.outputs.opacity, 0.1)

  @parameterized.parameters(False, True)
  def test_rays_of_no_length_are_background_with_finite_gradients(
    self, infinite
  ):
    # At near the fields are dense.
    renderer = _make(_wall(z=9.0), _wall(z=9.0), infinite_end=infinite)
    rays = _rays()._replace(far=_rays().near)
    variables = _variables(renderer)

    def total(params):
      renderings = _train(
        renderer, variables._replace(params=params), _keys(), rays
      )
      outputs = [x.outputs for x in renderings]
      return sum(x.rgb.sum() + x.depth.sum() for x in outputs), outputs

    grads, outputs = jax.grad(total, has_aux=True)(variables.params)
    np.testing.assert_array_equal(outputs[1].rgb, 1.0)
    chex.assert_tree_all_finite((grads, outputs))

  def test_weight_near_the_bounds_is_a_diagnostic(self):
    renderer = _make(_wall(z=9.0, sharpness=1e3))  # Opaque from near on.
    (rendering,) = renderer.render_eval(_variables(renderer), _rays())
    np.testing.assert_allclose(
      rendering.boundary_weight, [[1.0, 0.0]] * 8, atol=1e-4
    )

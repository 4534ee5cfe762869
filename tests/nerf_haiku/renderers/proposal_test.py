import functools

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import backgrounds, cameras, volume
from nerf_haiku.renderers import base, proposal
from tests.support import contracted, models


def _rays(count=8):
  """Rays along -z from z = 4, spread over [-1, 1] in x."""
  x = jnp.linspace(-1.0, 1.0, count)
  origins = jnp.stack([x, jnp.zeros(count), jnp.full(count, 4.0)], -1)
  directions = jnp.tile(jnp.array([0.0, 0.0, -1.0]), (count, 1))
  near, far = jnp.full((count, 1), 2.0), jnp.full((count, 1), 6.0)
  return cameras.Rays(origins, directions, directions, near, far)


def _slab(z=0.0, thickness=0.5, density=30.0):
  """A field that is dense behind a plane, colored by x; one parameter."""

  def apply(params, points, viewdirs):
    del viewdirs
    depth = z - points[..., 2]
    inside = (depth > 0) & (depth < thickness)
    x = points[..., :1] / 2 + 0.5
    scaled = jnp.where(inside, density, 0.0) * params['slab']['scale']
    return scaled, jnp.concatenate([x, 1 - x, x], -1)

  return hk.Transformed(lambda *_: {'slab': {'scale': jnp.ones(())}}, apply)


def _make(field=None, proposals=None, **changes):
  settings = {
    'num_samples': (40, 20),
    'density_activation': 'relu',
    'background': backgrounds.WHITE,
  } | changes
  proposals = [field or _slab()] if proposals is None else proposals
  return proposal.make_proposal(field or _slab(), proposals, **settings)


def _keys(count=8, seed=0):
  return jax.random.split(jax.random.key(seed), count)


def _train(renderer, variables, keys, rays):
  """Renders as a training step does."""
  samples = renderer.sample_rays(variables, rays, keys)
  (rendering,) = renderer.render(variables.params, rays, samples)
  return rendering


def _edges(history):
  return np.append(history.t, history.t[:, -1:] + history.width[:, -1:], -1)


class EvenTest(chex.TestCase):
  """A proposal of one density everywhere that is thin: even intervals."""

  def test_equals_plain_compositing(self):
    haze = models.haze(1e-6, np.zeros(3))
    field = contracted.field()
    renderer = _make(field, [haze], num_samples=(40, 20), perturb=False)
    params = {'proposal_0': {}, 'field': field.init(None, None, None)}
    rays = _rays()
    (found,) = jax.jit(renderer.render_eval)(base.Variables(params, ()), rays)
    edges = 2 + 4 * np.linspace(0, 1, 21)
    middle = jnp.asarray((edges[1:] + edges[:-1]) / 2, jnp.float32)[None]
    points = (
      rays.origins[:, None] + middle[..., None] * rays.directions[:, None]
    )
    density, rgb = field.apply(params['field'], points, rays.viewdirs[:, None])
    transmittance = np.exp(-0.2 * np.cumsum(np.float64(density), axis=-1))
    before = np.append(np.ones((8, 1)), transmittance, -1)
    weights = -np.diff(before, axis=-1)
    rgb = np.sum(weights[..., None] * rgb, axis=1) + transmittance[:, -1:]
    np.testing.assert_allclose(found.outputs.rgb, rgb, atol=1e-5)
    np.testing.assert_allclose(
      found.outputs.opacity, weights.sum(-1), atol=1e-5
    )
    depth = np.sum(weights * middle, -1)
    np.testing.assert_allclose(found.outputs.depth, depth, atol=1e-5)
    disparity = weights.sum(-1) / depth
    np.testing.assert_allclose(found.outputs.disparity, disparity, atol=1e-5)

  def test_equals_plain_compositing_in_contracted_space(self):
    haze = models.haze(0.0, np.zeros(3))
    field = contracted.field()
    renderer = _make(
      field, [haze], num_samples=(9, 20), perturb=False, contracted=True
    )
    params = {'proposal_0': {}, 'field': field.init(None, None, None)}
    rays = contracted.rays(far=(3.0, 50.0))
    rendering = _train(renderer, base.Variables(params, ()), _keys(30), rays)
    near, far = (contracted.to_s(rays, x) for x in (rays.near, rays.far))
    s = near + (far - near) * np.linspace(0, 1, 21)
    np.testing.assert_allclose(
      _edges(rendering.history), contracted.to_t(rays, s), rtol=1e-4, atol=1e-5
    )
    # Points are in the middle of s.
    middle = contracted.to_t(rays, (s[:, 1:] + s[:, :-1]) / 2)
    origins, directions = (np.float64(x)[:, None] for x in rays[:2])
    points = origins + middle[..., None] * directions
    density, rgb = field.apply(
      params['field'], jnp.float32(points), rays.viewdirs[:, None]
    )
    # Densities are those of contracted space.
    density = np.float64(density) / np.maximum(np.sum(points**2, -1), 1)
    length = np.linalg.norm(directions, axis=-1)
    steps = np.diff(contracted.to_t(rays, s)) * length
    total = np.cumsum(density * steps, -1)
    weights = -np.diff(np.exp(-np.append(np.zeros((30, 1)), total, -1)))
    rgb = np.sum(weights[..., None] * rgb, 1) + np.exp(-total[:, -1:])
    np.testing.assert_allclose(rendering.outputs.rgb, rgb, atol=1e-5)


class ProposalTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_a_wall_is_rendered_where_it_is(self):
    renderer = _make(_slab(thickness=9.0, density=100.0))
    variables = renderer.init(jax.random.key(0))
    train = functools.partial(_train, renderer)
    for rendering in (
      self.variant(renderer.render_eval)(variables, _rays())[0],
      self.variant(train)(variables, _keys(), _rays()),
    ):
      outputs = rendering.outputs
      np.testing.assert_allclose(outputs.depth, np.full(8, 4.01), atol=0.1)
      np.testing.assert_allclose(outputs.opacity, np.ones(8), atol=1e-3)
      x = np.linspace(0.0, 1.0, 8)
      np.testing.assert_allclose(outputs.rgb[:, 0], x, atol=1e-3)
      np.testing.assert_allclose(outputs.rgb[:, 1], 1 - x, atol=1e-3)

  def test_samples_gather_where_the_proposals_have_their_weight(self):
    """All weight is in the first tenth of the slab's 0.5."""
    renderer = _make(num_samples=(40, 30, 20), proposals=[_slab(), _slab()])
    variables = renderer.init(jax.random.key(0))
    self.assertEqual(
      set(variables.params), {'proposal_0', 'proposal_1', 'field'}
    )
    rendering = _train(renderer, variables, _keys(), _rays())
    first, second = rendering.proposals
    chex.assert_shape(first.t, (8, 40))
    chex.assert_shape(second.t, (8, 30))
    chex.assert_shape(rendering.history.t, (8, 20))
    even, once, twice = (
      np.mean(np.abs(x.t - 4.0) < 0.2)
      for x in (first, second, rendering.history)
    )
    np.testing.assert_allclose(even, 0.1, atol=0.03)
    self.assertGreater(once, 0.7)
    self.assertGreater(twice, 0.8)
    for history in (first, second, rendering.history):
      edges = _edges(history)
      self.assertTrue(np.all(np.diff(edges) >= 0))
      # A histogram covers its ray.
      np.testing.assert_allclose(edges[:, 0], 2.0, atol=1e-6)
      np.testing.assert_allclose(edges[:, -1], 6.0, atol=1e-6)

  def test_each_round_has_its_own_parameters(self):
    """With one of them at 0, that one's weights are 0, and no other's."""
    renderer = _make(num_samples=(9, 8, 7), proposals=[_slab(), _slab()])
    variables = renderer.init(jax.random.key(0))
    for i, name in enumerate(('proposal_0', 'proposal_1', 'field')):
      params = {**variables.params, name: {'slab': {'scale': jnp.zeros(())}}}
      rendering = _train(
        renderer, variables._replace(params=params), _keys(), _rays()
      )
      histories = *rendering.proposals, rendering.history
      opacity = [float(x.weights.sum()) > 0 for x in histories]
      self.assertEqual(opacity, [j != i for j in range(3)])

  def test_intervals_have_equal_shares_of_the_weights(self):
    """Weights 0.1, 0.5 and 0.3, each with a third of 0.1 more."""
    edges = jnp.array([[0.0, 1.0, 3.0, 4.0]])
    weights = jnp.array([[0.1, 0.5, 0.3]])
    u = jnp.linspace(0.0, 1.0, 11)[None]
    found = proposal.next_edges(u, edges, weights)
    cdf = np.cumsum([0, 0.1 + 1 / 30, 0.5 + 1 / 30, 0.3 + 1 / 30])
    np.testing.assert_allclose(
      found, np.interp(u, cdf, edges[0]), rtol=1e-4, atol=1e-6
    )

  def test_edges_are_uniform_in_their_strata(self):
    renderer = _make(num_samples=(4, 5))
    variables = renderer.init(jax.random.key(0))
    samples = renderer.sample_rays(variables, _rays(4000), _keys(4000))
    for u, num in zip(samples.u, (4, 5), strict=True):
      chex.assert_shape(u, (4000, num + 1))
      u = np.asarray(u)
      np.testing.assert_array_equal(u[:, 0], 0.0)
      np.testing.assert_array_equal(u[:, -1], 1.0)
      offset = num * u[:, 1:-1] - np.arange(1, num)
      self.assertLessEqual(np.max(np.abs(offset)), 0.5 + 1e-5)
      np.testing.assert_allclose(offset.mean(0), 0.0, atol=0.03)
      np.testing.assert_allclose(offset.std(0), 12**-0.5, atol=0.02)
    pairs = np.corrcoef(np.concatenate([x[:, 1:-1] for x in samples.u], 1).T)
    np.testing.assert_allclose(pairs, np.eye(7), atol=0.08)

  def test_colors_have_no_gradient_in_proposals(self):
    renderer = _make(_slab(density=2.0))
    variables = renderer.init(jax.random.key(0))
    samples = renderer.sample_rays(variables, _rays(), _keys())

    def total(params):
      (rendering,) = renderer.render(params, _rays(), samples)
      return rendering.outputs.rgb.sum()

    grads = jax.grad(total)(variables.params)
    self.assertEqual(grads['proposal_0']['slab']['scale'], 0.0)
    self.assertNotEqual(grads['field']['slab']['scale'], 0.0)

  def test_the_interlevel_loss_has_a_gradient_in_proposals_alone(self):
    """A proposal with too little weight is raised."""
    renderer = _make(_slab(density=5.0), [_slab(density=1.0)])
    variables = renderer.init(jax.random.key(0))
    samples = renderer.sample_rays(variables, _rays(), _keys())

    def total(params):
      (rendering,) = renderer.render(params, _rays(), samples)
      (first,) = rendering.proposals
      return volume.interlevel(first, rendering.history).sum()

    grads = jax.grad(total)(variables.params)
    self.assertLess(grads['proposal_0']['slab']['scale'], 0.0)
    self.assertEqual(grads['field']['slab']['scale'], 0.0)

  def test_randomness_follows_the_keys(self):
    renderer = _make(raw_noise_std=1.0)
    variables, rays = renderer.init(jax.random.key(0)), _rays()
    train = jax.jit(functools.partial(_train, renderer))
    one = train(variables, _keys(), rays)
    chex.assert_trees_all_equal(one, train(variables, _keys(), rays))
    other = train(variables, _keys(seed=1), rays)
    for x, y in (
      (one.history.t, other.history.t),
      (one.proposals[0].t, other.proposals[0].t),
    ):
      self.assertGreater(float(jnp.max(jnp.abs(x - y))), 0.01)
    # A ray renders alone as it does among others.
    third = jax.tree.map(lambda x: x[3:4], (_keys(), rays))
    alone = train(variables, *third)
    chex.assert_trees_all_close(
      alone, jax.tree.map(lambda x: x[3:4], one), atol=1e-5
    )

  def test_noise_is_of_the_field_s_densities(self):
    empty = models.haze(0.0, np.zeros(3))
    renderer = _make(
      empty, [empty], num_samples=(3, 9), raw_noise_std=0.5, perturb=False
    )
    none = base.Variables({'proposal_0': {}, 'field': {}}, ())
    samples = renderer.sample_rays(none, _rays(1000), _keys(1000))
    np.testing.assert_allclose(samples.noise.std(), 0.5, atol=0.02)
    (rendering,) = renderer.render(none.params, _rays(1000), samples)
    depth = np.sum(np.maximum(samples.noise, 0), -1) * 4 / 9
    np.testing.assert_allclose(
      rendering.outputs.opacity, 1 - np.exp(-depth), atol=1e-5
    )
    np.testing.assert_array_equal(rendering.proposals[0].weights, 0.0)

  def test_without_perturbation_it_is_the_evaluation(self):
    renderer = _make(perturb=False)
    variables = renderer.init(jax.random.key(0))
    trained = _train(renderer, variables, _keys(), _rays())
    (evaluated,) = renderer.render_eval(variables, _rays())
    chex.assert_trees_all_equal(trained.outputs, evaluated.outputs)
    np.testing.assert_allclose(evaluated.boundary_weight, 0.0, atol=1e-6)

  def test_counts_the_queries_of_all_fields(self):
    renderer = _make()
    samples = renderer.sample_rays(
      renderer.init(jax.random.key(0)), _rays(), _keys()
    )
    np.testing.assert_array_equal(samples.num_samples, 60)
    kept = samples.keep(jnp.arange(8) < 3).num_samples
    np.testing.assert_array_equal(kept, [60] * 3 + [0] * 5)

  def test_gradients_fall_with_the_squared_distance(self):
    """One interval around a t of 4, in a haze."""
    rays = _rays()

    def gradient(radius):
      slab = _slab(z=9.0, thickness=20.0, density=0.1)
      renderer = _make(
        slab, num_samples=(1, 1), perturb=False, gradient_radius=radius
      )
      variables = renderer.init(jax.random.key(0))
      samples = renderer.sample_rays(variables, rays, _keys())

      def loss(params):
        return renderer.render(params, rays, samples)[0].outputs.rgb.sum()

      grads = jax.grad(loss)(variables.params)
      return grads['field']['slab']['scale']

    usual = gradient(0.0)
    self.assertGreater(abs(usual), 0.1)
    for radius, factor in ((3.9, 1.0), (8.0, 0.25), (40.0, 0.01)):
      np.testing.assert_allclose(gradient(radius), factor * usual, rtol=1e-5)

  @parameterized.parameters(False, True)
  def test_rays_of_no_length_are_background_with_finite_gradients(
    self, infinite
  ):
    renderer = _make(_slab(z=9.0, thickness=20.0), infinite_end=infinite)
    rays = _rays()._replace(far=_rays().near)
    variables = renderer.init(jax.random.key(0))

    def total(params):
      rendering = _train(
        renderer, variables._replace(params=params), _keys(), rays
      )
      loss = volume.interlevel(rendering.proposals[0], rendering.history).sum()
      outputs = rendering.outputs
      return outputs.rgb.sum() + outputs.depth.sum() + loss, outputs

    grads, outputs = jax.grad(total, has_aux=True)(variables.params)
    np.testing.assert_array_equal(outputs.rgb, 1.0)
    chex.assert_tree_all_finite((grads, outputs))

  def test_gradients_are_finite_to_the_horizon(self):
    rays = contracted.rays(8, far=(1e6,))
    field = contracted.field()
    renderer = _make(
      field, contracted=True, infinite_end=True, density_activation='exp'
    )
    variables = renderer.init(jax.random.key(0))

    @jax.jit
    @jax.value_and_grad
    def loss(params):
      rendering = _train(
        renderer, variables._replace(params=params), _keys(), rays
      )
      history = rendering.history
      return jnp.sum(
        rendering.outputs.depth
        + volume.distortion(history)
        + volume.interlevel(rendering.proposals[0], history)
      )

    chex.assert_tree_all_finite(loss(variables.params))

  def test_an_infinite_end_is_opaque(self):
    haze = models.haze(0.01, np.zeros(3))
    for infinite_end, expected in ((True, 1.0), (False, 1 - np.exp(-0.04))):
      renderer = _make(haze, infinite_end=infinite_end)
      none = base.Variables({'proposal_0': {}, 'field': {}}, ())
      (rendering,) = renderer.render_eval(none, _rays())
      np.testing.assert_allclose(rendering.outputs.opacity, expected, rtol=1e-4)

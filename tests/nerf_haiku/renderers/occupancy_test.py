import functools

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized

from nerf_haiku import (
  backgrounds,
  camera_paths,
  cameras,
  contraction,
  devices,
  fields,
  occupancy_grid,
  scenes,
  training,
  volume,
)
from nerf_haiku.renderers import occupancy
from tests.support import contracted, models

_BOX = np.array([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]], np.float32)
_STEP = 0.07


def _settings(**changes):
  settings = {
    'box': _BOX,
    'resolution': 8,
    'step_size': _STEP,
    'max_samples': 2048,
    'alpha_threshold': 0.01,
    'ema_decay': 0.5,
    'update_every': 4,
    'warmup_steps': 8,
  } | changes
  return occupancy.Settings(**settings)


def _ball(density=4.0):
  """A ball of radius 0.7, coloured by place and direction; no parameters."""

  def apply(params, points, viewdirs):
    inside = jnp.sum(points**2, axis=-1) < 0.49
    raw = jnp.where(inside, density, 0.0) + params['ball']['bias']
    return raw, jax.nn.sigmoid(3 * points + viewdirs)

  return hk.Transformed(lambda *_: {'ball': {'bias': jnp.zeros(())}}, apply)


def _make(field=None, changes=(), **others):
  settings = {
    'perturb': False,
    'raw_noise_std': 0.0,
    'density_activation': 'relu',
    'infinite_end': False,
    'background': backgrounds.WHITE,
  } | others
  return occupancy.make_occupancy(
    field or _ball(), _settings(**dict(changes)), **settings
  )


def _rays(count=40, seed=0):
  rng = np.random.default_rng(seed)
  origins = rng.normal(size=(count, 3))
  origins *= 3 / np.linalg.norm(origins, axis=-1, keepdims=True)
  directions = rng.uniform(-1, 1, (count, 3)) - origins
  directions *= rng.uniform(0.3, 2, (count, 1))
  viewdirs = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
  near, far = np.zeros((count, 1)), np.full((count, 1), 40.0)
  arrays = origins, directions, viewdirs, near, far
  return cameras.Rays(*(jnp.asarray(x, jnp.float32) for x in arrays))


def _plain(field, rays, *, background=backgrounds.WHITE):
  """The same positions, composited as the paper's are."""
  rays = cameras.clip(rays, _BOX)
  step = _STEP / jnp.linalg.norm(rays.directions, axis=-1, keepdims=True)
  t = rays.near + (jnp.arange(64.0)[None] + 0.5) * step
  t = jnp.minimum(t, rays.far)  # Those behind the ray's end have no length.
  points = rays.origins[:, None] + t[..., None] * rays.directions[:, None]
  params = field.init(None, None, None)
  density, rgb = field.apply(params, points, rays.viewdirs[:, None])
  return volume.composite(
    rgb,
    jnp.maximum(density, 0.0),
    t,
    rays.directions,
    near=rays.near,
    far=rays.far,
    background=background,
  )


def _variables(renderer):
  return jax.jit(renderer.init)(jax.random.key(0))


def _train(renderer, rays, variables=None):
  """Renders as a training step does; returns the samples too."""
  variables = variables or _variables(renderer)
  keys = jax.random.split(jax.random.key(1), len(rays.near))

  @jax.jit
  def render(variables):
    samples = renderer.sample_rays(variables, rays, keys)
    return renderer.render(variables.params, rays, samples)[0], samples

  return render(variables)


def _evaluate(renderer, rays):
  return jax.jit(renderer.render_eval)(_variables(renderer), rays)[0]


class BackgroundTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(backgrounds.BLACK, backgrounds.WHITE, (0.3, 0.4, 0))
  def test_it_is_seen_through_haze(self, *background):
    """Of density 0.5 from the first position to the end, all of one color."""
    color = np.array([0.2, 0.9, 0.6], np.float32)
    haze = models.haze(0.5, color)
    renderer, rays = _make(haze, background=background), _rays(8)
    variables = _variables(renderer)
    (rendering,) = self.variant(renderer.render_eval)(variables, rays)
    inside = cameras.clip(rays, _BOX)
    speed = np.linalg.norm(rays.directions, axis=-1, keepdims=True)
    length = np.asarray(inside.far - inside.near) * speed - _STEP / 2
    passed = np.exp(-0.5 * np.maximum(length, 0))
    expected = (1 - passed) * color + passed * np.array([background])
    np.testing.assert_allclose(rendering.outputs.rgb, expected, atol=1e-4)


class RenderingTest(chex.TestCase):
  @parameterized.product(
    density=(0.3, 4.0), background=(backgrounds.WHITE, (0.3, 0.4, 0.5))
  )
  def test_all_cells_occupied_equals_plain_compositing(
    self, density, background
  ):
    field, rays = _ball(density), _rays()
    renderer = _make(field, background=background)
    outputs = _evaluate(renderer, rays).outputs
    expected, history = _plain(field, rays, background=background)
    for name in ('rgb', 'opacity', 'depth', 'disparity'):
      # Rays end at a transmittance of 1e-4, and are that much off.
      atol = 1e-5 if density < 1 else 2e-4
      np.testing.assert_allclose(
        getattr(outputs, name), getattr(expected, name), atol=atol, err_msg=name
      )
    trained, _ = _train(renderer, rays)
    np.testing.assert_allclose(trained.outputs.rgb, outputs.rgb, atol=1e-4)
    np.testing.assert_allclose(trained.outputs.depth, outputs.depth, atol=4e-4)
    self.assertGreater(float(np.ptp(outputs.opacity)), 0.2)
    apart = volume.distortion(trained.history)
    np.testing.assert_allclose(apart, volume.distortion(history), atol=1e-4)
    self.assertGreater(float(np.ptp(apart)), 0.01)

  @parameterized.parameters(51, 300, 2048)
  def test_rounds_of_any_budget_render_the_same(self, max_samples):
    """51 is the smallest budget: the positions of one ray."""
    rays = _rays()
    in_haze = _ball(0.5)._replace(  # With weight at both ends of a ray.
      init=lambda *_: {'ball': {'bias': jnp.asarray(0.2)}}
    )
    expected, history = _plain(in_haze, rays)
    renderer = _make(in_haze, {'max_samples': max_samples})
    rendering = _evaluate(renderer, rays)
    for name in ('rgb', 'opacity', 'depth', 'disparity'):
      np.testing.assert_allclose(
        getattr(rendering.outputs, name),
        getattr(expected, name),
        atol=1e-5,
        err_msg=name,
      )
    np.testing.assert_allclose(
      rendering.boundary_weight, volume.boundary_weight(history), atol=1e-5
    )
    self.assertGreater(float(rendering.boundary_weight[:, 1].max()), 1e-3)

  @parameterized.parameters(False, True)
  def test_evaluation_divides_the_steps_of_training(self, contracted):
    """The mean of a ray through haze whose color is its position."""
    rays = _rays()
    steps = {'contracted': contracted}
    if contracted:
      steps |= {'box': contraction.BOX, 'step_size': 0.05}
    else:
      steps |= {'step_size': _STEP}
    coarse = _make(_ball(0.5), steps | {'render_substeps': 4})
    fine = dict(steps, step_size=steps['step_size'] / 4)
    fine = _make(_ball(0.5), fine)
    expected = _evaluate(fine, rays).outputs
    found = _evaluate(coarse, rays).outputs
    chex.assert_trees_all_close(found, expected, atol=1e-6)
    plain = _evaluate(_make(_ball(0.5), steps), rays).outputs
    self.assertGreater(float(np.abs(plain.depth - expected.depth).max()), 1e-4)

  def test_evaluation_has_more_positions_than_the_budget(self):
    renderer = _make(_ball(0.5), {'max_samples': 51, 'render_substeps': 3})
    usual = _make(_ball(0.5), {'render_substeps': 3})
    rays = _rays()
    chex.assert_trees_all_close(
      _evaluate(renderer, rays), _evaluate(usual, rays), atol=1e-5
    )

  def test_a_ray_ends_where_it_is_opaque(self):
    """In rounds of few samples nothing is queried behind an opaque wall."""

    def wall(params, points, viewdirs):
      # Opaque below x = 0.5; the field is not defined below -0.5.
      x = points[..., 0]
      density = jnp.where(x < 0.5, 1e3, 0.0) * params['ball']['bias']
      density = jnp.where(x < -0.5, jnp.nan, density)
      return density, jnp.ones(points.shape) + 0 * viewdirs

    wall = _ball()._replace(
      init=lambda *_: {'ball': {'bias': jnp.ones(())}}, apply=wall
    )
    num_rays = 8
    forward = jnp.tile(jnp.array([[-1.0, 0.0, 0.0]]), (num_rays, 1))
    y = jnp.linspace(-0.9, 0.9, num_rays)
    rays = cameras.Rays(
      origins=jnp.stack([jnp.full(num_rays, 3.0), y, y], axis=-1),
      directions=forward,
      viewdirs=forward,
      near=jnp.zeros((num_rays, 1)),
      far=jnp.full((num_rays, 1), 40.0),
    )
    renderer = _make(wall, {'max_samples': 64})
    outputs = _evaluate(renderer, rays).outputs
    np.testing.assert_allclose(outputs.opacity, 1.0, atol=1e-4)
    np.testing.assert_allclose(outputs.depth, 2.5, atol=_STEP)

  def test_an_infinite_end_is_opaque(self):
    rays = _rays()
    haze = _ball()._replace(  # Up to the faces of the box.
      apply=lambda p, x, v: (
        jnp.full(x.shape[:-1], 0.3),
        jnp.full(x.shape, 0.5),
      )
    )
    clipped = cameras.clip(rays, _BOX)
    hit = np.asarray(clipped.far > clipped.near)[:, 0]
    length = np.asarray(clipped.far - clipped.near)[:, 0] * np.linalg.norm(
      rays.directions, axis=-1
    )
    outputs = _evaluate(_make(haze, infinite_end=True), rays).outputs
    np.testing.assert_array_less(0.999, outputs.opacity[hit])
    # The first interval begins at the first position, half a step from near.
    expected = 1 - np.exp(-0.3 * np.maximum(length - 0.5 * _STEP, 0.0))
    renderer = _make(haze, infinite_end=False)
    outputs = _evaluate(renderer, rays).outputs
    np.testing.assert_allclose(outputs.opacity, expected, atol=1e-5)
    trained = _train(renderer, rays)[0].outputs
    np.testing.assert_allclose(trained.opacity, expected, atol=1e-5)

  def test_empty_cells_have_no_samples(self):
    rays, renderer = _rays(), _make(_ball(4.0))
    full = _variables(renderer)
    grid = full.state._replace(occupied=jnp.zeros_like(full.state.occupied))
    empty = full._replace(state=grid)
    rendering, samples = _train(renderer, rays, empty)
    np.testing.assert_array_equal(samples.num_samples, 0)
    np.testing.assert_array_equal(rendering.outputs.rgb, 1.0)
    evaluated = renderer.render_eval(empty, rays)[0].outputs
    np.testing.assert_array_equal(evaluated.rgb, 1.0)
    np.testing.assert_array_equal(evaluated.disparity, 0.0)

  def test_samples_that_no_light_reaches_are_left_out(self):
    dense = _ball(1e4)
    rendering, samples = _train(_make(dense), _rays())
    _, more = _train(_make(_ball(1e-3)), _rays())
    self.assertLess(int(samples.num_samples.sum()), int(more.num_samples.sum()))
    expected, _ = _plain(dense, _rays())
    np.testing.assert_allclose(rendering.outputs.rgb, expected.rgb, atol=2e-4)

  def test_weight_near_the_bounds(self):
    """A haze of density 3, by the positions of each ray in a loop."""
    field = _ball()._replace(
      apply=lambda p, x, v: (jnp.full(x.shape[:-1], 3.0), jnp.zeros(x.shape))
    )
    step, rays = 0.01, _rays()
    renderer = _make(field, {'step_size': step})
    found = _evaluate(renderer, rays).boundary_weight
    hit = cameras.clip(rays, _BOX)
    speed = np.linalg.norm(rays.directions, axis=-1)
    length = np.asarray(hit.far - hit.near)[:, 0] * speed
    for ray in np.flatnonzero(length > 0.5):
      at = np.arange(0.5 * step, length[ray], step)
      tau = 3.0 * np.minimum(step, length[ray] - at)
      weights = np.exp(-np.cumsum(tau) + tau) * (1 - np.exp(-tau))
      expected = [
        weights[at < 0.02 * length[ray]].sum(),
        weights[at > 0.98 * length[ray]].sum(),
      ]
      # Rounding may move one sample across a bound.
      np.testing.assert_allclose(found[ray], expected, atol=1.1 * 3.0 * step)
    self.assertGreater(float(found[:, 0].max()), 2 * 3.0 * step)


class ContractedTest(chex.TestCase):
  def _make(self, field=None, changes=(), **others):
    settings = {
      'box': contraction.BOX,
      'contracted': True,
      'step_size': 0.05,
      'max_samples': 4096,
    } | dict(changes)
    return _make(field or contracted.field(), settings, **others)

  def _plain(self, rays):
    """Composites at all positions of the rays."""
    near, far = (contracted.to_s(rays, x) for x in (rays.near, rays.far))
    s = np.minimum(near + (np.arange(81) + 0.5) * 0.05, far)
    t = np.clip(contracted.to_t(rays, s), rays.near, rays.far)
    outputs, history = contracted.composite(contracted.field(), rays, t)
    end = np.concatenate([s[:, 1:], far], axis=-1)
    weights = np.float64(history.weights)
    apart = [
      contracted.distortion(*x)
      for x in zip(weights, s, end, near[:, 0], far[:, 0], strict=True)
    ]
    ends = [
      np.sum(weights * (s < near + 0.02 * (far - near)), axis=-1),
      np.sum(weights * (s > far - 0.02 * (far - near)), axis=-1),
    ]
    return outputs, apart, np.stack(ends, axis=-1)

  @parameterized.parameters(4096, 120)
  def test_all_cells_occupied_equals_plain_compositing(self, max_samples):
    renderer = self._make(changes={'max_samples': max_samples})
    rays = contracted.rays()
    expected, apart, ends = self._plain(rays)
    rendering = _evaluate(renderer, rays)
    names = ['rgb', 'opacity', 'disparity', 'depth']
    for name in names:
      np.testing.assert_allclose(
        getattr(rendering.outputs, name),
        getattr(expected, name),
        atol=1e-5,
        rtol=1e-4 if name == 'depth' else 0,
        err_msg=name,
      )
    np.testing.assert_allclose(rendering.boundary_weight, ends, atol=1e-5)
    self.assertGreater(float(np.ptp(expected.opacity)), 0.2)
    if max_samples == 4096:
      trained, _ = _train(renderer, rays)
      np.testing.assert_allclose(trained.outputs.rgb, expected.rgb, atol=1e-5)
      found = volume.distortion(trained.history)
      np.testing.assert_allclose(found, apart, atol=1e-5)
      self.assertGreater(float(np.ptp(apart)), 0.05)

  def test_gradients_are_finite_to_the_horizon(self):
    rays = contracted.rays(8, far=(1e6,))
    renderer = self._make(density_activation='exp', infinite_end=True)
    variables = _variables(renderer)
    samples = renderer.sample_rays(
      variables, rays, jax.random.split(jax.random.key(0), 8)
    )

    @jax.jit
    @jax.value_and_grad
    def loss(params):
      (rendering,) = renderer.render(params, rays, samples)
      outputs = rendering.outputs
      return jnp.sum(outputs.rgb + outputs.depth[:, None]) + jnp.sum(
        volume.distortion(rendering.history)
      )

    chex.assert_tree_all_finite(loss(variables.params))

  def test_no_ray_has_more_positions(self):
    """Not from 1e4 away, through the origin, to 1e6."""
    step = 0.03
    settings = self._make(changes={'step_size': step}).settings
    rays = cameras.Rays(
      origins=jnp.array([[-1e4, 0.0, 0.0]]),
      directions=jnp.array([[1.0, 0.0, 0.0]]),
      viewdirs=jnp.array([[1.0, 0.0, 0.0]]),
      near=jnp.zeros((1, 1)),
      far=jnp.full((1, 1), 1e6),
    )
    length = np.ptp([contracted.to_s(rays, x) for x in (rays.near, rays.far)])
    self.assertGreaterEqual(settings.num_positions(), length / step)
    self.assertLess(settings.num_positions(), length / step + 3)

  def test_cells_are_measured_at_their_points_before_contraction(self):
    """A shell from 2.5 to 5 away is one from 1.6 to 1.8 in the grid."""

    def shell(params, points, viewdirs):
      del params
      square = jnp.sum(points**2, axis=-1)
      inside = (square > 2.5**2) & (square < 25.0)
      return jnp.where(inside, 9.0, 0.0), jnp.ones(points.shape) + 0 * viewdirs

    renderer = self._make(
      _ball()._replace(apply=shell), {'resolution': 32, 'ema_decay': 0.9}
    )
    variables = _variables(renderer)
    update_state = jax.jit(renderer.update_state)
    for step in (4, 8):
      state = update_state(variables, jax.random.key(3), jnp.asarray(step))
      variables = variables._replace(state=state)
    centers = (np.indices((32,) * 3) + 0.5) / 8 - 2
    radius = np.linalg.norm(centers, axis=0)
    margin = np.sqrt(3) / 16
    occupied = np.asarray(variables.state.occupied)
    surely = np.abs(radius - 1.7) < 0.1 - margin / 2
    self.assertGreater(np.mean(occupied[surely]), 0.9)
    self.assertFalse(np.any(occupied[np.abs(radius - 1.7) > 0.1 + margin]))

  def test_equal_densities_are_equally_opaque_near_and_far(self):
    """A haze of density 0.5 on a ray from the origin, of s from 0 to 1.9."""
    rays = jax.tree.map(lambda x: x[:1], contracted.rays())
    rays = rays._replace(
      origins=jnp.zeros((1, 3)),
      near=jnp.zeros((1, 1)),
      far=10.0 / jnp.linalg.norm(rays.directions, axis=-1, keepdims=True),
    )
    haze = models.haze(0.5, np.zeros(3))
    for step in (0.02, 0.005):
      renderer = self._make(haze, {'step_size': step})
      outputs = renderer.render_eval(_variables(renderer), rays)[0].outputs
      expected = 1 - np.exp(-0.5 * 1.9)
      # An interval has the density of its beginning.
      np.testing.assert_allclose(outputs.opacity, expected, atol=0.8 * step)


class GradientScalingTest(chex.TestCase):
  def test_gradients_fall_with_the_squared_distance(self):
    """One sample, 3 scene units from the camera at a t of 6."""
    rays = cameras.Rays(
      origins=jnp.array([[-3.0, 0.1, 0.1]]),
      directions=jnp.array([[0.5, 0.0, 0.0]]),
      viewdirs=jnp.array([[1.0, 0.0, 0.0]]),
      near=jnp.zeros((1, 1)),
      far=jnp.full((1, 1), 40.0),
    )
    keys = jax.random.split(jax.random.key(0), 1)

    def gradient(radius):
      renderer = _make(_ball(0.3), {'step_size': 2.0}, gradient_radius=radius)
      variables = _variables(renderer)
      samples = renderer.sample_rays(variables, rays, keys)

      def loss(params):
        return jnp.sum(renderer.render(params, rays, samples)[0].outputs.rgb)

      value, gradients = jax.value_and_grad(loss)(variables.params)
      return value, gradients['field']['ball']['bias']

    value, usual = gradient(0.0)
    for radius, factor in ((2.9, 1.0), (6.0, 0.25), (30.0, 0.01)):
      same, scaled = gradient(radius)
      self.assertEqual(same, value)
      np.testing.assert_allclose(scaled, factor * usual, rtol=1e-5)


class BudgetTest(chex.TestCase):
  def test_refuses_a_budget_below_the_positions_of_one_ray(self):
    with self.assertRaisesRegex(ValueError, 'at least 51, .* got 10'):
      _make(_ball(), {'max_samples': 10})

  def test_refuses_to_render_past_the_budget(self):
    renderer, rays = _make(_ball(0.5), {'max_samples': 100}), _rays()
    keys = jax.random.split(jax.random.key(1), len(rays.near))
    variables = _variables(renderer)
    samples = renderer.sample_rays(variables, rays, keys)
    total = int(samples.num_samples.sum())
    self.assertGreater(total, 100)
    with self.assertRaisesRegex(ValueError, f'max_samples=100 .* got {total}'):
      renderer.render(variables.params, rays, samples)
    # Compiled, the rays past it are NaN, and those before are right.
    (rendering,) = jax.jit(renderer.render)(variables.params, rays, samples)
    fits = np.cumsum(samples.num_samples) <= 100
    self.assertBetween(fits.sum(), 1, len(fits) - 1)
    self.assertTrue(np.all(np.isnan(rendering.outputs.rgb[~fits])))
    expected, _ = _plain(_ball(0.5), rays)
    np.testing.assert_allclose(
      rendering.outputs.rgb[fits], expected.rgb[fits], atol=1e-4
    )
    # Without samples on the others all of them fit.
    kept = samples.keep(jnp.asarray(fits))
    (rendering,) = renderer.render(variables.params, rays, kept)
    chex.assert_tree_all_finite(rendering.outputs)


class RandomTest(chex.TestCase):
  @parameterized.parameters({'perturb': True}, {'raw_noise_std': 1.0})
  def test_shifts_and_noise_follow_the_keys(self, **settings):
    renderer = _make(_ball(1.0), **settings)
    rays, variables = _rays(), _variables(renderer)

    @jax.jit
    def render(keys, rays):
      samples = renderer.sample_rays(variables, rays, keys)
      return renderer.render(variables.params, rays, samples)[0].outputs.rgb

    def keys(seed):
      return jax.random.split(jax.random.key(seed), 40)

    one = render(keys(0), rays)
    np.testing.assert_array_equal(one, render(keys(0), rays))
    other = render(keys(1), rays)
    self.assertGreater(float(jnp.max(jnp.abs(one - other))), 1e-3)
    # A ray renders alone as it does among others.
    alone = render(*jax.tree.map(lambda x: x[7:8], (keys(0), rays)))
    np.testing.assert_allclose(alone, one[7:8], atol=1e-5)

  def test_each_sample_has_its_own_noise(self):
    """In empty space half of it is density: some on any ray of 20 samples."""
    renderer, rays = _make(_ball(0.0), raw_noise_std=1.0), _rays()
    rendering, samples = _train(renderer, rays)
    some = np.asarray(samples.num_samples) >= 20
    self.assertGreater(some.sum(), 10)
    np.testing.assert_array_less(0.01, rendering.outputs.opacity[some])

  def test_shifts_are_even_over_a_step(self):
    """Opacity of a ball, averaged over shifts, is that of fine steps."""
    rays = jax.tree.map(lambda x: jnp.repeat(x[:1], 3000, axis=0), _rays())
    renderer = _make(_ball(0.5), {'max_samples': 2**18}, perturb=True)
    rendering, _ = _train(renderer, rays)
    fine = _make(_ball(0.5), {'step_size': 0.001, 'max_samples': 2**14})
    expected = _evaluate(fine, _rays()).outputs.opacity[0]
    np.testing.assert_allclose(
      rendering.outputs.opacity.mean(), expected, atol=3e-3
    )


class UpdateStateTest(chex.TestCase):
  def _after(self, steps, field=None):
    renderer = _make(field or _ball(4.0))
    variables = _variables(renderer)
    update_state = jax.jit(renderer.update_state)
    for step in range(4, steps + 1, renderer.update_every):
      state = update_state(
        variables, jax.random.key(3), jnp.asarray(step, jnp.int32)
      )
      variables = variables._replace(state=state)
    return variables.state

  def test_cells_within_and_without_the_ball(self):
    grid = self._after(40)
    place = (np.indices((8, 8, 8)) + 0.5) / 4 - 1
    radius = np.linalg.norm(place, axis=0)  # Of cells' centers.
    margin = np.sqrt(3) / 8
    occupied = np.asarray(grid.occupied)
    self.assertTrue(np.all(occupied[radius < 0.7 - margin]))
    self.assertFalse(np.any(occupied[radius > 0.7 + margin]))

  def test_a_step_through_an_occupied_cell_has_some_opacity(self):
    """Of at least 0.01, which is a density of 0.14 with steps of 0.07."""

    def slabs(params, points, viewdirs):
      del params
      z = points[..., 2]
      density = jnp.where(z > 0, 9.0, jnp.where(z < -0.5, 0.13, 0.15))
      return density, jnp.ones(points.shape) + 0 * viewdirs

    occupied = self._after(8, _ball()._replace(apply=slabs)).occupied
    np.testing.assert_array_equal(occupied[2:], True)
    np.testing.assert_array_equal(occupied[:2], False)

  def test_each_update_measures_other_points(self):
    def place(params, points, viewdirs):
      del params
      return 2.0 + points[..., 0], jnp.ones(points.shape) + 0 * viewdirs

    renderer = _make(_ball()._replace(apply=place))
    variables, key = _variables(renderer), jax.random.key(0)
    first, second = (
      renderer.update_state(variables, key, jnp.asarray(step)).density
      for step in (4, 8)
    )
    # Points are random in cells of 0.25, so that densities differ by 0.08 on
    # the average.
    self.assertGreater(float(jnp.mean(jnp.abs(first - second))), 0.05)
    center = (jnp.arange(8) / 4 + 1.125)[None, None]
    chex.assert_trees_all_close(first, center + 0 * first, atol=0.1251)

  def test_after_the_warmup_a_quarter_is_measured(self):
    """A field that has vanished: old densities decay, part by part."""
    renderer = _make(_ball(0.0), {'warmup_steps': 0})
    grid = occupancy_grid.Grid(
      density=jnp.full((8, 8, 8), 8.0), occupied=jnp.ones((8, 8, 8), bool)
    )
    variables = _variables(renderer)._replace(state=grid)
    num_decayed = []
    for step in (4, 8, 12, 16):
      grid = renderer.update_state(
        variables, jax.random.key(0), jnp.asarray(step)
      )
      variables = variables._replace(state=grid)
      num_decayed.append(int(jnp.sum(grid.density == 4.0)))
    self.assertEqual(num_decayed, [128, 256, 384, 512])


@functools.cache
def _problem(field, max_samples=256):
  """A renderer with all that is random, and a function to cast rays."""
  made = {
    'mlp': lambda: fields.make_mlp(
      encode_position=jnp.sin,
      encode_direction=lambda x: x,
      net_depth=2,
      net_width=16,
      skips=(),
      use_viewdirs=True,
    ),
    'hash': lambda: fields.make_hash_grid(
      box=_BOX,
      num_levels=3,
      hashmap_size=256,
      base_resolution=4,
      max_resolution=16,
      density_width=16,
      geo_feat_dim=3,
      color_width=16,
      color_depth=1,
      use_viewdirs=True,
    ),
  }[field]()
  renderer = _make(
    made,
    {'max_samples': max_samples, 'update_every': 2},
    perturb=True,
    raw_noise_std=0.3,
    density_activation='softplus',
  )
  views = cameras.pinhole(
    camera_paths.circle(5), np.full((5, 2), 16), np.full(5, 20.0)
  )
  cast = functools.partial(
    cameras.cast, views, near=2.0, far=6.0, box=None, pixel_center=True
  )
  return renderer, cast


def _batch(step, rays=24):
  rng = np.random.default_rng(step)
  return scenes.Batch(
    camera=rng.integers(0, 5, rays).astype(np.int32),
    pixel=rng.integers(4, 12, (rays, 2)).astype(np.int32),
    rgb=rng.uniform(size=(rays, 3)).astype(np.float32),
    alpha=rng.uniform(size=rays).astype(np.float32),
  )


@functools.cache
def _run(num_devices, field, max_samples, microbatch=0, warmup=0, steps=20):
  """Parameters after a step; losses, samples and pieces of all; the grids."""
  renderer, cast = _problem(field, max_samples)
  optimizer = optax.adam(1e-2)
  update = training.make_update(
    renderer,
    optimizer,
    cast,
    microbatch=microbatch,
    batch_warmup_steps=warmup,
    random_background=True,
    background=backgrounds.WHITE,
  )
  state = training.init_state(renderer, optimizer, jax.random.key(0))
  state = devices.replicate(state, num_devices)
  first, logged = None, []
  for step in range(steps):
    batch = devices.shard(_batch(step), num_devices)
    state, scalars = update(state, batch, jax.random.key(3))
    logged.append([float(scalars[x]) for x in ('loss', 'samples', 'pieces')])
    first = first or devices.unreplicate(state.params)
  grids = [np.asarray(x) for x in state.renderer_state.occupied]
  return first, np.array(logged), grids


class UpdateTest(chex.TestCase):
  @pytest.mark.cpu
  @parameterized.parameters(
    (4, 'mlp', 64, 0), (2, 'hash', 256, 0), (1, 'hash', 51, 5)
  )
  def test_devices_budgets_and_microbatches_change_nothing(
    self, num_devices, field, max_samples, microbatch
  ):
    """No sample is lost where they are more than the budget."""
    expected, one, grid = _run(1, field, 4096)
    self.assertEqual(one[:, 2].max(), 1)
    params, many, grids = _run(num_devices, field, max_samples, microbatch)
    self.assertGreater(many[:, 2].max(), 1)  # An overflow is reported.
    chex.assert_trees_all_close(params, expected, atol=1e-4)
    np.testing.assert_allclose(many[:, 0], one[:, 0], rtol=1e-3)
    np.testing.assert_allclose(many[0, 1], one[0, 1], rtol=1e-5)
    for other in grids:
      np.testing.assert_array_equal(other, grids[0])
    self.assertGreater(np.mean(grids[0] == grid[0]), 0.99)

  @pytest.mark.cpu
  def test_a_growing_batch_takes_few_rays_at_first(self):
    """Of 24 rays 2 at a sixteenth, which fit any budget at once."""
    _, whole, _ = _run(1, 'hash', 51, 5)
    _, growing, _ = _run(1, 'hash', 51, 5, 10, steps=3)
    self.assertGreater(whole[0, 2], 5)
    self.assertLessEqual(growing[0, 2], 5 + 1)
    self.assertLess(growing[0, 2], whole[0, 2])

  def test_the_gradient_is_that_of_finite_differences(self):
    renderer, cast = _problem('hash', 100)
    variables = jax.jit(renderer.init)(jax.random.key(0))
    keys, batch = jax.random.split(jax.random.key(2), 24), _batch(0)
    gradient = jax.jit(training.make_gradient(renderer, cast, microbatch=0))
    grads, scalars = gradient(variables, keys, batch)
    self.assertGreater(int(scalars['pieces']), 1)
    direction = jax.tree.map(jnp.sign, grads)

    def loss(x):
      params = jax.tree.map(lambda p, d: p + x * d, variables.params, direction)
      moved = variables._replace(params=params)
      return gradient(moved, keys, batch)[1]['loss']

    slope = (loss(1e-3) - loss(-1e-3)) / 2e-3
    expected = sum(jnp.abs(x).sum() for x in jax.tree.leaves(grads))
    np.testing.assert_allclose(slope, expected, rtol=2e-2)


class SettingsTest(chex.TestCase):
  def test_positions_reach_through_the_box(self):
    diagonal = np.sqrt(12)
    self.assertGreaterEqual(_settings().num_positions() * _STEP, diagonal)
    self.assertLess((_settings().num_positions() - 2) * _STEP, diagonal)

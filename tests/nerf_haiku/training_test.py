import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized

from nerf_haiku import (
  backgrounds,
  camera_paths,
  camera_refinement,
  cameras,
  devices,
  fields,
  scenes,
  training,
  volume,
)
from nerf_haiku.renderers import base, hierarchical, proposal
from tests.support import models, references

_RAYS = 24


def _problem(**changes):
  """A small renderer with all that is random, a batch and a way to cast."""
  field = fields.make_mlp(
    encode_position=lambda x: x,
    encode_direction=lambda x: x,
    net_depth=2,
    net_width=16,
    skips=(0,),
    use_viewdirs=True,
  )
  settings = {
    'num_samples': 8,
    'num_importance': 8,
    'perturb': True,
    'lindisp': False,
    'raw_noise_std': 0.5,
    'density_activation': 'softplus',
    'infinite_end': False,
    'background': backgrounds.WHITE,
  } | changes
  renderer = hierarchical.make_hierarchical(
    field, field if settings['num_importance'] else None, **settings
  )
  return renderer, functools.partial(_cast, _views())


def _views():
  return cameras.pinhole(
    camera_paths.circle(5), np.full((5, 2), 16), np.full(5, 20.0)
  )


def _cast(views, camera, pixel):
  return cameras.cast(
    views, camera, pixel, near=2.0, far=6.0, box=None, pixel_center=True
  )


def _proposal_problem():
  """The same with a renderer whose samples a proposal places."""
  field = fields.make_mlp(
    encode_position=lambda x: x,
    encode_direction=lambda x: x,
    net_depth=1,
    net_width=8,
    skips=(),
    use_viewdirs=False,
  )
  renderer = proposal.make_proposal(
    field, [field], num_samples=(6, 8), density_activation='softplus'
  )
  return renderer, _problem()[1]


def _batch(step=0, rays=_RAYS):
  rng = np.random.default_rng(step)
  return scenes.Batch(
    camera=rng.integers(0, 5, rays).astype(np.int32),
    pixel=rng.integers(0, 16, (rays, 2)).astype(np.int32),
    rgb=rng.uniform(size=(rays, 3)).astype(np.float32),
  )


def _keys(rays=_RAYS):
  return jax.random.split(jax.random.key(7), rays)


def _assert_close_gradients(found, expected, tolerance):
  """Asserts that arrays differ by a part of their largest entries."""
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(
      x, y, atol=tolerance * max(float(jnp.abs(y).max()), 1e-12)
    ),
    found,
    expected,
  )


def _variables(renderer):
  return jax.jit(renderer.init)(jax.random.key(0))


def _render(renderer, cast, variables, batch):
  """Renders a batch's rays as a training step does."""

  @jax.jit
  def render(variables):
    rays = cast(batch.camera, batch.pixel)
    samples = renderer.sample_rays(variables, rays, _keys())
    return renderer.render(variables.params, rays, samples)

  return render(variables)


@functools.cache
def _run(num_devices, microbatch, steps, optimizer=None):
  """Parameters after the first step, and the losses of all steps."""
  renderer, cast = _problem()
  optimizer = optimizer or optax.adam(1e-3)
  state = training.init_state(renderer, optimizer, jax.random.key(0))
  update = training.make_update(
    renderer, optimizer, cast, microbatch=microbatch
  )
  state = devices.replicate(state, num_devices)
  losses, first = [], None
  for step in range(steps):
    batch = devices.shard(_batch(step), num_devices)
    state, scalars = update(state, batch, jax.random.key(3))
    losses.append(float(scalars['loss']))
    first = first or devices.unreplicate(state.params)
  return first, losses


@functools.cache
def _whole_gradient():
  renderer, cast = _problem()
  gradient = training.make_gradient(renderer, cast, microbatch=0)
  return jax.jit(gradient)(_variables(renderer), _keys(), _batch())


class RandomTest(chex.TestCase):
  def test_each_step_draws_other_numbers(self):
    """For the same batch and the same parameters again."""
    renderer, cast = _problem()
    frozen = optax.set_to_zero()
    state = training.init_state(renderer, frozen, jax.random.key(0))
    update = training.make_update(renderer, frozen, cast)
    state, batch = devices.replicate(state, 1), devices.shard(_batch(), 1)
    losses = []
    for _ in range(2):
      state, scalars = update(state, batch, jax.random.key(3))
      losses.append(float(scalars['loss']))
    self.assertGreater(abs(losses[0] - losses[1]), 1e-5)


class GradientTest(chex.TestCase):
  def test_matches_the_reference_for_20_steps(self):
    reference = references.load('model')
    params = models.params(reference)
    optimizer = optax.adam(
      training.learning_rate_schedule(
        float(reference['lr']),
        decay_factor=0.1,
        decay_steps=int(reference['lrate_decay']) * 1000,
        warmup_steps=0,
      )
    )

    @jax.jit
    def update(params, opt_state, rays, rgb):
      gradient = training.make_gradient(
        models.renderer(),
        lambda camera, pixel: jax.tree.map(lambda x: x[camera], rays),
        microbatch=24,  # Does not divide 64.
      )
      batch = scenes.Batch(
        camera=jnp.arange(64), pixel=jnp.zeros((64, 2), int), rgb=rgb
      )
      variables = base.Variables(params=params, state=())
      grads, scalars = gradient(variables, _keys(64), batch)
      updates, opt_state = optimizer.update(grads, opt_state)
      return optax.apply_updates(params, updates), opt_state, grads, scalars

    opt_state = optimizer.init(params)
    for step, expected in enumerate(reference['losses']):
      params, opt_state, grads, scalars = update(
        params,
        opt_state,
        models.rays(reference, step),
        jnp.asarray(reference['batch_rgb'][step]),
      )
      losses = [scalars[x] for x in ('loss', 'mse_coarse', 'mse')]
      np.testing.assert_allclose(
        losses, expected, rtol=5e-4, err_msg=f'step {step}'
      )
      if step == 0:
        self._check_gradients(grads, reference)

  def _check_gradients(self, grads, reference):
    for network, ours, theirs in (
      ('coarse', 'layer_0', 'trunk0'),
      ('fine', 'density', 'sigma'),
    ):
      expected = reference[f'grad0_{network}_{theirs}_w']
      np.testing.assert_allclose(
        grads[network][f'mlp/{ours}']['w'],
        expected,
        atol=1e-2 * np.abs(expected).max(),
      )

  @parameterized.parameters(1, 5, 8, 24, 100)
  def test_microbatches_change_nothing(self, microbatch):
    renderer, cast = _problem()
    gradient = training.make_gradient(renderer, cast, microbatch=microbatch)
    grads, other = jax.jit(gradient)(_variables(renderer), _keys(), _batch())
    expected, scalars = _whole_gradient()
    scalars = scalars | {'pieces': -(-_RAYS // min(microbatch, _RAYS))}
    chex.assert_trees_all_close(other, scalars, rtol=1e-5)
    _assert_close_gradients(grads, expected, 1e-5)

  def test_matches_finite_differences(self):
    renderer, cast = _problem(raw_noise_std=0.0, num_importance=0)
    variables, batch = _variables(renderer), _batch()
    gradient = training.make_gradient(renderer, cast, microbatch=7)
    grads, _ = jax.jit(gradient)(variables, _keys(), batch)
    rays = cast(batch.camera, batch.pixel)
    samples = renderer.sample_rays(variables, rays, _keys())

    @jax.jit
    def loss(params):
      (rendering,) = renderer.render(params, rays, samples)
      return jnp.mean(jnp.square(rendering.outputs.rgb - batch.rgb))

    direction = jax.tree.map(jnp.sign, grads)

    def move(x):
      return jax.tree.map(lambda p, d: p + x * d, variables.params, direction)

    slope = (loss(move(1e-3)) - loss(move(-1e-3))) / 2e-3
    expected = sum(jnp.abs(x).sum() for x in jax.tree.leaves(grads))
    np.testing.assert_allclose(slope, expected, rtol=1e-2)

  @parameterized.product(microbatch=(0, 7, 36), refined=(False, True))
  def test_a_pixel_is_the_mean_of_its_rays(self, microbatch, refined):
    """Three by three rays, cast one by one through the parts of each pixel."""
    renderer, _ = _problem(raw_noise_std=0.0, perturb=False)
    views = _views()
    variables, batch = _variables(renderer), _batch()
    weight = np.where(np.arange(_RAYS) % 4 == 1, 0.0, 1 / _RAYS)
    cast = functools.partial(_cast, cameras.enlarge(views, 3))
    refined_cast = None
    if refined:
      params = {**variables.params, camera_refinement.NAME: {'x': jnp.ones(())}}
      variables = variables._replace(params=params)

      def refined_cast(params, camera, pixel):
        rays = cast(camera, pixel)
        return rays._replace(origins=params['x'] * rays.origins)

    gradient = training.make_gradient(
      renderer,
      cast,
      microbatch=microbatch,
      refined_cast_fn=refined_cast,
      rays_per_side=3,
    )
    grads, scalars = jax.jit(gradient)(
      variables, _keys(), batch, weight=jnp.asarray(weight)
    )

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
      total = 0.0
      renderings = []
      for row, column in np.ndindex(3, 3):
        pixel = 3 * batch.pixel + np.array([[row, column]])
        rays = cast(batch.camera, pixel)
        if refined:
          x = params[camera_refinement.NAME]['x']
          rays = rays._replace(origins=x * rays.origins)
        samples = renderer.sample_rays(variables, rays, _keys())
        renderings.append(renderer.render(params, rays, samples))
      for network in zip(*renderings, strict=True):
        rgb = sum(x.outputs.rgb for x in network) / 9
        error = jnp.mean((rgb - batch.rgb) ** 2, axis=-1)
        total += jnp.sum(weight * error)
      return total, jnp.sum(weight[:, None] * rgb, axis=0)

    (expected, mean_rgb), expected_grads = loss(variables.params)
    np.testing.assert_allclose(scalars['loss'], expected, rtol=1e-5)
    np.testing.assert_allclose(
      scalars['color_stats'].predicted, mean_rgb, rtol=1e-4
    )
    _assert_close_gradients(grads, expected_grads, 1e-4)

  def test_each_ray_of_a_pixel_has_random_numbers_of_its_own(self):
    renderer, cast = _problem()
    seen = []

    class Spy:
      max_samples = None

      def sample_rays(self, variables, rays, keys):
        seen.append(jax.random.key_data(keys))
        return renderer.sample_rays(variables, rays, keys)

      def render(self, *args):
        return renderer.render(*args)

    gradient = training.make_gradient(Spy(), cast, rays_per_side=2)
    gradient(_variables(renderer), _keys(), _batch())
    self.assertLen(np.unique(seen[0], axis=0), 4 * _RAYS)

  def test_equal_microbatches_are_a_loop_with_a_known_trip_count(self):
    renderer, cast = _problem()
    gradient = training.make_gradient(renderer, cast, microbatch=5)
    jaxpr = str(
      jax.make_jaxpr(gradient)(_variables(renderer), _keys(), _batch())
    )
    self.assertIn('length=5', jaxpr)  # 24 rays in microbatches of 5.
    # Nothing but random bits may wait for a condition.
    self.assertNotIn('while[', jaxpr.replace('threefry2x32', ''))


class UpdateTest(chex.TestCase):
  @pytest.mark.cpu
  @parameterized.parameters((4, 0), (1, 7), (2, 5))
  def test_devices_and_microbatches_change_nothing(
    self, num_devices, microbatch
  ):
    expected, losses = _run(1, 0, steps=20)
    params, others = _run(num_devices, microbatch, steps=20)
    chex.assert_trees_all_close(params, expected, atol=1e-5)
    np.testing.assert_allclose(others, losses, rtol=1e-3)

  @pytest.mark.cpu
  @parameterized.parameters((2, 0), (4, 5))
  def test_the_gradient_of_devices_is_that_of_the_whole(self, devices_, piece):
    """Plain descent at a rate of 1: what a parameter loses is its gradient."""
    renderer, _ = _problem()
    begin = _variables(renderer).params
    descent = optax.sgd(1.0)
    expected, _ = _run(1, 0, steps=1, optimizer=descent)
    params, _ = _run(devices_, piece, steps=1, optimizer=descent)
    for start, one, many in zip(
      *map(jax.tree.leaves, (begin, expected, params)), strict=True
    ):
      # Rounding of the parameters themselves comes on top.
      tolerance = 1e-5 * np.abs(start - one).max() + 2e-7
      np.testing.assert_allclose(start - many, start - one, atol=tolerance)

  def test_loss_falls_and_steps_are_counted(self):
    renderer, cast = _problem(raw_noise_std=0.0)
    optimizer = optax.adam(1e-2)
    state = training.init_state(renderer, optimizer, jax.random.key(0))
    state = devices.replicate(state)
    update = training.make_update(renderer, optimizer, cast, microbatch=0)
    batch = devices.shard(_batch(), jax.local_device_count())
    losses = []
    for _ in range(40):
      state, scalars = update(state, batch, jax.random.key(0))
      losses.append(float(scalars['loss']))
    self.assertLess(losses[-1], 0.7 * losses[0])
    self.assertEqual(int(devices.unreplicate(state).step), 40)
    for name in ('', '_coarse'):
      np.testing.assert_allclose(
        scalars[f'psnr{name}'], -10 * np.log10(scalars[f'mse{name}']), rtol=1e-5
      )
    np.testing.assert_allclose(
      scalars['loss'], scalars['mse'] + scalars['mse_coarse'], rtol=1e-6
    )

  def test_randomness_depends_on_step_and_key(self):
    """With an update of nothing, the loss still changes from step to step."""
    renderer, cast = _problem()
    optimizer = optax.set_to_zero()
    state = training.init_state(renderer, optimizer, jax.random.key(0))
    update = training.make_update(renderer, optimizer, cast, microbatch=0)
    batch = devices.shard(_batch(), 1)
    losses = []
    for step, seed in ((0, 0), (1, 0), (0, 0), (0, 1)):
      begin = state._replace(step=jnp.asarray(step, jnp.int32))
      _, scalars = update(
        devices.replicate(begin, 1), batch, jax.random.key(seed)
      )
      losses.append(float(scalars['loss']))
    self.assertEqual(losses[0], losses[2])
    self.assertNotEqual(losses[0], losses[1])
    self.assertNotEqual(losses[0], losses[3])


class _Weights:
  """A renderer of two weights whose gradients can be chosen by hand."""

  max_samples = None
  update_every = 0

  def init(self, key):
    del key
    params = {'network': {'a': jnp.zeros(3), 'b': jnp.zeros(3)}}
    return base.Variables(params=params, state=())

  def sample_rays(self, variables, rays, keys):
    del variables, keys
    t = jnp.zeros((len(rays.near), 1))
    return hierarchical.without_noise(t, 0)

  def render(self, params, rays, samples):
    del samples
    weights = params['network']
    rgb = weights['a'][None] + weights['b'][None] * rays.origins
    zero = rgb[:, 0]
    outputs = volume.RayOutputs(
      rgb=rgb, depth=zero, disparity=zero, opacity=zero
    )
    return (base.Rendering(outputs=outputs, history=None),)

  def update_state(self, variables, key, step):
    del key, step
    return variables.state


def _weights_rays(camera, pixel):
  """Rays of origin 1; those of camera 1 overflow the gradient of `b`."""
  del pixel
  origins = jnp.where(camera[:, None] > 0, 1e38, 1.0) * jnp.ones((1, 3))
  near = jnp.zeros((len(camera), 1))
  return cameras.Rays(
    origins=origins,
    directions=origins,
    viewdirs=origins,
    near=near,
    far=near + 1,
  )


def _weights_batch(color, camera=0):
  batch = scenes.Batch(
    camera=np.full(2, camera, np.int32),
    pixel=np.zeros((2, 2), np.int32),
    rgb=np.full((2, 3), color, np.float32),
  )
  return devices.shard(batch, 1)


class _Copy(_Weights):
  """Its state is a copy of a weight, every second step."""

  update_every = 2

  def init(self, key):
    return super().init(key)._replace(state=jnp.zeros(3))

  def update_state(self, variables, key, step):
    del key, step
    return variables.params['network']['a']


class StepTest(chex.TestCase):
  def step(self, renderer):
    """Takes one step of gradient descent from weights of 0 to a color of 1."""
    optimizer = optax.sgd(0.1)
    update = training.make_update(
      renderer, optimizer, _weights_rays, microbatch=0
    )
    state = training.init_state(renderer, optimizer, jax.random.key(0))
    state, scalars = update(
      devices.replicate(state, 1), _weights_batch(1.0), jax.random.key(0)
    )
    return devices.unreplicate(state), scalars

  def test_the_norm_is_that_of_the_gradient(self):
    # The loss is the mean of (1 - a - b)^2 over three colors: six derivatives
    # of -2 / 3.
    _, scalars = self.step(_Weights())
    np.testing.assert_allclose(scalars['grad_norm'], 6**0.5 * 2 / 3, rtol=1e-6)

  def test_the_renderer_s_state_is_updated_from_new_parameters(self):
    states, _ = _run_weights(False, [(1.0, 0)] * 5, _Copy())
    np.testing.assert_array_equal(states[0].renderer_state, 0)
    for state, of in zip(states[1:], (1, 1, 3, 3), strict=True):
      np.testing.assert_array_equal(
        state.renderer_state, states[of].params['network']['a']
      )

  def test_a_step_that_is_not_applied_does_not_update_it(self):
    states, _ = _run_weights(True, [(1.0, 0), (np.nan, 0)], _Copy())
    np.testing.assert_array_equal(states[1].renderer_state, 0)


class BlockTest(chex.TestCase):
  """Several steps in a call, and each in one."""

  @parameterized.product(
    skip=(False, True), every=(0, 1, 2, 3, 4, 8), bad=(None, 1, 2, 3)
  )
  def test_equal_to_single_steps(self, skip, every, bad):
    colors = [(np.nan if i == bad else 0.1 * i, 0) for i in range(8)]
    renderer = _Copy()
    renderer.update_every = every
    states, found = _run_weights(skip, colors, renderer)
    optimizer = optax.adam(0.1)
    update = training.make_update(
      renderer,
      optimizer,
      _weights_rays,
      num_steps=4,
      microbatch=0,
      skip_nonfinite=skip,
    )
    state = training.init_state(renderer, optimizer, jax.random.key(0))
    state = devices.replicate(state, 1)
    names, numbers = training.checked_names(states[0].params), []
    for begin in (0, 4):
      batches = [_weights_batch(*x) for x in colors[begin : begin + 4]]
      data = jax.tree.map(lambda *x: np.stack(x, axis=1), *batches)
      state, scalars = update(state, data, jax.random.key(0))
      numbers += list(scalars['nonfinite'])
      chex.assert_trees_all_close(
        devices.unreplicate(state), states[begin + 3], rtol=1e-6
      )
      np.testing.assert_array_equal(scalars['skipped'][-1], state.skipped[0])
    self.assertEqual([names[x - 1] if x else None for x in numbers], found)


def _run_weights(skip, colors, renderer=None):
  """Takes one step for each `(true color, camera)`, see `_weights_rays`.

  Returns:
    The states after the steps, and the names of their non-finite arrays.
  """

  renderer, optimizer = renderer or _Weights(), optax.adam(0.1)
  update = training.make_update(
    renderer, optimizer, _weights_rays, microbatch=0, skip_nonfinite=skip
  )
  state = training.init_state(renderer, optimizer, jax.random.key(0))
  state, states, found = devices.replicate(state, 1), [], []
  for color, camera in colors:
    batch = _weights_batch(color, camera)
    state, scalars = update(state, batch, jax.random.key(0))
    states.append(devices.unreplicate(state))
    found.append(int(scalars['nonfinite']))
  names = training.checked_names(states[0].params)
  return states, [names[x - 1] if x else None for x in found]


class NonfiniteTest(chex.TestCase):
  @parameterized.parameters(np.nan, np.inf, -np.inf)
  def test_one_number_among_finite_ones(self, value):
    loss, norms = jnp.zeros(()), [jnp.ones(()), jnp.ones(())]
    self.assertEqual(int(training.first_nonfinite(loss, norms)), 0)
    norms[1] = jnp.sum(jnp.array([1.0, value, 2.0]) ** 2)
    self.assertEqual(int(training.first_nonfinite(loss, norms)), 3)

  @parameterized.parameters(
    (np.nan, 0, 'the loss'),
    (np.inf, 0, 'the loss'),
    (50.0, 1, 'the gradient of network/b'),
  )
  def test_the_state_stays_as_it_was_before_the_first(self, *case):
    color, camera, name = case
    states, found = _run_weights(False, [(0.0, 0), (color, camera), (1.0, 0)])
    self.assertEqual(found, [None, name, name])
    for state in states[1:]:
      chex.assert_trees_all_equal(
        state._replace(nonfinite=states[0].nonfinite), states[0]
      )

  def test_a_skipped_step_is_counted_and_changes_nothing(self):
    states, found = _run_weights(True, [(1.0, 0), (np.nan, 0), (1.0, 0)])
    self.assertEqual(found, [None, 'the loss', None])
    self.assertEqual([int(x.skipped) for x in states], [0, 1, 1])
    self.assertEqual([int(x.step) for x in states], [1, 2, 3])
    chex.assert_trees_all_equal(states[1].params, states[0].params)
    chex.assert_trees_all_equal(states[1].opt_state, states[0].opt_state)
    before, after = (x.params['network']['a'] for x in states[1:])
    self.assertGreater(float(np.max(np.abs(after - before))), 0.01)


class ColorStatsTest(chex.TestCase):
  def test_means_and_squares(self):
    predicted = jnp.array([[0.0, 1.0, 0.5], [1.0, 1.0, 0.5]])
    target = jnp.array([[0.2, 0.0, 1.0], [0.4, 0.0, 0.0]])
    weight = jnp.array([0.25, 0.75])
    stats = training.color_stats(predicted, target, weight)
    np.testing.assert_allclose(stats.target, [0.35, 0.0, 0.25], rtol=1e-6)
    np.testing.assert_allclose(stats.target_square, [0.13, 0, 0.25], rtol=1e-6)
    np.testing.assert_allclose(stats.predicted, [0.75, 1.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(
      stats.predicted_square, [0.75, 1, 0.25], rtol=1e-6
    )
    expected = (0.25 * (0.04 + 1 + 0.25) + 0.75 * (0.36 + 1 + 0.25)) / 3
    np.testing.assert_allclose(stats.mse, expected, rtol=1e-5)

  def test_sums_decay_from_step_to_step(self):
    """The target is 0.9, then a skipped step, then 0.3."""
    states, _ = _run_weights(True, [(x, 0) for x in (0.9, np.nan, 0.3)])
    np.testing.assert_allclose(
      states[-1].color_stats.target, np.full(3, 0.98 * 0.9 + 0.3), rtol=1e-5
    )
    # The mean is over the two steps that were taken.
    mean = training._mean_stats(states[-1])
    np.testing.assert_allclose(
      mean.target, np.full(3, (0.98 * 0.9 + 0.3) / 1.98), rtol=1e-5
    )


class SquaredErrorsTest(chex.TestCase):
  def test_weights(self):
    target = jnp.array([[0.5, 0.5, 0.5], [1.0, 0.0, 0.0]])
    rgb = jnp.array([[0.5, 0.5, 0.8], [0.0, 0.0, 0.0]])
    loss, scalars = training.squared_errors(
      (rgb, rgb), target, jnp.array([0.75, 0.25])
    )
    expected = 0.75 * 0.03 + 0.25 / 3
    np.testing.assert_allclose(scalars['mse'], expected, rtol=1e-5)
    np.testing.assert_allclose(loss, 2 * expected, rtol=1e-5)


class ScheduleTest(chex.TestCase):
  def test_a_tenth_after_decay_steps(self):
    schedule = training.learning_rate_schedule(
      5e-4, decay_factor=0.1, decay_steps=250_000, warmup_steps=0
    )
    for step, expected in (
      (0, 5e-4),
      (125_000, 5e-4 * 0.1**0.5),
      (500_000, 5e-6),
    ):
      np.testing.assert_allclose(schedule(step), expected, rtol=1e-5)

  def test_a_cosine_falls_slowly_at_both_ends(self):
    schedule = training.learning_rate_schedule(
      1.0, decay_factor=0.2, decay_steps=300, warmup_steps=0, cosine=True
    )
    np.testing.assert_allclose(
      [schedule(step) for step in (0, 100, 150, 200, 300, 900)],
      [1.0, 0.8, 0.6, 0.4, 0.2, 0.2],
      rtol=1e-6,
    )

  def test_the_rate_rises_evenly_in_the_first_steps(self):
    schedule = training.learning_rate_schedule(
      0.8, decay_factor=1.0, decay_steps=1, warmup_steps=4
    )
    np.testing.assert_allclose(
      [schedule(step) for step in range(6)],
      [0.2, 0.4, 0.6, 0.8, 0.8, 0.8],
      rtol=1e-6,
    )

  def test_psnr(self):
    np.testing.assert_allclose(training.psnr(jnp.array(1e-3)), 30.0, rtol=1e-6)


class BatchTest(chex.TestCase):
  def test_the_share_grows_evenly_from_a_sixteenth(self):
    shares = [
      training.active_ray_fraction(jnp.asarray(x), 100) for x in (0, 5, 50, 99)
    ]
    np.testing.assert_allclose(shares, [1 / 16, 1 / 16, 0.5, 0.99], rtol=1e-6)
    self.assertEqual(
      float(training.active_ray_fraction(jnp.asarray(0), 0)), 1.0
    )
    self.assertEqual(
      float(training.active_ray_fraction(jnp.asarray(500), 100)), 1.0
    )

  @parameterized.product(total=(1, 24, 100, 4096), share=(1 / 16, 0.37, 1.0))
  def test_active_rays_are_spread_over_all_indices(self, total, share):
    weight = training.ray_weights(jnp.arange(total), total, jnp.asarray(share))
    number = max(round(share * total), 1)
    self.assertEqual(int(jnp.sum(weight > 0)), number)
    np.testing.assert_allclose(jnp.sum(weight), 1.0, rtol=1e-5)
    for part in np.split(np.asarray(weight), 4) if total % 4 == 0 else ():
      self.assertLessEqual(abs(np.sum(part > 0) - number / 4), 2)

  @parameterized.parameters((150_000, 9375), (90_000, 5625))
  def test_weights_of_large_batches_add_up_to_1(self, total, number):
    weight = training.ray_weights(jnp.arange(total), total, jnp.asarray(1 / 16))
    self.assertEqual(int(jnp.sum(weight > 0)), number)
    total_weight = np.sum(np.asarray(weight, np.float64))
    np.testing.assert_allclose(total_weight, 1.0, rtol=1e-6)

  def test_the_places_of_the_largest_batches_are_distinct(self):
    """Products of 48 bits: a sample of rays against whole numbers."""
    total = 2**24 - 3
    stride = next(
      x for x in range(round(0.618 * total), total) if math.gcd(x, total) == 1
    )
    index = np.random.default_rng(0).integers(0, total, 5000)
    place = np.array([int(i) * stride % total for i in index])
    weight = training.ray_weights(
      jnp.asarray(index, jnp.int32), total, jnp.asarray(0.25)
    )
    number = float(jnp.round(jnp.float32(0.25) * total))
    np.testing.assert_array_equal(np.asarray(weight) > 0, place < number)

  def test_refuses_more_rays_than_it_can_place(self):
    with self.assertRaisesRegex(ValueError, 'at most 16777216, got 16777217'):
      training.ray_weights(jnp.arange(2), 2**24 + 1, jnp.asarray(1.0))

  @parameterized.parameters(
    backgrounds.BLACK, backgrounds.WHITE, (0.3, 0.4, 0.5)
  )
  def test_colours_on_another_background(self, *constant):
    """A colour of opacity 0.25, over what it was on and over red."""
    own = jnp.array([[0.8, 0.4, 0.2]])
    rgb = 0.25 * own + 0.75 * np.array([constant])
    red = jnp.array([[1.0, 0.0, 0.0]])
    found = training.on_background(
      rgb, jnp.array([0.25]), red, constant=constant
    )
    np.testing.assert_allclose(found, 0.25 * own + 0.75 * red, atol=1e-6)

  def test_distortion_of_all_networks_is_added_to_the_loss(self):
    renderer, cast = _problem(raw_noise_std=0.0)
    variables, batch = _variables(renderer), _batch()
    renderings = _render(renderer, cast, variables, batch)
    expected = sum(np.mean(volume.distortion(x.history)) for x in renderings)
    losses = []
    for weight in (0.0, 0.5):
      gradient = training.make_gradient(
        renderer, cast, microbatch=0, distortion_weight=weight
      )
      losses.append(jax.jit(gradient)(variables, _keys(), batch)[1]['loss'])
    np.testing.assert_allclose(losses[1] - losses[0], 0.5 * expected, rtol=1e-3)
    self.assertGreater(expected, 0)

  def test_the_interlevel_loss_is_added_and_trains_proposals(self):
    renderer, cast = _proposal_problem()
    variables, batch = _variables(renderer), _batch()
    (rendering,) = _render(renderer, cast, variables, batch)
    (first,) = rendering.proposals
    expected = np.mean(volume.interlevel(first, rendering.history))
    self.assertGreater(expected, 1e-4)
    results = []
    for weight in (0.0, 3.0):
      gradient = training.make_gradient(
        renderer, cast, interlevel_weight=weight
      )
      results.append(jax.jit(gradient)(variables, _keys(), batch))
    (without, low), (with_, high) = results
    np.testing.assert_allclose(
      high['loss'] - low['loss'], 3 * expected, rtol=1e-3
    )
    self.assertEqual(optax.tree.norm(without['proposal_0']), 0.0)
    self.assertGreater(optax.tree.norm(with_['proposal_0']), 1e-4)
    chex.assert_trees_all_close(without['field'], with_['field'], atol=1e-7)

  @pytest.mark.cpu
  def test_devices_and_microbatches_do_not_change_proposals(self):
    renderer, cast = _proposal_problem()
    descent = optax.sgd(1.0)
    found = []
    for num_devices, microbatch in ((1, 0), (2, 5)):
      update = training.make_update(
        renderer, descent, cast, microbatch=microbatch
      )
      state = training.init_state(renderer, descent, jax.random.key(0))
      state, _ = update(
        devices.replicate(state, num_devices),
        devices.shard(_batch(), num_devices),
        jax.random.key(3),
      )
      found.append(devices.unreplicate(state.params))
    chex.assert_trees_all_close(*found, atol=1e-5)

  def test_a_random_background_shows_what_is_not_opaque(self):
    """White haze before white: nothing is wrong, unless behind is not white."""
    renderer, cast = _problem(raw_noise_std=0.0)
    variables = _variables(renderer)
    outputs = _render(renderer, cast, variables, _batch())[-1].outputs
    batch = _batch()._replace(rgb=outputs.rgb)
    gradient = jax.jit(
      training.make_gradient(
        renderer,
        cast,
        microbatch=0,
        random_background=True,
        background=backgrounds.WHITE,
      )
    )
    for alpha, least, most in ((outputs.opacity, 0, 1e-9), (0.5, 1e-3, 1)):
      batch = batch._replace(alpha=jnp.broadcast_to(alpha, (_RAYS,)))
      _, scalars = gradient(variables, _keys(), batch)
      self.assertLessEqual(float(scalars['mse']), most)
      self.assertGreaterEqual(float(scalars['mse']), least)
      np.testing.assert_allclose(scalars['color_stats'].mse, 0, atol=1e-9)

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized

from nerf_haiku import camera_paths, cameras, devices, fields, scenes, training
from nerf_haiku.renderers import hierarchical
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
    'white_background': True,
  } | changes
  renderer = hierarchical.make_hierarchical(
    field, field if settings['num_importance'] else None, **settings
  )
  views = cameras.pinhole(
    camera_paths.circle(5), np.full((5, 2), 16), np.full(5, 20.0)
  )
  cast = functools.partial(
    cameras.cast, views, near=2.0, far=6.0, box=None, pixel_center=True
  )
  return renderer, cast


def _batch(step=0, rays=_RAYS):
  rng = np.random.default_rng(step)
  return scenes.Batch(
    rng.integers(0, 5, rays).astype(np.int32),
    rng.integers(0, 16, (rays, 2)).astype(np.int32),
    rng.uniform(size=(rays, 3)).astype(np.float32),
  )


def _keys(rays=_RAYS):
  return jax.random.split(jax.random.key(7), rays)


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
  params = jax.jit(renderer.init)(jax.random.key(0))
  gradient = training.make_gradient(renderer, cast, microbatch=0)
  return jax.jit(gradient)(params, _keys(), _batch())


class GradientTest(chex.TestCase):
  def test_matches_the_original_for_20_steps(self):
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
      batch = scenes.Batch(jnp.arange(64), jnp.zeros((64, 2), int), rgb)
      grads, scalars = gradient(params, _keys(64), batch)
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
  def test_pieces_change_nothing(self, microbatch):
    renderer, cast = _problem()
    params = jax.jit(renderer.init)(jax.random.key(0))
    pieces = training.make_gradient(renderer, cast, microbatch=microbatch)
    grads, other = jax.jit(pieces)(params, _keys(), _batch())
    expected, scalars = _whole_gradient()
    scalars = scalars | {'pieces': -(-_RAYS // min(microbatch, _RAYS))}
    chex.assert_trees_all_close(other, scalars, rtol=1e-5)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(
        x, y, atol=1e-5 * max(float(jnp.abs(y).max()), 1e-12)
      ),
      grads,
      expected,
    )

  def test_matches_finite_differences(self):
    renderer, cast = _problem(raw_noise_std=0.0, num_importance=0)
    params = jax.jit(renderer.init)(jax.random.key(0))
    gradient = training.make_gradient(renderer, cast, microbatch=7)
    grads, _ = jax.jit(gradient)(params, _keys(), _batch())

    @jax.jit
    def loss(params):
      batch = _batch()
      (seen,) = renderer.train(params, _keys(), cast(batch.camera, batch.pixel))
      return jnp.mean(jnp.square(seen.rgb - batch.rgb))

    direction = jax.tree.map(jnp.sign, grads)

    def move(x):
      return jax.tree.map(lambda p, d: p + x * d, params, direction)

    slope = (loss(move(1e-3)) - loss(move(-1e-3))) / 2e-3
    expected = sum(jnp.abs(x).sum() for x in jax.tree.leaves(grads))
    np.testing.assert_allclose(slope, expected, rtol=1e-2)


class UpdateTest(chex.TestCase):
  @parameterized.parameters((4, 0), (1, 7), (2, 5))
  def test_devices_and_pieces_change_nothing(self, num_devices, microbatch):
    expected, losses = _run(1, 0, steps=20)
    params, others = _run(num_devices, microbatch, steps=20)
    chex.assert_trees_all_close(params, expected, atol=1e-5)
    np.testing.assert_allclose(others, losses, rtol=1e-3)

  @parameterized.parameters((2, 0), (4, 5))
  def test_the_gradient_of_devices_is_that_of_the_whole(self, devices_, piece):
    """Plain descent at a rate of 1: what a parameter loses is its gradient."""
    renderer, _ = _problem()
    begin = jax.jit(renderer.init)(jax.random.key(0))
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


class FaultTest(chex.TestCase):
  """A renderer of two weights whose gradients can be given by hand."""

  def _run(self, skip, colours):
    """One step for each true colour; NaN and infinity come with it."""

    def see(params, keys, rays):
      del keys
      rgb = params['a'][None] + params['b'][None] * rays.origins
      return (_Seen(rgb),)

    renderer = hierarchical.Renderer(
      lambda key: {'a': jnp.zeros(3), 'b': jnp.zeros(3)}, see, see
    )

    def cast(camera, pixel):
      # An origin at infinity meets a gradient of 0 in a, and spoils b.
      origins = jnp.where(camera[:, None] > 0, 1e38, 1.0) * jnp.ones((1, 3))
      return cameras.Rays(origins, origins, origins, origins, origins)

    optimizer = optax.adam(0.1)
    update = training.make_update(
      renderer, optimizer, cast, microbatch=0, skip_nonfinite=skip
    )
    state = devices.replicate(
      training.init_state(renderer, optimizer, jax.random.key(0)), 1
    )
    states, faults = [], []
    for colour, camera in colours:
      batch = scenes.Batch(
        np.full(2, camera, np.int32),
        np.zeros((2, 2), np.int32),
        np.full((2, 3), colour, np.float32),
      )
      state, scalars = update(state, devices.shard(batch, 1), jax.random.key(0))
      states.append(devices.unreplicate(state))
      faults.append(int(scalars['fault']))
    names = training.checked_names(states[0].params)
    return states, [names[x - 1] if x else None for x in faults]

  @parameterized.parameters(
    (np.nan, 0, 'the loss'),
    (np.inf, 0, 'the loss'),
    (50.0, 1, 'the gradient of b'),
  )
  def test_the_state_stays_as_it_was_before_the_first(self, *case):
    colour, camera, name = case
    states, faults = self._run(False, [(0.0, 0), (colour, camera), (1.0, 0)])
    self.assertEqual(faults, [None, name, name])
    for state in states[1:]:
      chex.assert_trees_all_equal(
        state._replace(fault=states[0].fault), states[0]
      )

  def test_or_the_step_is_left_out_and_counted(self):
    states, faults = self._run(True, [(1.0, 0), (np.nan, 0), (1.0, 0)])
    self.assertEqual(faults, [None, 'the loss', None])
    self.assertEqual([int(x.skipped) for x in states], [0, 1, 1])
    self.assertEqual([int(x.step) for x in states], [1, 2, 3])
    chex.assert_trees_all_equal(states[1].params, states[0].params)
    chex.assert_trees_all_equal(states[1].opt_state, states[0].opt_state)
    self.assertGreater(
      float(np.max(np.abs(states[2].params['a'] - states[1].params['a']))), 0.01
    )


class MomentsTest(chex.TestCase):
  def test_means_and_squares(self):
    seen = jnp.array([[0.0, 1.0, 0.5], [1.0, 1.0, 0.5]])
    true = jnp.array([[0.2, 0.0, 1.0], [0.4, 0.0, 0.0]])
    weight = jnp.array([0.25, 0.75])
    result = training.color_stats(seen, true, weight)
    np.testing.assert_allclose(result.true, [0.35, 0.0, 0.25], rtol=1e-6)
    np.testing.assert_allclose(result.true_square, [0.13, 0, 0.25], rtol=1e-6)
    np.testing.assert_allclose(result.seen, [0.75, 1.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(result.seen_square, [0.75, 1, 0.25], rtol=1e-6)
    expected = (0.25 * (0.04 + 1 + 0.25) + 0.75 * (0.36 + 1 + 0.25)) / 3
    np.testing.assert_allclose(result.mse, expected, rtol=1e-5)

  def test_the_mean_of_the_last_steps(self):
    """Of a renderer that sees 0: what is remembered is the true colours'."""
    states, _ = FaultTest()._run(True, [(x, 0) for x in (0.9, np.nan, 0.3)])
    weights = np.array([0.98, 1.0])
    expected = np.sum(weights * [0.9, 0.3]) / np.sum(weights)
    state = states[-1]
    weight = (1 - 0.98**2) / (1 - 0.98)
    np.testing.assert_allclose(
      state.moments.true / weight, np.full(3, expected), rtol=1e-5
    )


class SquaredErrorsTest(chex.TestCase):
  def test_weights(self):
    rgb = jnp.array([[0.5, 0.5, 0.5], [1.0, 0.0, 0.0]])
    rendering = _Seen(jnp.array([[0.5, 0.5, 0.8], [0.0, 0.0, 0.0]]))
    loss, scalars = training.squared_errors(
      (rendering, rendering), rgb, jnp.array([0.75, 0.25])
    )
    expected = 0.75 * 0.03 + 0.25 / 3
    np.testing.assert_allclose(scalars['mse'], expected, rtol=1e-5)
    np.testing.assert_allclose(loss, 2 * expected, rtol=1e-5)


class _Seen:
  def __init__(self, rgb):
    self.rgb = rgb


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
  def test_chosen_rays_are_spread_over_all_indices(self, total, share):
    weight = training.ray_weights(jnp.arange(total), total, jnp.asarray(share))
    number = max(round(share * total), 1)
    self.assertEqual(int(jnp.sum(weight > 0)), number)
    np.testing.assert_allclose(jnp.sum(weight), 1.0, rtol=1e-5)
    for part in np.split(np.asarray(weight), 4) if total % 4 == 0 else ():
      self.assertLessEqual(abs(np.sum(part > 0) - number / 4), 2)

  @parameterized.parameters(True, False)
  def test_colours_on_another_background(self, white):
    """A colour of opacity 0.25, over what it was on and over red."""
    own = jnp.array([[0.8, 0.4, 0.2]])
    rgb = 0.25 * own + 0.75 * float(white)
    red = jnp.array([[1.0, 0.0, 0.0]])
    found = training.on_background(rgb, jnp.array([0.25]), red, white=white)
    np.testing.assert_allclose(found, 0.25 * own + 0.75 * red, atol=1e-6)

  def test_distortion_of_all_networks_is_added_to_the_loss(self):
    renderer, cast = _problem(raw_noise_std=0.0)
    params = jax.jit(renderer.init)(jax.random.key(0))
    batch = _batch()
    seen = renderer.train(params, _keys(), cast(batch.camera, batch.pixel))
    expected = sum(np.mean(x.distortion) for x in seen)
    losses = []
    for distortion in (0.0, 0.5):
      gradient = training.make_gradient(
        renderer, cast, microbatch=0, distortion=distortion
      )
      losses.append(jax.jit(gradient)(params, _keys(), batch)[1]['loss'])
    np.testing.assert_allclose(losses[1] - losses[0], 0.5 * expected, rtol=1e-3)
    self.assertGreater(expected, 0)

  def test_a_random_background_shows_what_is_not_opaque(self):
    """White haze before white: nothing is wrong, unless behind is not white."""
    renderer, cast = _problem(raw_noise_std=0.0)
    params = jax.jit(renderer.init)(jax.random.key(0))
    seen = renderer.train(
      params, _keys(), cast(_batch().camera, _batch().pixel)
    )[-1]
    batch = _batch()._replace(rgb=seen.rgb, alpha=seen.opacity)
    for alpha, least, most in ((seen.opacity, 0, 1e-9), (0.5, 1e-3, 1)):
      gradient = training.make_gradient(
        renderer,
        cast,
        microbatch=0,
        random_background=True,
        white_background=True,
      )
      batch = batch._replace(alpha=jnp.broadcast_to(alpha, (_RAYS,)))
      _, scalars = jax.jit(gradient)(params, _keys(), batch)
      self.assertLessEqual(float(scalars['mse']), most)
      self.assertGreaterEqual(float(scalars['mse']), least)
      np.testing.assert_allclose(scalars['moments'].mse, 0, atol=1e-9)

import dataclasses
import functools

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized

from nerf_haiku import (
  camera_paths,
  cameras,
  devices,
  fields,
  occupancy_grid,
  scenes,
  training,
  volume,
)
from nerf_haiku.renderers import hierarchical, occupancy

_BOX = np.array([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]], np.float32)
_STEP = 0.07


def _settings(**changes):
  settings = {
    'box': _BOX,
    'resolution': 8,
    'step': _STEP,
    'budget': 2048,
    'threshold': 0.01,
    'decay': 0.5,
    'every': 4,
    'warmup': 8,
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
    'white_background': True,
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


def _plain(renderer_field, rays, **others):
  """The same positions, composited as the paper's are."""
  settings = {'white_background': True, 'end': None} | others
  rays = cameras.clip(rays, _BOX)
  step = _STEP / jnp.linalg.norm(rays.directions, axis=-1, keepdims=True)
  t = rays.near + (jnp.arange(64.0)[None] + 0.5) * step
  t = jnp.minimum(t, rays.far)  # Those behind the ray's end have no length.
  points = rays.origins[:, None] + t[..., None] * rays.directions[:, None]
  params = renderer_field.init(None, None, None)
  density, rgb = renderer_field.apply(params, points, rays.viewdirs[:, None])
  end = rays.far if settings['end'] is None else settings['end']
  return volume.composite(
    rgb,
    jnp.maximum(density, 0.0),
    t,
    rays.directions,
    end=end,
    white_background=settings['white_background'],
  )


def _trained(renderer, rays, memory=None):
  params = renderer.init(jax.random.key(0))
  memory = renderer.remember() if memory is None else memory
  keys = jax.random.split(jax.random.key(1), len(rays.near))
  plan = renderer.plan(params, memory, keys, rays)
  return renderer.train(params, plan.details, rays)[0], plan


class RenderingTest(chex.TestCase):
  @parameterized.product(density=(0.3, 4.0), white=(True, False))
  def test_all_cells_occupied_equals_plain_compositing(self, density, white):
    field, rays = _ball(density), _rays()
    renderer = _make(field, white_background=white)
    params = renderer.init(jax.random.key(0))
    seen = jax.jit(renderer.render)(params, rays, renderer.remember())[0]
    expected = _plain(field, rays, white_background=white)
    for name in ('rgb', 'opacity', 'depth', 'disparity'):
      # What stops at a ten-thousandth of the light is that much off.
      atol = 1e-5 if density < 1 else 2e-4
      np.testing.assert_allclose(
        getattr(seen, name), getattr(expected, name), atol=atol, err_msg=name
      )
    trained, _ = _trained(renderer, rays)
    np.testing.assert_allclose(trained.rgb, seen.rgb, atol=1e-4)
    np.testing.assert_allclose(trained.depth, seen.depth, atol=4e-4)
    self.assertGreater(float(np.ptp(seen.opacity)), 0.2)
    near, far = cameras.clip(rays, _BOX)[3:]
    width = jnp.diff(jnp.concatenate([expected.t, far], axis=-1))
    apart = volume.distortion(
      expected.weights,
      expected.t,
      width,
      near,
      far,
      sum_before=lambda x: jnp.cumsum(x, axis=-1) - x,
    )
    np.testing.assert_allclose(trained.distortion, apart.sum(-1), atol=1e-4)
    self.assertGreater(float(np.ptp(trained.distortion)), 0.01)

  @parameterized.parameters(41, 64, 300, 2048)
  def test_rounds_of_any_budget_see_the_same(self, budget):
    """41 is the fewest: as many as there are rays, or a ray has positions."""
    rays = _rays()
    expected = _plain(_ball(0.5), rays)
    renderer = _make(_ball(0.5), {'budget': budget})
    seen = jax.jit(renderer.render)(
      renderer.init(jax.random.key(0)), rays, renderer.remember()
    )[0]
    np.testing.assert_allclose(seen.rgb, expected.rgb, atol=1e-5)

  def test_an_infinite_end_is_opaque(self):
    field, rays = _ball(0.3), _rays()
    field = field._replace(  # A haze up to the faces of the box.
      apply=lambda p, x, v: (
        jnp.full(x.shape[:-1], 0.3),
        jnp.full(x.shape, 0.5),
      )
    )
    hit = np.asarray(cameras.clip(rays, _BOX).far > 0)[:, 0]
    for infinite in (True, False):
      renderer = _make(field, infinite_end=infinite)
      seen = renderer.render(
        renderer.init(jax.random.key(0)), rays, renderer.remember()
      )[0]
      opaque = np.asarray(seen.opacity)[hit] > 0.999
      self.assertEqual(bool(np.all(opaque)), infinite)

  def test_empty_cells_have_no_samples(self):
    rays = _rays()
    renderer = _make(_ball(4.0))
    full = renderer.remember()
    none = full._replace(occupied=jnp.zeros_like(full.occupied))
    seen, plan = _trained(renderer, rays, none)
    np.testing.assert_array_equal(plan.num_samples, 0)
    np.testing.assert_array_equal(seen.rgb, 1.0)
    view = renderer.render(renderer.init(jax.random.key(0)), rays, none)[0]
    np.testing.assert_array_equal(view.rgb, 1.0)
    np.testing.assert_array_equal(view.disparity, 0.0)

  def test_samples_that_no_light_reaches_are_left_out(self):
    dense = _ball(1e4)
    renderer = _make(dense)
    seen, plan = _trained(renderer, _rays())
    _, more = _trained(_make(_ball(1e-3)), _rays())
    self.assertLess(int(plan.num_samples.sum()), int(more.num_samples.sum()))
    expected = _plain(dense, _rays())
    np.testing.assert_allclose(seen.rgb, expected.rgb, atol=2e-4)

  def test_weight_at_the_ends(self):
    field = _ball()._replace(
      apply=lambda p, x, v: (jnp.full(x.shape[:-1], 40.0), jnp.zeros(x.shape))
    )
    renderer = _make(field, {'step': 0.01})
    rays = _rays()
    seen = renderer.render(
      renderer.init(jax.random.key(0)), rays, renderer.remember()
    )[0]
    hit = cameras.clip(rays, _BOX)
    length = (hit.far - hit.near) * jnp.linalg.norm(
      rays.directions, axis=-1, keepdims=True
    )
    long = np.asarray(length[:, 0]) > 1
    # Of a way of d all light but exp(-40 d) is absorbed; steps are coarse.
    expected = 1 - np.exp(-40 * 0.02 * np.asarray(length)[long, 0])
    np.testing.assert_allclose(seen.at_ends[long, 0], expected, atol=0.25)
    np.testing.assert_allclose(seen.at_ends[long, 1], 0, atol=1e-3)


class RandomTest(chex.TestCase):
  def test_shifts_and_noise_follow_the_keys(self):
    rays = _rays()
    for others in ({'perturb': True}, {'raw_noise_std': 1.0}):
      renderer = _make(_ball(1.0), **others)
      params, memory = renderer.init(jax.random.key(0)), renderer.remember()

      def see(
        seed, which=slice(None), renderer=renderer, params=params, memory=memory
      ):
        keys = jax.random.split(jax.random.key(seed), 40)[which]
        chosen = jax.tree.map(lambda x: x[which], rays)
        plan = renderer.plan(params, memory, keys, chosen)
        return renderer.train(params, plan.details, chosen)[0].rgb

      one = see(0)
      np.testing.assert_array_equal(one, see(0))
      self.assertGreater(float(jnp.max(jnp.abs(one - see(1)))), 1e-3)
      # A ray on its own sees what it sees among others.
      alone = see(0, slice(7, 8))
      np.testing.assert_allclose(alone, one[7:8], atol=1e-5)

  def test_shifts_are_even_over_a_step(self):
    """Opacity of a ball, averaged over shifts, is that of fine steps."""
    rays = jax.tree.map(lambda x: jnp.repeat(x[:1], 3000, axis=0), _rays())
    seen, _ = _trained(_make(_ball(0.5), {'budget': 2**18}, perturb=True), rays)
    half = jnp.asarray(seen.opacity)
    exact = _make(_ball(0.5), {'step': 0.001, 'budget': 2**14})
    fine = exact.render(
      exact.init(jax.random.key(0)), _rays(), exact.remember()
    )[0]
    np.testing.assert_allclose(half.mean(), fine.opacity[0], atol=3e-3)


class RefreshTest(chex.TestCase):
  def _after(self, steps, **changes):
    renderer = _make(_ball(4.0), changes)
    memory, params = renderer.remember(), renderer.init(jax.random.key(0))
    refresh = jax.jit(renderer.refresh)
    for step in range(1, steps + 1):
      memory = refresh(
        memory, params, jax.random.key(3), jnp.asarray(step, jnp.int32)
      )
    return memory

  def test_cells_within_and_without_the_ball(self):
    memory = self._after(40)
    place = (np.indices((8, 8, 8)) + 0.5) / 4 - 1
    radius = np.linalg.norm(place, axis=0).reshape(-1)  # Of cells' middles.
    margin = np.sqrt(3) / 8
    occupied = np.asarray(memory.occupied)
    self.assertTrue(np.all(occupied[radius < 0.7 - margin]))
    self.assertFalse(np.any(occupied[radius > 0.7 + margin]))

  def test_nothing_happens_between_looks(self):
    chex.assert_trees_all_equal(self._after(3), occupancy_grid.init_grid(8))
    chex.assert_trees_all_equal(self._after(7), self._after(4))

  def test_after_the_warmup_a_quarter_is_looked_at(self):
    """A field that has vanished: what is remembered fades, part by part."""
    renderer = _make(_ball(0.0), {'warmup': 0})
    memory = occupancy_grid.Grid(jnp.full(512, 8.0), jnp.ones(512, bool))
    params = renderer.init(jax.random.key(0))
    faded = []
    for step in (4, 8, 12, 16):
      memory = renderer.refresh(
        memory, params, jax.random.key(0), jnp.asarray(step)
      )
      faded.append(int(jnp.sum(memory.density == 4.0)))
    self.assertEqual(faded, [128, 256, 384, 512])


@functools.cache
def _problem(field, budget=256, growth=0):
  """A renderer with all that is random, a way to cast, an optimizer."""
  made = {
    'mlp': lambda: fields.make_mlp(
      encode_position=jnp.sin,
      encode_direction=lambda x: x,
      net_depth=2,
      net_width=16,
      skips=(),
      use_viewdirs=True,
    ),
    'hash': lambda: fields.make_hash(
      box=_BOX,
      num_levels=3,
      num_features=2,
      table_size=256,
      coarsest=4,
      finest=16,
      density_width=16,
      num_geometry=3,
      colour_width=16,
      colour_depth=1,
      use_viewdirs=True,
    ),
  }[field]()
  renderer = _make(
    made,
    {'budget': budget, 'every': 2},
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
    rng.integers(0, 5, rays).astype(np.int32),
    rng.integers(4, 12, (rays, 2)).astype(np.int32),
    rng.uniform(size=(rays, 3)).astype(np.float32),
    rng.uniform(size=rays).astype(np.float32),
  )


@functools.cache
def _run(num_devices, field, budget=256, microbatch=0, growth=0, steps=20):
  """Parameters after a step, losses, samples and pieces of all, the grid."""
  renderer, cast = _problem(field, budget)
  optimizer = optax.adam(1e-2)
  update = training.make_update(
    renderer,
    optimizer,
    cast,
    microbatch=microbatch,
    batch_growth=growth,
    random_background=True,
    white_background=True,
  )
  state = training.init_state(renderer, optimizer, jax.random.key(0))
  state = devices.replicate(state, num_devices)
  first, told = None, []
  for step in range(steps):
    batch = devices.shard(_batch(step), num_devices)
    state, scalars = update(state, batch, jax.random.key(3))
    told.append([float(scalars[x]) for x in ('loss', 'samples', 'pieces')])
    first = first or devices.unreplicate(state.params)
  grids = [np.asarray(x) for x in state.memory.occupied]
  return first, np.array(told), grids


class UpdateTest(chex.TestCase):
  @parameterized.parameters(
    (1, 'mlp', 64, 0),
    (4, 'mlp', 64, 0),
    (2, 'hash', 256, 0),
    (4, 'hash', 64, 5),
    (1, 'hash', 51, 1),
  )
  def test_devices_budgets_and_pieces_change_nothing(
    self, num_devices, field, budget, microbatch
  ):
    """No sample is lost where they are more than the budget."""
    expected, one, grid = _run(1, field, 4096)
    self.assertEqual(one[:, 2].max(), 1)
    params, many, grids = _run(num_devices, field, budget, microbatch)
    self.assertGreater(many[:, 2].max(), 1)  # An overflow is told.
    chex.assert_trees_all_close(params, expected, atol=1e-4)
    np.testing.assert_allclose(many[:, 0], one[:, 0], rtol=1e-3)
    np.testing.assert_allclose(many[0, 1], one[0, 1], rtol=1e-5)
    for other in grids:
      np.testing.assert_array_equal(other, grids[0])
    self.assertGreater(np.mean(grids[0] == grid[0]), 0.99)

  def test_a_growing_batch_takes_fewer_rays_at_first(self):
    _, told, _ = _run(1, 'mlp', 4096, growth=10)
    _, other, _ = _run(2, 'mlp', 4096, growth=10)
    np.testing.assert_allclose(other[:, 0], told[:, 0], rtol=1e-3)
    _, whole, _ = _run(1, 'mlp', 4096)
    self.assertGreater(abs(told[0, 0] - whole[0, 0]), 1e-4)

  def test_the_gradient_is_that_of_finite_differences(self):
    renderer, cast = _problem('hash', 100)
    params = jax.jit(renderer.init)(jax.random.key(0))
    keys, batch = jax.random.split(jax.random.key(2), 24), _batch(0)
    memory = renderer.remember()
    gradient = training.make_gradient(renderer, cast, microbatch=0)
    grads, scalars = jax.jit(lambda p: gradient(p, keys, batch, memory=memory))(
      params
    )
    self.assertGreater(int(scalars['pieces']), 1)
    loss = jax.jit(lambda p: gradient(p, keys, batch, memory=memory)[1]['loss'])
    direction = jax.tree.map(jnp.sign, grads)

    def move(x):
      return jax.tree.map(lambda p, d: p + x * d, params, direction)

    slope = (loss(move(1e-3)) - loss(move(-1e-3))) / 2e-3
    expected = sum(jnp.abs(x).sum() for x in jax.tree.leaves(grads))
    np.testing.assert_allclose(slope, expected, rtol=2e-2)


class SettingsTest(chex.TestCase):
  def test_positions_reach_through_the_box(self):
    diagonal = np.sqrt(12)
    self.assertGreaterEqual(_settings().num_positions() * _STEP, diagonal)
    self.assertLess((_settings().num_positions() - 2) * _STEP, diagonal)
    self.assertFalse(dataclasses.is_dataclass(_settings()))
    self.assertIsInstance(_make(), hierarchical.Renderer)

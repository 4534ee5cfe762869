"""Each field of a config has its effect, and no other's."""

import functools
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import parameterized

from experiments.builders import experiment as experiment_lib
from experiments.builders import model, training_step
from nerf_haiku import (
  camera_paths,
  cameras,
  contraction,
  devices,
  scene_bounds,
  scenes,
  training,
)
from nerf_haiku.renderers import occupancy
from tests.support import configs, trained


def _scene(box=None):
  views = cameras.pinhole(camera_paths.circle(1), [[8, 8]], [8.0])
  images = scenes.Images(np.zeros((64, 3), np.uint8), [[8, 8]])
  return trained.scene(views, images, near=2.0, far=6.0, box=box)


def _shapes(config):
  params = jax.eval_shape(
    model.make_renderer(config, _scene()).init, jax.random.key(0)
  ).params
  return {
    f'{network}/{name.split("/")[1]}': layer['w'].shape
    for network, layers in params.items()
    for name, layer in layers.items()
  }


@functools.cache
def _variables():
  init = jax.jit(model.make_renderer(configs.changed(), _scene()).init)
  return jax.tree.map(lambda x: 2 * x, init(jax.random.key(0)))


def _render(config, train):
  """Renders four rays with the same parameters."""
  renderer = model.make_renderer(config, _scene())
  rays = model.make_cast_fn(config, _scene())(
    _scene().train.cameras, np.zeros(4, np.int32), cameras.pixels(2, 2) * 3
  )
  if train:
    keys = jax.random.split(jax.random.key(1), 4)

    def render(variables):
      samples = renderer.sample_rays(variables, rays, keys)
      return renderer.render(variables.params, rays, samples)

    return jax.jit(render)(_variables())
  return jax.jit(renderer.render_eval)(_variables(), rays)


@functools.cache
def _render_usual(train):
  return _render(configs.changed(), train)


def _make_optimizer(config):
  schedule = training_step.make_schedule(config)
  return training_step.make_optimizer(config, schedule)


class RendererTest(chex.TestCase):
  @parameterized.parameters(
    ({'model__net_depth': 4}, {'coarse/layer_3': (8, 8)}),
    ({'model_fine__net_depth': 4}, {'fine/layer_3': (8, 8)}),
    ({'model__net_width': 6}, {'coarse/layer_0': (63, 6)}),
    ({'model_fine__net_width': 6}, {'fine/layer_0': (63, 6)}),
    ({'model__skips': (0,)}, {'coarse/layer_1': (71, 8)}),
    ({'model_fine__skips': (0,)}, {'fine/layer_1': (71, 8)}),
    ({'emb__multires': 2}, {'fine/layer_0': (15, 8), 'fine/view': (35, 4)}),
    ({'emb__multires_views': 2}, {'fine/view': (23, 4)}),
    ({'emb__include_input': False}, {'fine/layer_0': (60, 8)}),
    ({'emb__periodic_fns': ('sin',)}, {'fine/layer_0': (33, 8)}),
    ({'emb__use_embed': False}, {'fine/layer_0': (3, 8), 'fine/view': (11, 4)}),
    ({'use_viewdirs': False}, {'fine/rgb': (8, 3), 'coarse/rgb': (8, 3)}),
  )
  def test_fields_that_shape_the_networks(self, changes, expected):
    shapes, usual = (
      _shapes(configs.changed(**changes)),
      _shapes(configs.changed()),
    )
    self.assertEqual({k: shapes[k] for k in expected}, expected)
    self.assertNotEqual({k: usual.get(k) for k in expected}, expected)
    if any(name.startswith('model') for name in changes):
      other = 'coarse' if 'model_fine' in next(iter(changes)) else 'fine'
      for name in usual:
        if name.startswith(other):
          self.assertEqual(shapes[name], usual[name])

  def test_without_importance_there_is_one_network(self):
    shapes = _shapes(configs.changed(num_importance=0))
    self.assertEqual({x.split('/')[0] for x in shapes}, {'coarse'})

  @parameterized.parameters(
    ('num_samples', 9, False),
    ('num_importance', 9, False),
    ('emb__log_sampling', False, False),
    ('density_activation', 'relu', False),
    ('last_interval', 'infinite', False),
    ('white_bkgd', False, False),
    ('background', (0.3, 0.4, 0.5), False),
    ('pixel_center', True, False),
    ('llff__lindisp', True, False),
    ('dtype', 'bfloat16', False),
    ('cones', True, False),
    ('perturb', False, True),
    ('raw_noise_std', 1.0, True),
  )
  def test_fields_that_change_what_is_rendered(self, name, value, train):
    usual = _render_usual(train)
    other = _render(configs.changed(**{name: value}), train)
    self.assertGreater(
      float(jnp.max(jnp.abs(usual[1].outputs.rgb - other[1].outputs.rgb))), 1e-6
    )

  def test_training_fields_do_not_change_a_view(self):
    changed = _render(
      configs.changed(perturb=False, raw_noise_std=1.0), train=False
    )
    chex.assert_trees_all_equal(changed, _render_usual(train=False))


class RaysPerSideTest(chex.TestCase):
  @parameterized.parameters((1, (8, 4)), (0, (8, 8)), (3, (24, 12)))
  def test_views_have_the_rays_that_the_config_says(self, value, sizes):
    """A view of the size of the training images, and one of half of it."""
    config = configs.changed(rays_per_side=value, pixel_center=True)
    scene = _scene()
    rendered = []

    def assemble(strips):
      del strips

      def render(variables, views, index, viewdir_camera=None):
        del variables, viewdir_camera
        height, width = views.sizes[index]
        rendered.append(height)
        return {'rgb': np.zeros((height, width, 3))}

      return render

    with mock.patch.object(model.image_rendering, 'assemble_strips', assemble):
      render = model.make_render_image(
        config, scene, model.make_renderer(config, scene)
      )
    views = scene.train.cameras
    for view in (views, cameras.scale(views, np.array([[4, 4]]))):
      image = render(None, view, 0)
      self.assertEqual(image['rgb'].shape[0], view.sizes[0, 0])
    self.assertEqual(tuple(rendered), sizes)


class PairsTest(chex.TestCase):
  """Any field with any renderer."""

  @parameterized.parameters(
    ('mlp', 'hierarchical', False),
    ('hash', 'hierarchical', True),
    ('mlp', 'occupancy', False),
    ('mlp', 'occupancy', True),
    ('hash', 'occupancy', False),
    ('hash', 'occupancy', True),
    ('mlp', 'proposal', True),
    ('hash', 'proposal', False),
  )
  def test_a_step_and_a_view(self, field, renderer, ndc):
    config = configs.changed(
      field=field,
      renderer=renderer,
      num_rand=16,
      occupancy__update_every=1,
      occupancy__max_samples=512,
      hash__hashmap_size=512,
      proposal__num_samples=(6, 5),
      proposal__hashmap_size=512,
      occupancy__resolution=8,
      occupancy__step_size=0.1,
    )
    scene = _scene(np.array([[-1, -1, -1], [1, 1, 1]], np.float32))
    if ndc:
      pose = cameras.pinhole(np.eye(4)[None, :3], [[8, 8]], [8.0])
      split = scene.train._replace(cameras=pose)
      scene = scene._replace(
        train=split, test=split, box=None, ndc=cameras.Ndc((2.0, 2.0))
      )
    experiment = experiment_lib.make_experiment(config, scene)
    state = devices.replicate(experiment.init_state(jax.random.key(0)))
    view = scene.test.cameras, 0
    before = experiment.render_image(state.variables(), *view)
    for data in experiment.make_inputs(seed=0, start_step=0, num_steps=8):
      state, scalars = experiment.update(state, data, jax.random.key(1))
    self.assertGreater(float(scalars['samples']), 0)
    image = experiment.render_image(state.variables(), *view)
    # The photograph is black.
    self.assertLess(np.mean(image.rgb**2), np.mean(before.rgb**2))
    chex.assert_tree_all_finite(image)
    self.assertGreater(np.max(image.opacity), 0)

  @parameterized.parameters(
    ('num_levels', 5),
    ('features_per_level', 3),
    ('hashmap_size', 64),
    ('base_resolution', 9),
    ('max_resolution', 40),
    ('density_width', 9),
    ('geo_feat_dim', 3),
    ('color_width', 9),
    ('color_depth', 1),
  )
  def test_fields_of_the_hash_grid(self, name, value):
    def shapes(**changes):
      config = configs.changed(field='hash', renderer='occupancy', **changes)
      init = model.make_renderer(config, _scene()).init
      return jax.tree.map(
        lambda x: x.shape, jax.eval_shape(init, jax.random.key(0))
      )

    self.assertNotEqual(shapes(**{f'hash__{name}': value}), shapes())

  @parameterized.parameters(
    ('num_levels', 3),
    ('features_per_level', 2),
    ('hashmap_size', 64),
    ('base_resolution', 9),
    ('max_resolution', 20),
    ('density_width', 9),
  )
  def test_fields_of_the_proposals(self, name, value):
    def shapes(**changes):
      config = configs.changed(renderer='proposal', **changes)
      init = model.make_renderer(config, _scene()).init
      params = jax.eval_shape(init, jax.random.key(0)).params
      return jax.tree.map(lambda x: x.shape, params['proposal_0'])

    self.assertNotEqual(shapes(**{f'proposal__{name}': value}), shapes())

  def test_samples_of_the_proposals_and_of_the_field(self):
    config = configs.changed(
      renderer='proposal', num_samples=9, proposal__num_samples=(20, 10)
    )
    renderer = model.make_renderer(config, _scene())
    self.assertEqual(renderer.num_samples, (20, 10, 9))
    self.assertLen(renderer.proposals, 2)

  def test_the_march_follows_the_data(self):
    box = np.array([[-1, -1, -1], [1, 1, 1]], np.float32)
    # A camera 4 away whose pixels are 1/8 wide in t: 0.5 in the middle.
    config = configs.changed(renderer='occupancy')
    march = self._march(config, box)
    np.testing.assert_allclose(march.step_size, 0.5, rtol=1e-3)
    self.assertEqual(march.resolution, 32)
    config = configs.changed(
      renderer='occupancy',
      occupancy__step_size=0.01,
      occupancy__render_substeps=3,
      occupancy__update_every=3,
      occupancy__warmup_steps=7,
      occupancy__alpha_threshold=0.2,
      occupancy__ema_decay=0.3,
      occupancy__max_samples=999,
    )
    march = self._march(config, box)
    expected = occupancy.Settings(
      box=None,
      resolution=96,
      step_size=0.01,
      render_substeps=3,
      max_samples=999,
      alpha_threshold=0.2,
      ema_decay=0.3,
      update_every=3,
      warmup_steps=7,
    )
    self.assertEqual(march._replace(box=None), expected)

  def _march(self, config, box):
    return model.make_renderer(config, _scene(box)).settings

  def test_a_budget_that_the_rays_of_a_pixel_exceed(self):
    changes = {
      'renderer': 'occupancy',
      'occupancy__max_samples': 999,
      'occupancy__step_size': 0.01,
      'train_rays_per_side': 2,
    }
    with self.assertRaisesRegex(ValueError, 'got 999; .*train_rays_per_side'):
      model.make_renderer(configs.changed(**changes), _scene())
    changes['train_rays_per_side'] = 1
    model.make_renderer(configs.changed(**changes), _scene())

  def test_a_budget_that_a_ray_exceeds(self):
    config = configs.changed(
      renderer='occupancy', occupancy__max_samples=99, occupancy__step_size=0.01
    )
    with self.assertRaisesRegex(
      ValueError, 'occupancy.max_samples: got 99; .*step'
    ):
      model.make_renderer(config, _scene())

  def test_squares_of_gradients_fade(self):
    """The second step of Adam, of a gradient that has vanished."""
    for b2, eps in ((0.999, 1e-8), (0.5, 1e-8), (0.999, 1.0)):
      config = configs.changed(adam_b2=b2, adam_eps=eps, lr_schedule='constant')
      optimizer = _make_optimizer(config)
      params = jnp.zeros(1)
      state = optimizer.init(params)
      for gradient in (1.0, 0.0):
        updates, state = optimizer.update(jnp.full(1, gradient), state, params)
      mean = 0.9 * 0.1 / (1 - 0.9**2)
      square = b2 * (1 - b2) / (1 - b2**2)
      expected = -5e-4 * mean / (np.sqrt(square) + eps)
      np.testing.assert_allclose(updates, [expected], rtol=1e-4)


class ContractionTest(chex.TestCase):
  def test_renderers_and_grids_are_of_contracted_space(self):
    scene = _scene()._replace(contracted=True)
    # 8 pixels of a focal length are 1 wide at a distance of 1.
    made = scene_bounds.modelled_bounds(scene)
    np.testing.assert_array_equal(made.box, [[-2] * 3, [2] * 3])
    self.assertAlmostEqual(made.pixel_width, 1 / 8)
    march = model.make_renderer(configs.changed(renderer='occupancy'), scene)
    self.assertTrue(march.settings.contracted)
    self.assertEqual(march.settings.num_positions(), 4 * 8 + 1)
    for name in ('hierarchical', 'proposal'):
      config = configs.changed(renderer=name)
      self.assertTrue(model.make_renderer(config, scene).contracted)

  @parameterized.parameters('mlp', 'hash')
  def test_fields_are_queried_in_contracted_space(self, field):
    config = configs.changed(field=field, hash__max_resolution=32)
    flat = model.make_renderer(config, _scene(contraction.BOX))
    scene = _scene()._replace(contracted=True)
    renderer = model.make_renderer(config, scene)
    params = jax.jit(renderer.init)(jax.random.key(0)).params
    params = jax.tree.map(lambda x: x + 0.3 * jnp.sin(7.0 * x), params)
    point = jnp.array([[[3.0, 0.0, 4.0]]])
    for name in ('coarse', 'fine'):
      density, _ = getattr(renderer, name).apply(params[name], point, point)
      expected, _ = getattr(flat, name).apply(
        params[name],
        0.36 * point,
        point,  # At a radius of 1.8 instead of 5.
      )
      np.testing.assert_allclose(density, expected, rtol=1e-4)

  def test_a_scene_that_is_not_contracted_is_unchanged(self):
    for name in ('occupancy', 'hierarchical'):
      renderer = model.make_renderer(configs.changed(renderer=name), _scene())
      contracted = getattr(renderer, 'settings', renderer).contracted
      self.assertFalse(contracted)


class BackgroundTest(chex.TestCase):
  @parameterized.parameters('device', 'host')
  def test_renderer_batches_and_update_have_the_same(self, drawn_on):
    color = (0.25, 0.5, 1.0)
    config = configs.changed(
      num_rand=16, white_bkgd=False, background=color, input=drawn_on
    )
    scene = _scene()
    empty = scenes.Images(np.zeros((64, 4), np.uint8), [[8, 8]])
    scene = scene._replace(train=scene.train._replace(images=empty))
    with mock.patch.object(training, 'make_update') as make_update:
      experiment = experiment_lib.make_experiment(config, scene)
    self.assertEqual(make_update.call_args.kwargs['background'], color)
    self.assertEqual(experiment.renderer.background, color)
    self.assertIsInstance(hash(experiment.renderer), int)
    (data,) = experiment.make_inputs(seed=0, start_step=0, num_steps=1)
    keys = jax.random.split(jax.random.key(0), 16)
    batch = experiment.inputs.make_feed().read(
      jax.tree.map(lambda x: x[0], data), keys, keys[0], 0
    )
    np.testing.assert_array_equal(
      batch.rgb, np.tile(color, (len(batch.camera), 1))
    )


class TrainRaysPerSideTest(chex.TestCase):
  @parameterized.parameters('device', 'host')
  def test_pixels_of_a_step_are_those_of_a_rendered_view(self, drawn_on):
    config = configs.changed(
      perturb=False,
      num_rand=32,
      pixel_center=True,
      input=drawn_on,
      rays_per_side=2,
      train_rays_per_side=2,
    )
    views = cameras.pinhole(camera_paths.circle(1), [[8, 8]], [8.0])
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 3), np.uint8)
    split = scenes.Split(scenes.Images(pixels, [[8, 8]]), views)
    scene = _scene()._replace(train=split, val=split, test=split)
    experiment = experiment_lib.make_experiment(config, scene)
    state = devices.replicate(experiment.init_state(jax.random.key(0)))
    view = experiment.render_image(state.variables(), views, 0).rgb
    (data,) = experiment.make_inputs(seed=0, start_step=0, num_steps=1)
    _, scalars = experiment.update(state, data, jax.random.key(1))
    step_key = jax.random.fold_in(jax.random.key(1), 0)
    keys = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(jnp.arange(8))
    per_device = 8 // jax.device_count()
    errors = []
    for device in range(jax.device_count()):
      batch = experiment.inputs.make_feed().read(
        jax.tree.map(lambda x, i=device: x[i], data),
        keys[device * per_device :][:per_device],
        step_key,
        0,
      )
      self.assertLen(batch.pixel, per_device)
      row, column = np.moveaxis(np.asarray(batch.pixel), -1, 0)
      errors.append(np.mean((view[row, column] - batch.rgb) ** 2))
    np.testing.assert_allclose(scalars['mse'], np.mean(errors), rtol=1e-4)


class NdcTest(chex.TestCase):
  def test_training_rays_are_those_of_the_views(self):
    """The loss of a step, by hand; nothing is random."""
    config = configs.changed(
      perturb=False, num_rand=16, white_bkgd=False, input='host'
    )
    pose = np.eye(4)[None, :3]
    views = cameras.pinhole(pose, [[8, 8]], [8.0])
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 3), np.uint8)
    split = scenes.Split(scenes.Images(pixels, [[8, 8]]), views)
    ndc = cameras.Ndc((2.0, 2.0))
    scene = _scene()._replace(
      train=split, val=split, test=split, near=1.0, far=9.0, ndc=ndc
    )
    experiment = experiment_lib.make_experiment(config, scene)
    state = experiment.init_state(jax.random.key(0))
    (batch,) = experiment.make_inputs(seed=0, start_step=0, num_steps=1)
    _, scalars = experiment.update(
      devices.replicate(state), batch, jax.random.key(1)
    )
    pixel = batch.pixel.reshape(-1, 2)
    x, y = (pixel[:, 1] - 4) / 8, -(pixel[:, 0] - 4) / 8
    # Of a camera at the origin that looks along -z, at the near plane z = -1.
    origins = np.stack([2 * x, 2 * y, -np.ones(16)], axis=-1)
    directions = np.tile([0.0, 0.0, 2.0], (16, 1))
    viewdirs = np.stack([x, y, -np.ones(16)], axis=-1)
    viewdirs /= np.linalg.norm(viewdirs, axis=-1, keepdims=True)
    rays = cameras.Rays(
      *(np.float32(a) for a in (origins, directions, viewdirs)),
      np.zeros((16, 1), np.float32),
      np.ones((16, 1), np.float32),
    )
    renderings = experiment.renderer.render_eval(state.variables(), rays)
    rgb = batch.color.reshape(-1, 3) / 255
    expected = sum(np.mean((x.outputs.rgb - rgb) ** 2) for x in renderings)
    np.testing.assert_allclose(scalars['loss'], expected, rtol=1e-4)


class OptimizerTest(chex.TestCase):
  @parameterized.parameters(
    ({}, 5e-4 * 0.1 ** (999 / 250_000)),
    ({'learning_rate': 1e-2}, 1e-2 * 0.1 ** (999 / 250_000)),
    ({'lr_decay': 1}, 5e-4 * 0.1 ** (999 / 1000)),
    ({'lr_decay': 1, 'decay_factor': 0.5}, 5e-4 * 0.5 ** (999 / 1000)),
    ({'lr_decay': 1, 'lr_schedule': 'constant'}, 5e-4),
    ({'lr_schedule': 'constant', 'lr_warmup': 4000}, 5e-4 / 4),
    ({'lr_schedule': 'cosine', 'num_steps': 1998}, 5e-4 * (1 + 0.1) / 2),
    ({'lr_schedule': 'cosine', 'num_steps': 999}, 5e-4 * 0.1),
    ({'lr_schedule': 'cosine', 'num_steps': 500}, 5e-4 * 0.1),
  )
  def test_learning_rate_of_the_1000th_step(self, changes, expected):
    optimizer = _make_optimizer(configs.changed(**changes))

    def step(state, _):
      update, state = optimizer.update(jnp.ones(1), state)
      return state, update

    # Adam's step for a gradient that never changes is the learning rate.
    _, updates = jax.lax.scan(step, optimizer.init(jnp.ones(1)), None, 1000)
    np.testing.assert_allclose(updates[-1], [-expected], rtol=1e-4)


class ClipTest(chex.TestCase):
  def test_gradients_are_scaled_to_the_norm(self):
    """Adam forgets a scale, but not one that changes from step to step."""

    def moment(config, gradient):
      optimizer = _make_optimizer(config)
      state = optimizer.init(jnp.ones(2))
      _, state = optimizer.update(jnp.array(gradient), state)
      return optax.tree.get(state, 'mu')

    usual = configs.changed()
    clipped = configs.changed(grad_max_norm=1.0)
    np.testing.assert_allclose(moment(usual, [3.0, 4.0]), [0.3, 0.4], rtol=1e-5)
    np.testing.assert_allclose(
      moment(clipped, [3.0, 4.0]), [0.06, 0.08], rtol=1e-5
    )
    np.testing.assert_allclose(
      moment(clipped, [0.3, 0.4]), [0.03, 0.04], rtol=1e-5
    )


class CastTest(chex.TestCase):
  def test_bounds_and_box_are_the_scene_s(self):
    box = np.array([[-0.5] * 3, [0.5] * 3], np.float32)
    for scene, near, far in ((_scene(), 2.0, 6.0), (_scene(box), 3.2, 4.8)):
      cast = model.make_cast_fn(configs.changed(), scene)
      rays = cast(
        scene.train.cameras, np.zeros(1, np.int32), np.full((1, 2), 4, np.int32)
      )
      np.testing.assert_allclose(rays.near, [[near]], atol=0.4)
      np.testing.assert_allclose(rays.far, [[far]], atol=0.4)

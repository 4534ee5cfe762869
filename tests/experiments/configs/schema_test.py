import ast
import importlib
import re
import sys
from unittest import mock

import chex
from absl import flags
from absl.testing import parameterized
from ml_collections import config_flags

from experiments.configs import (
  default,
  laptop_procedural,
  paper_blender_lego,
  schema,
  test_blender_lego,
)
from nerf_haiku import backgrounds, errors


def _config(**changes):
  """A small config with changes; `a__b` is the field `b` of section `a`."""
  config = laptop_procedural.get_config()
  for name, value in changes.items():
    *sections, field = name.split('__')
    section = config
    for part in sections:
      section = section[part]
    with section.ignore_type():
      section[field] = value
  return config


class ConfigsTest(chex.TestCase):
  def test_default_has_the_fields_of_the_flax_version(self):
    fields = dict(schema.flatten(default.get_config()))
    expected = {
      'learning_rate': 5e-4,
      'lr_schedule': 'constant * decay_every',
      'lr_decay': 250,
      'decay_factor': 0.1,
      'num_steps': 1000000,
      'batching': True,
      'num_rand': 4096,
      'dtype': 'float32',
      'emb.use_embed': True,
      'emb.periodic_fns': ('sin', 'cos'),
      'emb.multires': 10,
      'emb.multires_views': 4,
      'emb.log_sampling': True,
      'emb.include_input': True,
      'model.net_depth': 8,
      'model.net_width': 256,
      'model.skips': (4,),
      'model_fine.net_depth': 8,
      'model_fine.net_width': 256,
      'model_fine.skips': (4,),
      'precrop_iters': 0,
      'precrop_frac': 0.5,
      'num_samples': 64,
      'num_importance': 0,
      'perturb': True,
      'use_viewdirs': True,
      'raw_noise_std': 0.0,
      'render_only': False,
      'render_test': False,
      'down_factor': 1,
      'render_factor': 1,
      'white_bkgd': False,
      'dataset_type': 'llff',
      'shape': 'fern',
      'testskip': 8,
      'num_poses': 40,
      'llff.lindisp': False,
      'llff.spherify': False,
      'llff.hold': 8,
      'i_print': 100,
      'i_img': 5000,
      'i_weights': 5000,
      'i_testset': 1000000,
      'i_video': 1000000,
      'pixel_center': False,
      'density_activation': 'relu',
    }
    self.assertEqual(fields, fields | expected)

  @parameterized.parameters(
    (paper_blender_lego, 1, 128, 500_000, 500),
    (test_blender_lego, 2, 64, 200_000, 250),
  )
  def test_of_the_reference(
    self, module, down_factor, importance, steps, decay
  ):
    config = module.get_config()
    schema.check(config, num_devices=4)
    self.assertEqual(
      (config.down_factor, config.num_importance), (down_factor, importance)
    )
    self.assertEqual((config.num_steps, config.lr_decay), (steps, decay))
    self.assertEqual((config.num_rand, config.num_samples), (1024, 64))
    self.assertFalse(config.batching or config.pixel_center)
    self.assertTrue(config.white_bkgd)


class CheckTest(chex.TestCase):
  @parameterized.parameters(
    'quickstart',
    'fast_blender_lego',
    'fast_blender_lego_long',
    'fast_blender_lego_half',
    'fast_blender_lego_full',
    'fast_blender_lego_mlp',
    'fast_dvox_lego',
    'fast_llff_fern',
    'capture',
    'laptop_blender_lego',
    'laptop_tiny',
    'paper_llff_fern',
    'paper_dvox_cube',
    'test_llff_fern',
    'test_dvox_greek',
  )
  def test_shipped_ones_pass(self, name):
    module = importlib.import_module(f'experiments.configs.{name}')
    self.assertIsNone(schema.check(module.get_config(), num_devices=4))

  def test_laptop_procedural_passes(self):
    self.assertIsNone(schema.check(_config(), num_devices=1))

  @parameterized.parameters(
    ('learning_rate', 0.0, 'greater than 0'),
    ('learning_rate', float('nan'), 'a finite number'),
    ('learning_rate', '1e-3', 'a finite number'),
    ('lr_schedule', 'step', "'constant \\* decay_every', 'constant', 'cosine'"),
    ('num_steps', 0, 'must be 1'),
    ('num_steps', 1.5, 'of type int'),
    ('num_steps', True, 'of type int'),
    ('batching', 1, 'of type bool'),
    ('decay_factor', 1.5, 'up to 1'),
    ('emb__periodic_fns', ('tan',), "'sin', 'cos'"),
    ('emb__periodic_fns', (), "'sin', 'cos'"),
    ('emb__multires', 0, '1 to 32'),
    ('model__net_depth', 0, 'must be 1'),
    ('model__skips', (4,), 'layers 0 to 3'),
    ('model_fine__skips', (-1,), 'indices of layers'),
    ('model_fine__skips', ('a',), 'indices of layers'),
    ('precrop_frac', 0.0, 'greater than 0, up to 1'),
    ('precrop_iters', 10, '0 with config.batching'),
    ('num_samples', 1, 'must be 2'),
    ('num_samples', 2, 'must be 3'),
    ('num_importance', -1, 'must be 0'),
    ('raw_noise_std', -1.0, 'must be 0'),
    ('density_activation', 'gelu', "'relu', 'softplus'"),
    ('last_interval', 'near', "'infinite', 'far'"),
    ('last_interval', 'infinite', "'far' with config.density_activation"),
    ('dataset_type', 'ply', "'blender', 'deepvoxels', 'tiny', 'proc"),
    ('down_factor', 2, 'config.procedural.size'),
    ('down_factor', 0, "at least 1, but for dataset_type 'capture', 'transf"),
    ('down_factor', -1, 'must be 0'),
    ('holdout', 0, "at least 2, but for dataset_type 'capture', 'transforms'"),
    ('holdout', 1, '0, or at least 2'),
    ('testskip', -1, 'must be 0'),
    ('near', -1.0, 'must be 0'),
    ('far', 0.5, 'greater than config.near'),
    ('background', (0.5, 0.5), '3 numbers'),
    ('background', (0.5, 0.5, 1.5), '3 numbers in .0, 1.'),
    ('background', (-0.5, 0.5, 0.5), '3 numbers in .0, 1.'),
    ('background', (0.5, 0.5, float('nan')), '3 numbers'),
    ('background', ('a', 0.5, 0.5), '3 numbers'),
    ('background', (0.3, 0.4, 0.5), 'set config.white_bkgd=False'),
    ('background', (0.0, 0.0, 0.0), 'set config.white_bkgd=False'),
    ('box', (0.0, 0.0, 0.0, 1.0, 1.0), '6 numbers'),
    ('box', (0.0, 0.0, 0.0, 1.0, -1.0, 1.0), '6 numbers'),
    ('box', ('a', 0.0, 0.0, 1.0, 1.0, 1.0), '6 numbers'),
    ('procedural__size', 2, '4 to 4096'),
    ('dtype', 'float16', "'float32', 'bfloat16'"),
    ('lr_warmup', -1, 'must be 0'),
    ('grad_max_norm', -1.0, 'must be 0'),
    ('collapse_steps', 0, 'must be 1'),
    ('skip_nonfinite', 1, 'of type bool'),
    ('i_weights', 0, 'must be 1'),
    ('i_img', 0, 'must be 1'),
    ('llff__hold', -1, 'must be 0'),
    ('render_factor', -2, 'must be 0'),
    ('i_video', 0, 'must be 1'),
    ('tiny__num_train', 0, 'must be 1'),
    ('adam_b2', 1.0, 'less than 1'),
    ('adam_eps', 0.0, 'greater than 0'),
    ('batch_warmup_steps', -1, 'must be 0'),
    ('field', 'voxels', "'mlp', 'hash'"),
    ('renderer', 'octree', "'hierarchical', 'occupancy'"),
    ('hash__num_levels', 0, '1 to 32'),
    ('hash__features_per_level', 0, '1 to 16'),
    ('hash__hashmap_size', 1000, 'a power of 2'),
    ('hash__base_resolution', 0, '1 to 1024'),
    ('hash__max_resolution', -1, '0 .the width of a pixel'),
    ('hash__density_width', 0, 'must be 1'),
    ('hash__geo_feat_dim', 0, 'must be 1'),
    ('hash__color_width', 0, 'must be 1'),
    ('hash__color_depth', -1, 'must be 0'),
    ('proposal__num_samples', (), '1 to 4 whole numbers'),
    ('proposal__num_samples', (64, 0), '1 to 4 whole numbers'),
    ('proposal__num_samples', (64.0,), '1 to 4 whole numbers'),
    ('proposal__loss_weight', 0.0, 'greater than 0'),
    ('proposal__num_levels', 0, '1 to 32'),
    ('proposal__features_per_level', 17, '1 to 16'),
    ('proposal__hashmap_size', 1000, 'a power of 2'),
    ('proposal__base_resolution', 0, '1 to 1024'),
    ('proposal__max_resolution', 0, 'must be 1'),
    ('proposal__density_width', 0, 'must be 1'),
    ('occupancy__resolution', 3, 'or 4 to 512'),
    ('occupancy__step_size', -0.1, 'must be 0'),
    ('occupancy__max_samples', 0, 'must be 1'),
    ('occupancy__alpha_threshold', 1.0, 'less than 1'),
    ('occupancy__ema_decay', 0.0, 'greater than 0'),
    ('occupancy__update_every', 0, 'must be 1'),
    ('occupancy__warmup_steps', -1, 'must be 0'),
    ('num_steps', 2**31, '1 to 2147483647'),
    ('num_rand', 10**9, '1 to 16777216'),
    ('learning_rate', 1e300, 'greater than 0, up to 1'),
    ('model__net_width', 2**20, '2 to 16384'),
    ('num_poses', 10**9, '1 to 100000'),
    ('far', 1e30, 'or 1e-09 to 1000000000'),
    ('box', (0.0, 0.0, 0.0, 1e30, 1e30, 1e30), 'at most 1000000000'),
    ('box', (0.0, 0.0, 0.0, 1e-300, 1.0, 1.0), '6 numbers'),
    ('near', 1e-300, 'or 1e-09 to'),
    ('adam_eps', 1e-300, '1e-30 to 1'),
    ('occupancy__step_size', 1e-300, 'or 1e-06 to'),
    ('emb__periodic_fns', ('sin',) * 3, "'sin', 'cos'"),
    ('emb__periodic_fns', ([],), "'sin', 'cos'"),
    ('procedural__num_train', 10**6, 'all views have at most'),
  )
  def test_one_error_names_field_value_and_cure(self, name, value, cure):
    changes = {name: value} | ({'near': 1.0} if name == 'far' else {})
    dotted = name.replace('__', '.')
    with self.assertRaisesRegex(errors.UserError, cure) as caught:
      schema.check(_config(**changes), num_devices=1)
    self.assertStartsWith(str(caught.exception), f'config.{dotted}: ')
    self.assertIn(repr(value), str(caught.exception))

  @parameterized.parameters(
    ({'dataset_type': 'llff', 'llff__lindisp': True}, 'llff.lindisp: got True'),
    (
      {'renderer': 'occupancy', 'llff__lindisp': True},
      'llff.lindisp: got True.*even in depth',
    ),
    (
      {'renderer': 'proposal', 'llff__lindisp': True},
      'llff.lindisp: got True.*even in depth',
    ),
    (
      {'dataset_type': 'llff', 'box': (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)},
      r'box: got .*llff.spherify=True',
    ),
    (
      {'dataset_type': 'deepvoxels', 'white_bkgd': False},
      'white_bkgd: got False; must be True with DeepVoxels',
    ),
    (
      {
        'dataset_type': 'deepvoxels',
        'white_bkgd': False,
        'background': (0.0, 0.4, 0.5),
      },
      r'background: got \(0.0, 0.4, 0.5\); must be \(1, 1, 1\) with DeepVoxels',
    ),
    (
      {'dataset_type': 'colmap', 'pixel_center': False},
      'pixel_center: got False; must be True with .*colmap',
    ),
    (
      {'dataset_type': 'llff', 'contraction': True},
      'contraction: got True; .*llff.spherify=True',
    ),
    (
      {'dataset_type': 'llff', 'gradient_scaling': 0.5},
      'gradient_scaling: got 0.5; .*llff.spherify=True',
    ),
    (
      {'dataset_type': 'llff', 'cones': True},
      'cones: got True; .*llff.spherify=True',
    ),
    (
      {'dataset_type': 'blender', 'num_scales': 4, 'pixel_center': False},
      'num_scales: got 4; .*pixel_center=True',
    ),
    (
      {'dataset_type': 'blender', 'rays_per_side': 0, 'pixel_center': False},
      'rays_per_side: got 0; .*pixel_center=True',
    ),
    (
      {
        'dataset_type': 'blender',
        'train_rays_per_side': 2,
        'pixel_center': False,
      },
      'train_rays_per_side: got 2; .*pixel_center=True',
    ),
  )
  def test_what_does_not_fit_the_data(self, changes, message):
    with self.assertRaisesRegex(errors.UserError, f'config.{message}'):
      schema.check(_config(**changes), num_devices=1)
    changes |= {
      'llff__spherify': True,
      'white_bkgd': True,
      'background': (),
      'renderer': 'hierarchical',
      'pixel_center': True,
    }
    self.assertIsNone(schema.check(_config(**changes), num_devices=1))

  @parameterized.parameters(
    ('box', (0.0, 0.0, 0.0, 1.0, 1.0, 1.0), {}),
    ('bounds', 'cameras', {}),
    ('llff__lindisp', True, {'dataset_type': 'llff', 'llff__spherify': True}),
  )
  def test_what_does_not_fit_unbounded_space(self, name, value, changes):
    changes = {name: value} | changes
    self.assertIsNone(schema.check(_config(**changes), num_devices=1))
    with self.assertRaisesRegex(errors.UserError, 'contraction=True') as caught:
      schema.check(_config(contraction=True, **changes), num_devices=1)
    dotted = name.replace('__', '.')
    self.assertStartsWith(str(caught.exception), f'config.{dotted}: got ')

  def test_a_batch_warmup_that_saves_nothing_is_noticed(self):
    config = _config(batch_warmup_steps=7)
    self.assertIsNone(schema.check(config, num_devices=1))
    for renderer in ('hierarchical', 'proposal'):
      config.renderer = renderer
      (notice,) = schema.notices(config)
      self.assertRegex(
        notice, f"batch_warmup_steps=7 saves no time .*renderer='{renderer}'"
      )
    self.assertEmpty(
      schema.notices(_config(batch_warmup_steps=7, renderer='occupancy'))
    )
    self.assertEmpty(schema.notices(_config()))

  @parameterized.parameters(
    (True, (), backgrounds.WHITE),
    (False, (), backgrounds.BLACK),
    (False, (0.3, 0.4, 0.5), (0.3, 0.4, 0.5)),
    (False, (1, 1, 1), backgrounds.WHITE),
    (True, (1, 1, 1), backgrounds.WHITE),
    (False, (0, 0, 0), backgrounds.BLACK),
  )
  def test_background(self, white_bkgd, background, expected):
    config = _config(white_bkgd=white_bkgd, background=background)
    self.assertIsNone(schema.check(config, num_devices=1))
    found = schema.background(config)
    self.assertEqual(found, expected)
    self.assertEqual({type(x) for x in found}, {float})

  @parameterized.parameters(
    {'white_bkgd': True}, {'white_bkgd': False, 'background': (0.0, 0.0, 0.1)}
  )
  def test_an_opaque_end_hides_any_color(self, **changes):
    hidden = {'density_activation': 'softplus', 'last_interval': 'infinite'}
    config = _config(**hidden, **changes)
    with self.assertRaisesRegex(
      errors.UserError, 'last_interval: .*white_bkgd, config.background'
    ):
      schema.check(config, num_devices=1)
    for black in ((), (0, 0, 0)):
      config = _config(**hidden, white_bkgd=False, background=black)
      self.assertIsNone(schema.check(config, num_devices=1))

  @parameterized.parameters(
    (False, (), backgrounds.WHITE, {'white_bkgd': True}),
    (True, (), backgrounds.BLACK, {'white_bkgd': False}),
    (False, (), (0.298, 0.4, 0.5), {'background': (0.298, 0.4, 0.5)}),
    (
      True,
      (),
      (0.298, 0.4, 0.5),
      {'white_bkgd': False, 'background': (0.298, 0.4, 0.5)},
    ),
    (False, (0.3, 0.4, 0.5), backgrounds.WHITE, {'background': (1, 1, 1)}),
    (
      True,
      (1, 1, 1),
      backgrounds.BLACK,
      {'white_bkgd': False, 'background': (0, 0, 0)},
    ),
    # Photos without alpha are opaque on a random background.
    (True, (), backgrounds.WHITE, {'random_background': False}),
    (
      False,
      (),
      backgrounds.WHITE,
      {'white_bkgd': True, 'random_background': False},
    ),
  )
  def test_photos_on_another_background(
    self, white_bkgd, background, shown, changes
  ):
    """The flags of the notice, as a command line has them, fit the photos."""
    config = _config(
      white_bkgd=white_bkgd,
      background=background,
      random_background='random_background' in changes,
    )
    self.assertEmpty(schema.notices(config))
    (notice,) = schema.notices(config, shown)
    self.assertIn(f'photos are {backgrounds.describe(shown)}, ', notice)
    given = re.findall(r'--config\.(\w+=[\w.,]*\w)', notice)
    values = dict(x.split('=') for x in given)
    self.assertEqual(
      {name: ast.literal_eval(x) for name, x in values.items()}, changes
    )
    flag_values = flags.FlagValues()
    argv = ['train.py', *(f'--config.{x}' for x in given)]
    with mock.patch.object(sys, 'argv', argv):
      config_flags.DEFINE_config_dict('config', config, flag_values=flag_values)
      flag_values(argv)
    self.assertIsNone(schema.check(config, num_devices=1))
    self.assertEqual(schema.background(config), shown)
    self.assertEmpty(schema.notices(config, shown))

  @parameterized.parameters(
    (False, (), (0.02, 0.0, 0.03)),
    (True, (), backgrounds.WHITE),
    (False, (0.3, 0.4, 0.5), (0.31, 0.39, 0.52)),
  )
  def test_photos_on_the_background(self, white_bkgd, background, shown):
    config = _config(white_bkgd=white_bkgd, background=background)
    self.assertEmpty(schema.notices(config, shown))

  def test_no_notice_asks_for_what_is_refused(self):
    config = _config(dataset_type='deepvoxels', white_bkgd=True)
    self.assertEmpty(schema.notices(config, (0.3, 0.4, 0.5)))

  def test_devices_divide_the_batch(self):
    with self.assertRaisesRegex(
      errors.UserError, 'config.num_rand: got 1022.*multiple of the 4 devices'
    ):
      schema.check(_config(num_rand=1022), num_devices=4)

  def test_rays_of_a_pixel_are_on_one_device(self):
    config = _config(num_rand=72, train_rays_per_side=3, pixel_center=True)
    schema.check(config, num_devices=4)
    with self.assertRaisesRegex(
      errors.UserError,
      'config.num_rand: got 72.*multiple of 45.*train_rays_per_side',
    ):
      schema.check(config, num_devices=5)

  @parameterized.parameters(
    ('hash', {'field': 'hash'}), ('proposal', {'renderer': 'proposal'})
  )
  def test_all_levels_of_a_grid(self, name, used):
    changes = {
      f'{name}__hashmap_size': 2**26,
      f'{name}__features_per_level': 16,
    }
    self.assertIsNone(schema.check(_config(**changes), num_devices=1))
    with self.assertRaisesRegex(
      errors.UserError, f'{name}.hashmap_size: got 67108864'
    ):
      schema.check(_config(**used, **changes), num_devices=1)

  def test_unknown_and_missing_fields(self):
    config = _config()
    config.learning_rat = 1.0
    with self.assertRaisesRegex(
      errors.UserError, 'learning_rat: there is no such'
    ):
      schema.check(config, num_devices=1)
    config = _config()
    del config.emb.multires
    with self.assertRaisesRegex(errors.UserError, 'emb.multires: is missing'):
      schema.check(config, num_devices=1)

  @parameterized.parameters(
    {'learning_rate': 1},
    {'testskip': 0},
    {'model_fine__skips': ()},
    {'num_importance': 0, 'model_fine__skips': (9,)},
    {'near': 0},
    {'box': (-1, -1, -1, 1, 1, 1)},
    {'batching': False, 'precrop_iters': 10},
  )
  def test_what_is_allowed(self, **changes):
    self.assertIsNone(schema.check(_config(**changes), num_devices=1))

import pathlib
import re

from absl.testing import absltest, parameterized

from experiments.configs import (
  default,
  paper_blender_lego,
  paper_dvox_cube,
  paper_llff_fern,
  reference,
  schema,
)
from nerf_haiku import errors

_RUNNING = pathlib.Path(__file__).parents[3] / 'docs' / 'running.md'
_LEGO = """
expname = blender_paper_lego
basedir = ./logs
datadir = ./data/nerf_synthetic/lego
dataset_type = blender

no_batching = True

use_viewdirs = True
white_bkgd = True
lrate_decay = 500

N_samples = 64
N_importance = 128
N_rand = 1024

precrop_iters = 500
precrop_frac = 0.5

half_res = True
"""
_FERN = """
expname = fern_test
datadir = ./data/nerf_llff_data/fern
dataset_type = llff
factor = 4
llffhold = 8
N_rand = 4096
N_samples = 64
N_importance = 128
use_viewdirs = True
raw_noise_std = 1e0
"""
_CUBE = """
expname = dvox_cube
datadir = ./data/deepvoxels
dataset_type = deepvoxels
shape = cube
no_batching = True
use_viewdirs = True
white_bkgd = True
lrate_decay = 200
N_samples = 64
N_importance = 128
N_rand = 4096
"""
# The intervals of outputs, rays per call and steps are no settings of the
# paper's; the reference implementation has these defaults.
_DEFAULTS = {
  'chunk': 32768,
  'i_img': 500,
  'i_weights': 10_000,
  'i_testset': 50_000,
  'i_video': 50_000,
  'num_steps': 1_000_000,
  'render_factor': 0,
}


class ReferenceTest(parameterized.TestCase):
  def _file(self, text):
    return self.create_tempfile('mine.txt', content=text).full_path

  @parameterized.parameters(
    (_LEGO, paper_blender_lego, {'down_factor': 2, 'precrop_iters': 500}),
    (_FERN, paper_llff_fern, {}),
    (_CUBE, paper_dvox_cube, {}),
  )
  def test_files_of_the_paper_are_our_configs_of_it(self, text, ours, others):
    config = reference.get_config(self._file(text))
    schema.check(config, num_devices=4)
    expected = dict(schema.flatten(ours.get_config())) | _DEFAULTS | others
    self.assertEqual(dict(schema.flatten(config)), expected)

  def test_flags(self):
    path = self._file(_LEGO + 'random_seed = 3\nft_path = None\n')
    self.assertEqual(
      reference.read(path).flags,
      {
        'model_dir': 'logs/blender_paper_lego',
        'data_dir': './data/nerf_synthetic/lego',
        'seed': 3,
      },
    )
    self.assertEqual(
      reference.read(self._file('')).flags, {'model_dir': 'runs/mine'}
    )

  @parameterized.parameters(
    ('perturb = 0.', 'perturb', False),
    ('perturb: 0.5', 'perturb', True),
    ('no_batching', 'batching', False),
    ('no_batching = false', 'batching', True),
    ('--N_rand 77 ; fewer', 'num_rand', 77),
    ("lrate = '3e-4'  # small", 'learning_rate', 3e-4),
    ('N_rand = 3\nN_rand = 5', 'num_rand', 5),
    ('[section]\n# N_rand = 3\n---\nN_samples=9', 'num_samples', 9),
    ('i_embed = -1', 'emb.use_embed', False),
    ('netdepth = 4', 'model.skips', ()),
    ('netwidth_fine = 7', 'model_fine.net_width', 7),
    ('precrop_iters = 9', 'precrop_iters', 0),
    ('no_ndc = 1\nspherify = on', 'llff.spherify', True),
    ('', 'use_viewdirs', False),
    ('', 'down_factor', 8),
    ('', 'num_poses', 120),
    ('datadir = /a/horns/', 'shape', 'horns'),
    ('dataset_type = blender\nspherify = True', 'llff.spherify', False),
  )
  def test_a_line(self, text, field, expected):
    fields = reference.read(self._file(text)).fields
    self.assertEqual(fields[field], expected)

  def test_every_field_exists(self):
    ours = dict(schema.flatten(default.get_config()))
    self.assertContainsSubset(reference.read(self._file('')).fields, ours)
    for name, option in reference.OPTIONS.items():
      if option.name.startswith('config.'):
        self.assertIn(option.name.removeprefix('config.'), ours, name)

  @parameterized.parameters(
    ('N_rnd = 3', 'line 1: N_rnd is no option .*; did you mean N_rand'),
    ('\nN_rand = many', "line 2: N_rand: got 'many'; must be of type int"),
    ('white_bkgd = 3', "white_bkgd: got '3'; must be True or False"),
    ('= 3', "got '= 3'; must be OPTION = VALUE"),
    ('config = x', 'line 1: config: .*remove it'),
    ('no_reload = True', 'line 1: no_reload: .*choose another expname'),
    ('dataset_type = LINEMOD', "dataset_type: got 'LINEMOD'; must be one of"),
    ('no_ndc = True', 'line 1: no_ndc: .*add spherify = True'),
    ('spherify = True', 'line 1: spherify: .*add no_ndc = True'),
  )
  def test_refuses(self, text, message):
    with self.assertRaisesRegex(errors.UserError, message) as caught:
      reference.read(self._file(text))
    self.assertNotIn('\n', str(caught.exception))

  def test_notices(self):
    path = self._file('netchunk = 3\nprecrop_iters = 9')
    self.assertEqual(
      reference.read(path).notices,
      (
        f'{path}: netchunk has no effect here: config.microbatch bounds '
        'memory.',
        f'{path}: precrop_iters has no effect without no_batching = True.',
      ),
    )
    self.assertEmpty(reference.read(self._file(_LEGO)).notices)

  @parameterized.parameters(
    ('N_rand', 'write --config.num_rand here.'),
    ('expname', 'write --model_dir here (the folder basedir/expname).'),
    ('no_reload', 'does not exist here: to start anew, choose another'),
  )
  def test_describes(self, name, text):
    self.assertIn(text, reference.describe(name))

  def test_docs_list_all_options(self):
    text = _RUNNING.read_text('utf-8')
    rows = re.findall(
      r'^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) ?\|$', text, re.M
    )
    expected = [
      (
        name,
        '' if option.default is None else f'`{option.default}`',
        f'`{option.name}`' if option.name else 'none',
        option.note,
      )
      for name, option in reference.OPTIONS.items()
    ]
    self.assertEqual(
      [row for row in rows if row[0] in reference.OPTIONS], expected
    )


if __name__ == '__main__':
  absltest.main()

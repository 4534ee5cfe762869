"""Real processes, from the command line to the files they leave."""

import json
import os
import pathlib
import subprocess
import sys

import chex
import imageio.v3 as iio
import numpy as np
import pytest
from absl.testing import parameterized

from nerf_haiku.datasets import procedural, writers
from tests import shared

_ROOT = pathlib.Path(__file__).parents[1]
_CONFIGS = _ROOT / 'experiments' / 'configs'
# A network and a number of samples that take no time.
_SMALL = (
  '--config.model.net_width=16', '--config.model.net_depth=2',
  '--config.model.skips=()', '--config.model_fine.net_width=16',
  '--config.model_fine.net_depth=2', '--config.model_fine.skips=()',
  '--config.num_samples=8', '--config.num_importance=8',
)  # fmt: skip


def _train(*arguments, folder, devices=1, status=0):
  """Runs `train.py` in a folder; gives its two outputs, line by line."""
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'} | {
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    'JAX_PLATFORMS': 'cpu',
  }
  done = subprocess.run(
    [sys.executable, _ROOT / 'experiments' / 'train.py', *arguments],
    cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == status, done.stderr
  return done.stdout.splitlines(), done.stderr.splitlines()


class BadInputTest(chex.TestCase):
  @parameterized.named_parameters(
    ('field', ['--config.num_steps=0'], 'config.num_steps: got 0; allowed: 1'),
    (
      'unknown_field', ['--config.emb.multirez=3'],
      "--config: there is no field 'multirez'. Did you mean \"multires\"",
    ),
    ('config_file', ['--config=no.py'], '--config: there is no file no.py'),
    (
      'field_before_config',
      ['--config.num_steps=0', '--config', f'{_CONFIGS}/quickstart.py'],
      'config.num_steps: got 0',
    ),
    (
      'no_data', [f'--config={_CONFIGS}/paper_blender_lego.py'],
      '--data_dir: say where',
    ),
    (
      'nothing_there',
      [f'--config={_CONFIGS}/paper_blender_lego.py', '--data_dir=no where'],
      "data_dir='no where' is not a folder",
    ),
  )  # fmt: skip
  def test_one_line_and_nothing_written(self, arguments, message):
    folder = self.create_tempdir().full_path
    out, err = _train(*arguments, folder=folder, status=1)
    self.assertEmpty(out)
    self.assertLen(err, 1)
    self.assertStartsWith(err[0], f'Error: {message}')
    self.assertEmpty(os.listdir(folder))


@pytest.mark.slow
class TrainTest(chex.TestCase):
  def _folder(self):
    return pathlib.Path(self.create_tempdir().full_path)

  def test_without_a_flag(self):
    """But with a few that make the quickstart quicker."""
    folder = self._folder()
    out, err = _train(
      *_SMALL, '--config.num_steps=5', '--config.i_print=2',
      '--config.procedural.size=16', '--config.procedural.num_test=3',
      folder=folder,
    )  # fmt: skip
    self.assertEmpty(err)  # No library's chatter.
    steps = [x for x in out if x.startswith('step')]
    self.assertLen(steps, 3)
    self.assertRegex(
      out[-1],
      r'^PSNR \d+\.\d\d dB over 3 test views after \d+ s of training: '
      r'runs/quickstart/results.json, picture: ',
    )
    stored = json.loads((folder / 'runs/quickstart/results.json').read_text())
    self.assertEqual((stored['views'], stored['steps']), (3, 5))
    views = sorted((folder / 'runs/quickstart/test').glob('view_*.png'))
    self.assertEqual(
      [iio.imread(x).shape for x in views], [(16, 3 * 16 + 2 * 4, 3)] * 3
    )

  @parameterized.parameters(1, 4)
  def test_blender_files_of_odd_sizes(self, devices):
    folder = self._folder()
    made = procedural.make_scene(
      seed=1, size=(33, 17), num_train=5, num_val=2, num_test=4
    )
    writers.write_blender(made, folder / 'my data' / 'still')
    out, err = _train(
      *_SMALL, f'--config={_CONFIGS}/test_blender_lego.py',
      '--data_dir=my data', '--config.shape=still', '--config.num_steps=3',
      '--config.testskip=2', '--config.down_factor=1',
      '--model_dir=a run', folder=folder, devices=devices,
    )  # fmt: skip
    self.assertEmpty(err)
    self.assertIn('2 test views of 17x33', '\n'.join(out))
    stored = json.loads((folder / 'a run' / 'results.json').read_text())
    self.assertLen(stored['ssim_per_view'], 2)
    self.assertEqual(stored['background'], 'white')
    picture = iio.imread(folder / 'a run' / 'test' / 'view_001.png')
    truth = picture[:, 17 + 4 : 2 * 17 + 4].astype(int)
    rgba = made.test.images[2].astype(float)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(truth, expected, atol=0.51)

  @parameterized.parameters('paper_blender_lego', 'test_blender_lego')
  def test_the_original_s_configs_on_lego(self, name):
    folder = self._folder()
    out, err = _train(
      *_SMALL, f'--config={_CONFIGS}/{name}.py',
      f'--data_dir={shared.folder("data")}', '--config.num_steps=2',
      '--config.testskip=200', '--model_dir=run', folder=folder,
    )  # fmt: skip
    self.assertEmpty(err)
    size = 800 if name == 'paper_blender_lego' else 400
    self.assertIn(
      f'100 train views of {size}x{size}; 1 val views of {size}x{size}; '
      f'1 test views of {size}x{size}', out,
    )  # fmt: skip
    stored = json.loads((folder / 'run' / 'results.json').read_text())
    self.assertEqual((stored['views'], stored['steps']), (1, 2))

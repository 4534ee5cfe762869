"""Real processes, from the command line to the files they leave."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

import chex
import imageio.v3 as iio
import numpy as np
import orbax.checkpoint as ocp
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


def _environment(devices):
  return {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'} | {
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    'JAX_PLATFORMS': 'cpu',
    # Not the user's own; what one test has compiled serves the others.
    'JAX_COMPILATION_CACHE_DIR': f'{tempfile.gettempdir()}/nerf_haiku_tests',
  }


def _train(*arguments, folder, devices=1, status=0):
  """Runs `train.py` in a folder; gives its two outputs, line by line."""
  done = subprocess.run(
    [sys.executable, _ROOT / 'experiments' / 'train.py', *arguments],
    cwd=folder, env=_environment(devices), capture_output=True, text=True,
    timeout=300,
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
    ('unknown_flag', ['--configs=x'], "Unknown command line flag 'configs'"),
    (
      'saved_config', [f'--config={_CONFIGS}/saved.py:no.json'],
      'ValueError: no.json is no config of a run',
    ),
    ('init_from', ['--init_from=no'], '--init_from: There is no checkpoint'),
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
class StopTest(chex.TestCase):
  _ARGUMENTS = (
    *_SMALL, '--config.num_rand=16', '--config.i_print=10',
    '--config.procedural.size=8', '--config.procedural.num_train=3',
    '--config.procedural.num_test=1', '--compilation_cache=cache',
  )  # fmt: skip

  def _state(self, folder, step):
    return ocp.StandardCheckpointer().restore(
      folder / 'checkpoints' / str(step) / 'state'
    )

  @parameterized.parameters(signal.SIGTERM, signal.SIGINT)
  def test_a_stop_leaves_no_trace(self, number):
    folder = pathlib.Path(self.create_tempdir().full_path)
    process = subprocess.Popen(
      [sys.executable, _ROOT / 'experiments' / 'train.py', *self._ARGUMENTS,
       '--config.num_steps=1000000', '--model_dir=run'],
      cwd=folder, env=_environment(1), stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
      if line.startswith('step'):
        process.send_signal(number)
        break
    _, err = process.communicate(timeout=120)
    self.assertEqual(process.returncode, 128 + number)
    match = re.search(r'kept after step (\d+): the same command goes on', err)
    stopped = int(match[1])
    last = stopped + 100
    out, err = _train(
      *self._ARGUMENTS, f'--config.num_steps={last}', '--model_dir=run',
      folder=folder,
    )  # fmt: skip
    self.assertEmpty(err)
    self.assertIn(f'Goes on from its checkpoint of step {stopped}.', out)
    _train(
      *self._ARGUMENTS, f'--config.num_steps={last}', '--model_dir=whole',
      folder=folder,
    )  # fmt: skip
    chex.assert_trees_all_equal(
      self._state(folder / 'run', last), self._state(folder / 'whole', last)
    )
    self._check_again(folder, last)

  def _check_again(self, folder, last):
    """A finished run, asked for by its own config file, does nothing."""
    saved = f'{_CONFIGS}/saved.py:run/config.json'
    out, _ = _train(
      f'--config={saved}', '--model_dir=run', folder=folder, devices=1
    )
    self.assertIn(f'finished after {last} steps: nothing is left', out[0])
    out, _ = _train(
      f'--config={saved}', '--dry_run', '--model_dir=none', folder=folder
    )
    self.assertIn('mlp/bottleneck', '\n'.join(out))
    self.assertFalse((folder / 'none').exists())


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

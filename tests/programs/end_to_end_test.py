"""Real processes, from the command line to the files they leave."""

import functools
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
import pytest
from absl.testing import parameterized

from experiments.benchmarks import commands
from nerf_haiku.datasets import writers
from nerf_haiku.datasets.procedural import photographs
from tests.support import environment, forked, shared

_ROOT = pathlib.Path(__file__).parents[2]
_CONFIGS = _ROOT / 'experiments' / 'configs'
# The stored results of a run hold its config, as its config.json does.
_SAVED = f'{_CONFIGS}/saved.py:{_ROOT}/docs/results/laptop_procedural.json'
_LAPTOP = (
  f'--config={_CONFIGS}/laptop_procedural.py',
  *commands.SMALL_NETWORKS,
)


def _run(program, *arguments, folder, devices=1, status=0):
  """Runs a program in a folder; gives its two outputs, line by line."""
  ended = forked.run(program, *arguments, folder=folder, devices=devices)
  assert ended.code == status, '\n'.join(ended.err)
  return ended.out, ended.err


_train = functools.partial(_run, 'train')


# Runs a program, and says whether something imported TensorFlow.
_WITH_IMPORTS = """
import atexit, runpy, sys
atexit.register(lambda: print('tensorflow' in sys.modules))
program = sys.argv.pop(1)
runpy.run_path(program, run_name='__main__')
"""


class ImportsTest(chex.TestCase):
  @pytest.mark.slow
  def test_a_run_whose_images_fit_needs_no_tensorflow(self):
    """Training, validation, scores, TensorBoard's records and all."""
    folder = self.create_tempdir().full_path
    done = subprocess.run(
      [
        sys.executable,
        '-c',
        _WITH_IMPORTS,
        str(_ROOT / 'experiments' / 'train.py'),
        *_LAPTOP,
        '--model_dir=run',
        '--config.num_steps=4',
        '--config.i_img=2',
      ],
      cwd=folder,
      env=environment.make(1),
      capture_output=True,
      text=True,
      check=False,
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual(done.stdout.splitlines()[-1], 'False')
    stored = json.loads((pathlib.Path(folder) / 'run/results.json').read_text())
    self.assertEqual(stored['drawn_on'], 'device')
    self.assertGreater(stored['ssim'], 0)


class BadInputTest(chex.TestCase):
  @parameterized.named_parameters(
    ('field', ['--config.num_steps=0'], 'config.num_steps: got 0; must be 1'),
    (
      'unknown_field',
      ['--config.emb.multirez=3'],
      '--config: there is no field \'multirez\'. Did you mean "multires"',
    ),
    (
      'unknown_section',
      ['--config.embedding.multires=3'],
      "--config: there is no field 'embedding'",
    ),
    (
      'value_after_a_blank',
      ['--config.use_viewdirs', 'False'],
      "unexpected argument 'False': write --config.use_viewdirs=False.",
    ),
    ('no_flag', ['x'], "unexpected argument 'x': flags are written --NAME=V"),
    (
      'option_of_the_reference',
      ['--N_rand=9'],
      '--N_rand is an option of the reference implementation; write '
      '--config.num_rand here.',
    ),
    (
      'field_without_config',
      ['--nouse_viewdirs'],
      '--nouse_viewdirs is no flag, but a field of the config: write '
      '--config.use_viewdirs=False.',
    ),
    ('no_name', ['--config.x-y=3'], '--config.x-y: there is no such field'),
    ('nul', ['--model_dir=a\0b'], '--model_dir: got'),
    (
      'not_utf8',
      [f'--model_dir={os.fsdecode(bytes([255]))}'],
      r'--model_dir: \udcff is no valid text in this locale',
    ),
    ('too_long', [f'--model_dir={"x" * 300}'], '--model_dir: xxx'),
    ('unknown_flag', ['--configs=x'], "Unknown command line flag 'configs'"),
    (
      'saved_config',
      [f'--config={_CONFIGS}/saved.py:no.json'],
      'no.json was not written by a run',
    ),
    (
      'no_field_of_a_missing_config_file',
      ['--config=no.py', '--config.num_steps=1'],
      '--config: there is no file no.py',
    ),
    (
      'saved_config_without_its_folder',
      [f'--config={_SAVED}'],
      '--model_dir is required with --config=saved.py',
    ),
    (
      'init_from',
      ['--init_from=no', *commands.TINY_HASH],
      '--init_from: There is no checkpoint',
    ),
    ('config_file', ['--config=no.py'], '--config: there is no file no.py'),
    (
      'field_before_config',
      ['--config.num_steps=0', '--config', f'{_CONFIGS}/quickstart.py'],
      'config.num_steps: got 0',
    ),
    (
      'no_data',
      [f'--config={_CONFIGS}/paper_blender_lego.py'],
      '--data_dir is required',
    ),
    (
      'nothing_there',
      [f'--config={_CONFIGS}/paper_blender_lego.py', '--data_dir=no where'],
      "data_dir='no where' is not a folder",
    ),
  )
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
    *_LAPTOP,
    '--config.num_rand=16',
    '--config.i_print=10',
    '--config.procedural.size=8',
    '--config.procedural.num_train=3',
    '--config.procedural.num_test=1',
  )

  def test_a_stopped_run_resumes(self):
    """By SIGINT; `preemption_test` and `steps_test` see that no bit differs."""
    folder = pathlib.Path(self.create_tempdir().full_path)
    process = subprocess.Popen(
      [
        sys.executable,
        _ROOT / 'experiments' / 'train.py',
        *self._ARGUMENTS,
        '--config.num_steps=1000000',
        '--model_dir=run',
      ],
      cwd=folder,
      env=environment.make(1),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for line in process.stdout:
      if line.startswith('step'):
        process.send_signal(signal.SIGINT)
        break
    _, err = process.communicate(timeout=120)
    self.assertEqual(process.returncode, 128 + signal.SIGINT)
    match = re.search(r'after step (\d+); the checkpoint is saved. Run', err)
    stopped = int(match[1])
    last = stopped + 100
    out, err = _train(
      *self._ARGUMENTS,
      f'--config.num_steps={last}',
      '--model_dir=run',
      folder=folder,
    )
    self.assertEmpty(err)
    self.assertIn(f'Resuming from the checkpoint of step {stopped}.', out)
    self._check_again(folder, last)

  def _check_again(self, folder, last):
    """A finished run, asked for by its own config file, does nothing."""
    saved = f'{_CONFIGS}/saved.py:run/config.json'
    out, _ = _train(
      f'--config={saved}', '--model_dir=run', folder=folder, devices=1
    )
    self.assertIn(f'finished after {last} steps: there is nothing left', out[0])
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
    done = subprocess.run(
      [
        sys.executable,
        _ROOT / 'experiments' / 'train.py',
        *commands.TINY_HASH,
        '--config.num_steps=5',
        '--config.i_print=2',
        '--config.procedural.num_test=3',
      ],
      cwd=folder,
      env=environment.make(1, quick=False),
      capture_output=True,
      text=True,
      timeout=300,
    )
    self.assertEqual((done.returncode, done.stderr), (0, ''))  # No chatter.
    out = done.stdout.splitlines()
    steps = [x for x in out if x.startswith('step')]
    self.assertLen(steps, 3)
    self.assertRegex(
      out[-1],
      r'^PSNR \d+\.\d\d dB over 3 test views '
      r'\(process: \d+ s, steps: \d+ s\)\. '
      r'Results: runs/quickstart/results.json, picture: ',
    )
    stored = json.loads((folder / 'runs/quickstart/results.json').read_text())
    self.assertEqual((stored['views'], stored['steps']), (3, 5))
    views = sorted((folder / 'runs/quickstart/test').glob('view_*.png'))
    self.assertEqual(
      [iio.imread(x).shape for x in views], [(16, 3 * 16 + 2 * 4, 3)] * 3
    )
    # What was learnt, its occupancy grid too, is read back.
    _run('evaluate', '--model_dir=runs/quickstart', folder=folder)
    (path,) = (folder / 'runs/quickstart').glob('evaluation_*/results.json')
    again = json.loads(path.read_text())
    self.assertEqual(again['psnr_per_view'], stored['psnr_per_view'])

  def test_blender_files_of_odd_sizes(self):
    folder = self._folder()
    made = photographs.make_scene(
      seed=1, size=(33, 17), num_train=5, num_val=2, num_test=4
    )
    writers.write_blender(made, folder / 'my data' / 'still')
    out, err = _train(
      *commands.SMALL_NETWORKS,
      f'--config={_CONFIGS}/test_blender_lego.py',
      '--data_dir=my data',
      '--config.shape=still',
      '--config.num_steps=3',
      '--config.testskip=2',
      '--config.down_factor=1',
      '--model_dir=a run',
      folder=folder,
      devices=4,
    )
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

  @parameterized.parameters(
    (
      'test_blender_lego',
      ['--config.testskip=200', '--config.down_factor=8'],
      '100 train views of 100x100; 1 val views of 100x100; '
      '1 test views of 100x100',
      (3, 12, 12),
    ),
    (
      'test_llff_fern',
      ['--config.llff.hold=20'],
      '19 train views of 504x378; 1 val views of 504x378; '
      '1 test views of 504x378',
      (3, 47, 63),
    ),
    (
      'test_dvox_greek',
      ['--config.shape=lego', '--config.testskip=16', '--config.down_factor=4'],
      '40 train views of 128x128; 1 val views of 128x128; '
      '1 test views of 128x128',
      (1, 16, 16),
    ),
  )
  def test_configs_of_the_reference(self, name, changes, splits, video):
    """One of each layout starts, steps and renders; few samples, tiny networks.

    The others differ from them in numbers, which `config_test` knows.
    """
    folder, data = self._folder(), shared.folder('data')
    config = (f'--config={_CONFIGS}/{name}.py', *changes)
    out, err = _train(
      *config,
      *commands.SMALL_NETWORKS,
      '--config.num_samples=3',
      '--config.num_importance=2',
      f'--data_dir={data}',
      '--config.num_steps=2',
      '--model_dir=run',
      folder=folder,
    )
    self.assertEmpty(err)
    self.assertIn(splits, out)
    stored = json.loads((folder / 'run' / 'results.json').read_text())
    self.assertEqual((stored['views'], stored['steps']), (1, 2))
    frames, height, width = video
    out, err = _run(
      'render',
      '--model_dir=run',
      '--config.render_factor=8',
      f'--config.num_poses={frames}',
      '--norender_testset',
      '--save_dir=out',
      '--config.use_viewdirs=True',
      folder=folder,
    )
    self.assertEmpty(err)
    self.assertStartsWith(out[-1], f'{frames} frames of {width}x{height}: out')
    self.assertGreater((folder / 'out' / 'rgb.mp4').stat().st_size, 0)


@pytest.mark.slow
class RenderTest(chex.TestCase):
  """`render.py` and `evaluate.py` on a run of the built-in scene."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.folder = pathlib.Path(folder.name)
    _train(
      *_LAPTOP,
      '--config.num_steps=4',
      '--config.i_weights=2',
      '--config.procedural.size=16',
      '--config.procedural.num_train=3',
      '--config.procedural.num_test=2',
      '--config.num_poses=3',
      '--model_dir=run',
      folder=cls.folder,
    )

  def test_a_video_and_scores(self):
    out, err = _run('render', '--model_dir=run', folder=self.folder)
    self.assertEmpty(err)
    where = 'run/render_0000004_render'
    self.assertEqual(
      out[0],
      f'3 frames of 16x16: {where} '
      '(rgb.mp4, rgb_still.mp4, disp.mp4, contact_sheet.png)',
    )
    self.assertRegex(out[1], rf'^PSNR .* 2 test views: {where}/test/results.js')
    scores = json.loads((self.folder / where / 'test/results.json').read_text())
    there = json.loads((self.folder / 'run' / 'results.json').read_text())
    self.assertEqual(scores['psnr_per_view'], there['psnr_per_view'])

  def test_another_step_on_other_devices(self):
    out, err = _run(
      'evaluate', '--model_dir=run', '--step=2', folder=self.folder, devices=3
    )
    self.assertEmpty(err)
    self.assertRegex(out[0], r'^PSNR .* run/evaluation_0000002/results.json$')
    out, _ = _run(
      'render',
      '--model_dir=run',
      '--step=2',
      '--render_video_set=test',
      '--path=interpolate',
      '--config.num_poses=4',
      '--save_path=path.json',
      '--norender_testset',
      '--save_dir=out',
      folder=self.folder,
      devices=4,
    )
    self.assertStartsWith(out[0], '4 frames of 16x16: out')
    out, _ = _run(
      'render',
      '--model_dir=run',
      '--step=2',
      '--cameras=path.json',
      '--norender_testset',
      '--save_dir=again',
      folder=self.folder,
    )
    for i in range(4):
      name = f'rgb/{i:03}.png'
      self.assertEqual(
        (self.folder / 'out' / name).read_bytes(),
        (self.folder / 'again' / name).read_bytes(),
      )

  @parameterized.parameters(
    (['--model_dir=none'], '--model_dir: there is no folder none'),
    ([], '--model_dir is required'),
    (['--model_dir=run', '--step=3'], 'no checkpoint of step 3'),
    (['--model_dir=run', '--render_video_set=all'], 'should be one of'),
    (['--model_dir=run', '--cameras=run/config.json'], 'run/config.json: must'),
    (['--model_dir=run', '--config.model.net_width=8'], 'of another network'),
    (['--model_dir=run', '--save_dir=run/log.txt'], '--save_dir: run/log.txt'),
    (['--model_dir=run', '--config.render_factor=99'], 'render_factor: got 99'),
    (['--model_dir=run', '--config.chunk=0'], 'config.chunk: got 0'),
  )
  def test_one_line_for_what_is_wrong(self, arguments, message):
    before = sorted(self.folder.rglob('*'))
    out, err = _run('render', *arguments, folder=self.folder, status=1)
    self.assertEmpty(out)
    self.assertLen(err, 1)
    self.assertRegex(err[0], rf'^Error: .*({message})')
    self.assertEqual(sorted(self.folder.rglob('*')), before)

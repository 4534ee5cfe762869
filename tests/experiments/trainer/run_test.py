import contextlib
import io
import json
import pathlib
import shutil
import time
from unittest import mock

import chex
import numpy as np
import pytest
from absl.testing import parameterized
from tensorboard.backend.event_processing import event_accumulator

from experiments.builders import experiment as experiment_lib
from experiments.builders import scene_loader
from experiments.configs import quickstart
from experiments.outputs import run_dir
from experiments.trainer import run
from nerf_haiku import cameras, checkpoints, devices, scenes
from nerf_haiku.datasets.procedural import photographs, still_life
from tests.support import configs, fitting


def _config(**changes):
  """A laptop_procedural of seconds, on four devices."""
  settings = {
    'num_steps': 60,
    'num_rand': 256,
    'num_samples': 16,
    'num_importance': 16,
    'i_print': 20,
  }
  return configs.small(
    width=32, num_train=12, num_test=2, **(settings | changes)
  )


class TrainTest(chex.TestCase):
  def _train(self, folder, seed=0, **changes):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
      content = run.train(
        _config(**changes),
        data_dir=None,
        model_dir=folder,
        seed=seed,
        start=time.perf_counter(),
      )
    return content, text.getvalue()

  def _folder(self):
    return pathlib.Path(self.create_tempdir().full_path) / 'run'

  def test_a_run_learns_and_leaves_its_results(self):
    folder = self._folder()
    content, text = self._train(folder, i_print=1)
    lines = [x for x in text.splitlines() if x.startswith('step')]
    self.assertLen(lines, 60)
    self.assertRegex(lines[-1], r'step 60  loss 0\.\d+  PSNR .* dB .* rays/s')
    losses = [float(x.split()[3]) for x in lines]
    self.assertLess(np.mean(losses[-10:]), 0.7 * np.mean(losses[:10]))
    stored = json.loads((folder / run_dir.RESULTS).read_text())
    self.assertEqual(stored, json.loads(json.dumps(content)))
    self.assertEqual((stored['views'], stored['steps']), (2, 60))
    self.assertLen(stored['psnr_per_view'], 2)
    np.testing.assert_allclose(
      stored['psnr'], np.mean(stored['psnr_per_view']), rtol=1e-6
    )
    for name in (
      'ssim',
      'train_seconds',
      'step_seconds',
      'seconds_per_view',
      'rays_per_second',
      'metrics',
      'config',
      'seed',
      'versions',
      'machine',
      'date',
      'background',
      'psnr_of_one_colour',
      'seed_in_use',
      'restarts',
      'skipped_updates',
    ):
      self.assertIn(name, stored)
    self.assertLen(list((folder / run_dir.VIEWS).glob('view_*.png')), 2)
    self._check_finished(folder, content)
    self._check_evaluation_again(folder, content)

  def _check_finished(self, folder, content):
    again, text = self._train(folder)
    self.assertIn('nothing left to do', text)
    self.assertEqual(again['psnr'], content['psnr'])
    with self.assertRaisesRegex(
      ValueError, 'another run .*num_rand is 256 there, 128 here'
    ):
      self._train(folder, num_rand=128)
    with self.assertRaisesRegex(ValueError, 'seed is 0 there, 1 here'):
      self._train(folder, seed=1)
    config = (folder / run_dir.CONFIG).read_text()
    (folder / run_dir.CONFIG).write_text(config[:20])
    with self.assertRaisesRegex(
      ValueError, 'config.json was not written by a run'
    ):
      self._train(folder)
    (folder / run_dir.CONFIG).write_text(config)

  def test_a_longer_run_resumes(self):
    folder = self._folder()
    self._train(folder, num_steps=20)
    content, text = self._train(folder, num_steps=40)
    self.assertIn('Resuming from the checkpoint of step 20.', text)
    self.assertEqual(content['steps'], 40)
    _, text = self._train(folder, num_steps=30)
    self.assertIn('finished after 40 steps', text)

  @parameterized.parameters('device', 'host')
  def test_a_run_that_resumes_draws_where_it_began(self, drawn_on):
    folder = self._folder()
    with mock.patch.object(run.inputs, 'choose', return_value=drawn_on):
      content, text = self._train(folder, num_steps=20)
    self.assertEqual(content['drawn_on'], drawn_on)
    place = 'on the host' if drawn_on == 'host' else 'in memory'
    self.assertRegex(text, f'Batches are drawn .*{place}')
    with mock.patch.object(run.inputs, 'choose') as choose:
      content, _ = self._train(folder, num_steps=40)
    choose.assert_not_called()
    self.assertEqual((content['steps'], content['drawn_on']), (40, drawn_on))

  def test_a_run_of_an_older_version_drew_on_the_host(self):
    folder = self._folder()
    self._train(folder, num_steps=20)
    settings = json.loads((folder / run_dir.CONFIG).read_text())
    del settings['drawn_on'], settings['config']['input']
    (folder / run_dir.CONFIG).write_text(json.dumps(settings))
    content, _ = self._train(folder, num_steps=40)
    self.assertEqual((content['steps'], content['drawn_on']), (40, 'host'))

  def test_what_is_printed_is_in_the_log(self):
    folder = self._folder()
    _, text = self._train(folder, i_img=30, batch_warmup_steps=2)
    log = (folder / run_dir.LOG).read_text()
    for line in text.splitlines():
      self.assertIn(line, log)
    self.assertRegex(text, r'step 30  validation \d+\.\d+ dB')
    self.assertIn('test PSNR', log)
    self.assertEqual(log.count('batch_warmup_steps=2 saves no time'), 1)

  def test_tensorboard(self):
    folder = self._folder()
    content, _ = self._train(folder, i_img=30, i_print=20)
    read = event_accumulator.EventAccumulator(str(folder / 'tensorboard'))
    read.Reload()
    for name in ('loss', 'psnr', 'psnr_coarse', 'rays_per_second', 'grad_norm'):
      points = read.Scalars(f'train/{name}')
      self.assertEqual([x.step for x in points], [20, 40, 60])
      self.assertGreater(min(x.value for x in points), 0.0)
    rates = [x.value for x in read.Scalars('train/learning_rate')]
    expected = [1e-2 * 0.1 ** ((step - 1) / 1000) for step in (20, 40, 60)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    for name in (
      'rgb',
      'target',
      'disp',
      'acc',
      'depth',
      'rgb_coarse',
      'disp_coarse',
      'acc_coarse',
      'z_std',
    ):
      shown = read.Images(f'validation/{name}')
      self.assertEqual([(x.step, x.width) for x in shown], [(30, 16), (60, 16)])
    self.assertLen(read.Scalars('validation/psnr'), 2)
    np.testing.assert_allclose(
      read.Scalars('final/psnr')[0].value, content['psnr'], rtol=1e-5
    )

  def test_the_test_set_during_training(self):
    folder = self._folder()
    content, text = self._train(folder, num_steps=30, i_testset=10)
    scores = [content['psnr']]
    for step in (10, 20):
      self.assertRegex(text, rf'step {step}  test PSNR \d+\.\d+ dB over')
      views = folder / f'test_{step:07}'
      early = json.loads((views / 'results.json').read_text())
      self.assertLen(early['psnr_per_view'], 2)
      scores.append(early['psnr'])
    self.assertNotIn('step 30  test', text)  # That is the end.
    self.assertLen(set(scores), 3)

  def test_a_profile_of_five_steps(self):
    folder = self._folder()
    config = _config(num_steps=12)
    with contextlib.redirect_stdout(io.StringIO()):
      run.train(
        config,
        data_dir=None,
        model_dir=folder,
        seed=0,
        start=time.perf_counter(),
        profiled=True,
      )
    where = folder / run_dir.TENSORBOARD / 'plugins' / 'profile'
    self.assertLen(list(where.glob('*/perfetto_trace.json.gz')), 1)

  def test_weights_of_another_run(self):
    first, second = self._folder(), self._folder()
    before, _ = self._train(first)
    with contextlib.redirect_stdout(io.StringIO()):
      content = run.train(
        _config(num_steps=1, learning_rate=1e-9),
        data_dir=None,
        model_dir=second,
        seed=5,
        start=time.perf_counter(),
        init_from=str(first),
      )
    np.testing.assert_allclose(content['psnr'], before['psnr'], atol=0.01)
    for init_from, message in (
      ('nowhere', '--init_from: There is no checkpoint in nowhere'),
      ('~no_such_user', '--init_from: There is no checkpoint in ~no_such_user'),
      (str(first), '--init_from: .* is of another network'),
    ):
      config = _config()
      config.model.net_width = 8
      with self.assertRaisesRegex(ValueError, message):
        run.train(
          config,
          data_dir=None,
          model_dir=self._folder() / 'x',
          seed=0,
          start=0.0,
          init_from=init_from,
        )

  def test_the_smallest_of_scenes_and_networks(self):
    content, _ = self._train(
      self._folder(),
      num_steps=2,
      num_importance=0,
      use_viewdirs=False,
      microbatch=100,
      procedural={'size': 4, 'num_train': 1, 'num_test': 1},
    )
    self.assertIsNone(content['ssim'])
    self.assertEqual(content['ssim_per_view'], [None])
    self.assertGreater(content['psnr'], 3.0)

  def test_a_run_that_diverges_says_so(self):
    folder = self._folder()
    with self.assertRaisesRegex(
      ValueError, r'Step 2: the loss holds a NaN .*learning_rate'
    ):
      self._train(folder, learning_rate=1e30)
    with checkpoints.Checkpoints(folder / run_dir.CHECKPOINTS) as kept:
      self.assertEqual(kept.steps(), [1])
    with self.assertRaisesRegex(ValueError, 'Step 2: the loss holds'):
      self._train(folder, learning_rate=1e30)  # It resumes, and stops again.

  def test_a_hundred_skipped_updates_end_the_run(self):
    folder = self._folder()
    with self.assertRaisesRegex(
      ValueError, 'Step 101: the loss holds a NaN .* 100 steps in a row'
    ):
      self._train(
        folder, learning_rate=1e30, skip_nonfinite=True, num_steps=150
      )

  def test_a_folder_of_others_is_left_alone(self):
    folder = self._folder()
    folder.mkdir()
    (folder / run_dir.CONFIG).write_text('{"model": "bert"}')
    with self.assertRaisesRegex(ValueError, 'was not written by a run'):
      self._train(folder)
    self.assertEqual((folder / run_dir.CONFIG).read_text(), '{"model": "bert"}')

  def test_a_data_dir_for_the_built_in_scene_is_refused(self):
    with self.assertRaisesRegex(ValueError, "--data_dir: got 'x'"):
      run.train(
        _config(), data_dir='x', model_dir=self._folder(), seed=0, start=0.0
      )

  def _check_evaluation_again(self, folder, content):
    """A run that was stopped after its checkpoint only scores it."""
    (folder / run_dir.RESULTS).unlink()
    shutil.rmtree(folder / run_dir.VIEWS)
    again, text = self._train(folder)
    self.assertNotIn('loss', text)
    for name in (
      'psnr_per_view',
      'train_seconds',
      'step_seconds',
      'rays_per_second',
      'steps',
    ):
      self.assertEqual(again[name], content[name])

  def test_a_folder_that_cannot_be_made(self):
    file = self.create_tempfile().full_path
    with self.assertRaisesRegex(ValueError, '--model_dir: .* cannot be writ'):
      self._train(pathlib.Path(file) / 'run')

  def test_the_seed_decides_everything(self):
    states = []
    for seed in (0, 0, 1):
      folder = self._folder() / str(len(states))
      self._train(folder, seed=seed, num_steps=3, raw_noise_std=0.1)
      config = _config()
      scene = scene_loader.load_scene(config, None)
      experiment = experiment_lib.make_experiment(config, scene)
      state = experiment.state_shapes()
      with checkpoints.Checkpoints(folder / run_dir.CHECKPOINTS) as kept:
        states.append(kept.restore(state)[0])
    chex.assert_trees_all_equal(states[0], states[1])
    with self.assertRaises(AssertionError):
      chex.assert_trees_all_close(states[0].params, states[2].params, atol=1e-4)


class DescribeSceneTest(chex.TestCase):
  def _scene(self, count=4, **changes):
    """Photos without alpha, on white; the indices of those that are read."""
    scene = photographs.make_scene(seed=0, size=16, num_train=4, num_test=1)
    reads = []

    def read(i):
      reads.append(i)
      photo = np.full((16, 16, 3), 255, np.uint8)
      photo[4:-4, 4:-4] = 10 * i % 256
      return photo

    images = scenes.LazyImages(count, read)
    train = scene.train._replace(images=images)
    return scene._replace(train=train, **changes), reads

  def test_photos_that_show_a_background(self):
    scene, _ = self._scene()
    text = run.describe_scene(_config(white_bkgd=False), scene)
    self.assertIn('4 train views of 16x16', text)
    self.assertIn('photos are white, the background of this run is black', text)
    self.assertIn('--config.white_bkgd=True', text)
    self.assertLen(text.splitlines(), 2)
    text = run.describe_scene(_config(white_bkgd=True), scene)
    self.assertLen(text.splitlines(), 1)

  def test_photos_that_show_none(self):
    config = _config(white_bkgd=False)
    in_ndc, _ = self._scene(ndc=cameras.Ndc((1.0, 1.0)))
    with_alpha = photographs.make_scene(
      seed=0, size=16, num_train=4, num_test=1
    )
    for scene in (in_ndc, with_alpha):
      text = run.describe_scene(config, scene)
      self.assertLen(text.splitlines(), 1)

  def test_looks_at_some_of_many_photos(self):
    for count in (100, 101, 250):
      scene, reads = self._scene(count)
      text = run.describe_scene(_config(white_bkgd=False), scene)
      self.assertIn('photos are white', text)
      self.assertBetween(len(reads), 50, 100)
      self.assertGreater(max(reads), 0.9 * count)


@pytest.mark.slow
class GeometryTest(chex.TestCase):
  def test_the_depth_of_a_trained_model_is_the_true_one(self):
    """Nothing but colours is shown to the run; its depth must be right."""
    config = quickstart.get_config()
    config.procedural.update(size=32, num_train=40)
    config.update(num_steps=250, num_rand=512)
    config.hash.update(num_levels=6, hashmap_size=2**13, max_resolution=64)
    config.occupancy.update(max_samples=2**13, resolution=32)
    folder = pathlib.Path(self.create_tempdir().full_path)
    fitted = fitting.fit(config, folder)
    experiment, scene = fitted.experiment, fitted.experiment.scene
    variables = devices.replicate(fitted.state.variables())
    views = scene.test.cameras
    errors, hits, misses = [], [], []
    for i in (3, 12, 21):
      view = experiment.render_image(variables, views, i)
      rays = photographs.camera_rays(
        views.camera_to_world[i],
        views.intrinsics[i],
        cameras.pixels(32, 32) + 0.5,
      )
      true = photographs.trace(still_life.make_items(0), *rays).t.reshape(
        32, 32
      )
      there = np.isfinite(true)
      solid = there & (view.opacity > 0.99)
      found = view.depth[solid] / view.opacity[solid]
      errors.append(np.abs(found - true[solid]))
      hits.append(view.opacity[there])
      misses.append(view.opacity[~there])
    # The board is 2 wide, a pixel 0.08, coarse samples 0.1 apart; the first
    # sample in a solid lies somewhat behind its surface. A mirrored axis or
    # another unit of depth is off by far more.
    self.assertLess(np.median(np.concatenate(errors)), 0.12)
    self.assertGreater(np.mean(np.concatenate(hits)), 0.9)
    self.assertLess(np.mean(np.concatenate(misses)), 0.1)

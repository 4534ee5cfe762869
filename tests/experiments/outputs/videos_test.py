import contextlib
import io
import json
import pathlib
import tempfile
import time
from unittest import mock

import chex
import numpy as np
from PIL import Image

from experiments.outputs import frames, trained_run, video_cameras, videos
from experiments.trainer import run
from tests.support import configs

_FRAMES = 3


def _config(**changes):
  settings = {
    'num_steps': 20,
    'i_weights': 10,
    'num_rand': 64,
    'num_samples': 8,
    'num_importance': 8,
    'num_poses': _FRAMES,
    'render_factor': 2,
  }
  return configs.small(width=16, num_train=4, num_test=2, **settings | changes)


class RunTest(chex.TestCase):
  """What can be done with one run of 20 steps, kept at 10 and 20."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.folder = pathlib.Path(folder.name)
    cls.run_dir = cls.folder / 'run'
    with contextlib.redirect_stdout(io.StringIO()) as text:
      cls.content = run.train(
        _config(i_video=10),
        data_dir=None,
        model_dir=cls.run_dir,
        seed=0,
        start=time.perf_counter(),
      )
    cls.said = text.getvalue()

  def _load(self, step=None, **changes):
    return trained_run.load(
      _config(**changes), data_dir=None, model_dir=self.run_dir, step=step
    )

  def _film(self, run, name, **changes):
    settings = {
      'video_set': 'render',
      'path': 'given',
      'num_poses': 3,
      'render_factor': 2,
    }
    taken = video_cameras.choose_cameras(run.scene, **(settings | changes))
    videos.render_video(run, taken, self.folder / name, fps=30, say=str)

  def _render_only(self, **changes):
    with contextlib.redirect_stdout(io.StringIO()) as text:
      videos.render_only(_config(**changes), None, self.run_dir)
    return text.getvalue()

  def _frame(self, name, index=1, part='rgb'):
    path = self.folder / name / part / f'{index:03}.png'
    with Image.open(path) as image:
      return np.asarray(image).astype(int)

  def test_a_video_without_anything_in_it_says_so(self):
    run = self._load()
    for empty in (False, True):
      rendered, said = frames.RenderedFrames(1, (), empty), []
      with mock.patch.object(frames, 'render_frames', return_value=rendered):
        videos.render_video(
          run,
          run.scene.path,
          self.folder / f'empty_{empty}',
          fps=30,
          say=said.append,
        )
      text = ' '.join(said)
      self.assertEqual('All frames are empty' in text, empty)

  def test_videos_during_training(self):
    for step in (10, 20):
      where = self.run_dir / f'video_{step:07}'
      self.assertIn(f'step {step}  3 frames of 8x8: ', self.said)
      for name in ('rgb.mp4', 'disp.mp4', 'rgb_still.mp4', 'rgb/002.png'):
        self.assertGreater((where / name).stat().st_size, 0)
    early = self._frame('run/video_0000010')
    self.assertGreater(
      np.abs(self._frame('run/video_0000020') - early).max(), 0
    )
    # Drawn again from the checkpoints, in the same folders: nothing is new.
    text = self._render_only()
    self.assertIn('3 frames of 8x8, all rendered before', text)
    # And in another one: the same frames.
    self._film(self._load(step=10), 'again')
    np.testing.assert_array_equal(self._frame('again'), early)

  def test_any_chunk_gives_the_same_pixels(self):
    self._film(self._load(), 'whole', render_factor=1)
    self._film(self._load(chunk=7, microbatch=5), 'pieces', render_factor=1)
    self.assertEqual(self._frame('whole').shape, (16, 16, 3))
    for part in ('rgb', 'opacity', 'still'):
      np.testing.assert_array_equal(
        self._frame('pieces', part=part), self._frame('whole', part=part)
      )

  def test_the_still_camera(self):
    """Its first frame is the video's; then colours change, not geometry."""
    self._film(self._load(), 'out')
    np.testing.assert_array_equal(
      self._frame('out', 0, 'still'), self._frame('out', 0)
    )
    moved = self._frame('out', 1, 'still') - self._frame('out', 0)
    self.assertGreater(np.abs(moved).max(), 0)
    self._film(self._load(), 'other', video_set='test')
    with self.assertRaisesRegex(ValueError, 'other.*white_bkgd is True there'):
      self._film(self._load(white_bkgd=False), 'other', video_set='test')

  def test_the_end_of_training_is_scored_alike(self):
    text = videos.score_test_views(self._load(), self.folder / 'scores')[1]
    self.assertRegex(text, r'^PSNR \d+\.\d\d dB over 2 test views: .*results')
    content = json.loads((self.folder / 'scores' / 'results.json').read_text())
    for name in (
      'psnr_per_view',
      'ssim_per_view',
      'psnr',
      'ssim',
      'background',
      'metrics',
      'seed',
      'seed_in_use',
      'steps',
      'train_seconds',
    ):
      self.assertEqual(content[name], self.content[name])
    self.assertEqual(content.keys(), self.content.keys())
    # Once more it is only read.
    (self.folder / 'scores' / 'view_000.png').unlink()
    again = videos.score_test_views(self._load(), self.folder / 'scores')[1]
    self.assertEqual(again, text.replace(': ', ' (scored before): ', 1))
    self.assertFalse((self.folder / 'scores' / 'view_000.png').exists())
    early = videos.score_test_views(self._load(step=10), self.folder / 'early')[
      1
    ]
    self.assertNotEqual(early.split()[1], text.split()[1])
    text = self._render_only(render_test=True)
    self.assertIn('test_0000020/results.json', text)

  def test_what_cannot_be_loaded(self):
    with self.assertRaisesRegex(
      ValueError, 'no checkpoint of step 11 .*10, 20'
    ):
      self._load(step=11)
    with self.assertRaisesRegex(ValueError, 'checkpoints/20 is of another net'):
      trained_run.load(
        configs.small(width=8, num_train=4, num_test=2, num_samples=8),
        data_dir=None,
        model_dir=self.run_dir,
      )
    with self.assertRaisesRegex(ValueError, '--model_dir: .* holds no run'):
      trained_run.load(_config(), data_dir=None, model_dir=self.folder)

  def test_scores_say_what_was_scored(self):
    """The config in use, not that of the run."""
    content, _ = videos.score_test_views(
      self._load(white_bkgd=False), self.folder / 'black'
    )
    self.assertEqual(content['background'], 'black')
    self.assertFalse(content['config']['white_bkgd'])
    self.assertLess(content['psnr'], self.content['psnr'])

  def test_a_metric_that_is_new_is_measured(self):
    where = self.folder / 'later'
    videos.score_test_views(self._load(), where)
    content = json.loads((where / 'results.json').read_text())
    del content['ssim']
    (where / 'results.json').write_text(json.dumps(content))
    content, text = videos.score_test_views(self._load(), where)
    self.assertEqual(content['ssim'], self.content['ssim'])
    self.assertNotIn('before', text)

  def test_only_the_run_s_own_config_is_rendered_only(self):
    with self.assertRaisesRegex(ValueError, 'white_bkgd is True there, False'):
      self._render_only(white_bkgd=False)

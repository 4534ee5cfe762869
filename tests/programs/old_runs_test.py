"""Runs that commit d92baf5 left: one is finished, one was stopped."""

import contextlib
import io
import json
import pathlib
import shutil
import time

import chex
import numpy as np

from experiments.configs import saved
from experiments.outputs import run_dir, trained_run, videos
from experiments.trainer import run

_RUNS = pathlib.Path(__file__).parents[1] / 'support' / 'old_runs'


class OldRunsTest(chex.TestCase):
  def _copy(self, name):
    folder = pathlib.Path(self.create_tempdir().full_path) / name
    shutil.copytree(_RUNS / name, folder)
    return folder, saved.get_config(str(folder / run_dir.CONFIG))

  def test_a_finished_run_is_rendered_and_scored_as_before(self):
    folder, config = self._copy('finished')
    before = json.loads((folder / run_dir.RESULTS).read_text())
    trained = trained_run.load(config, data_dir=None, model_dir=folder)
    scores, text = videos.score_test_views(trained, folder / 'again')
    self.assertEqual(trained.checkpoint.step, before['steps'])
    # Another version of a library may round another way.
    np.testing.assert_allclose(scores['psnr'], before['psnr'], atol=0.01)
    np.testing.assert_allclose(scores['ssim'], before['ssim'], atol=1e-3)
    self.assertIn('2 test views', text)
    self.assertIn('hash.hashmap_size', scores['config'])

  def test_an_unfinished_run_resumes(self):
    folder, config = self._copy('unfinished')
    config.num_steps = 49
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
      results = run.train(
        config,
        data_dir=None,
        model_dir=folder,
        seed=0,
        start=time.perf_counter(),
      )
    self.assertIn('Resuming from the checkpoint of step 47.', text.getvalue())
    self.assertEqual(results['steps'], 49)
    self.assertEqual(results['seed_in_use'], 0)

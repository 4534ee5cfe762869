"""Signals, collapses and resuming: none leaves a trace in the parameters."""

import os
import pathlib
import signal
from unittest import mock

import chex
import jax
import numpy as np
import pytest
from absl.testing import parameterized

from experiments.processes import signals
from experiments.trainer import progress, steps
from nerf_haiku import checkpoints, collapse
from tests.support import configs, fitting


def _config(**changes):
  settings = {
    'num_steps': 12,
    'num_rand': 64,
    'num_samples': 8,
    'num_importance': 8,
    'i_print': 4,
    'raw_noise_std': 0.1,
  }
  return configs.small(
    width=16, num_train=6, num_test=1, **(settings | changes)
  )


@pytest.mark.cpu
class FitTest(chex.TestCase):
  def _folder(self):
    return pathlib.Path(self.create_tempdir().full_path)

  def _fit(self, folder, seed=0, **changes):
    """Returns the last state, the metadata and what was printed."""
    settings = {
      name: changes.pop(name)
      for name in ('validate', 'render_video')
      if name in changes
    }
    # Less every time: the first validation is the best.
    settings.setdefault('validate', lambda variables, step: 30.0 - step)
    fitted = fitting.fit(_config(**changes), folder, seed=seed, **settings)
    return fitted.state, fitted.metadata, fitted.printed

  def test_a_video_that_fails_does_not_end_the_run(self):
    steps_rendered = []

    def render_video(info, variables):
      self.assertEqual(
        int(variables.params['coarse']['mlp/rgb']['b'].shape[-1]), 3
      )
      steps_rendered.append(info.step)
      raise OSError('No space left on device: video')

    state, _, text = self._fit(
      self._folder(), render_video=render_video, i_video=5
    )
    self.assertEqual((steps_rendered, int(state.step)), ([5, 10], 12))
    self.assertIn(
      'step 5  No space left on device: video Training continues', text
    )

  @parameterized.parameters(
    {'batching': True},
    {'batching': False, 'precrop_iters': 9},
    {'density_activation': 'relu', 'lr_warmup': 10, 'grad_max_norm': 0.1},
    {
      'field': 'hash',
      'renderer': 'occupancy',
      'random_background': True,
      'batch_warmup_steps': 10,
      'hash': {'hashmap_size': 512},
      'occupancy': {
        'update_every': 2,
        'max_samples': 1024,
        'step_size': 0.05,
        'resolution': 8,
      },
    },
  )
  def test_a_resumed_run_equals_an_unbroken_one(self, **changes):
    whole, _, _ = self._fit(self._folder(), **changes)
    folder = self._folder()
    self._fit(folder, num_steps=5, **changes)
    broken, about, text = self._fit(folder, **changes)
    self.assertIn('Resuming from the checkpoint of step 5.', text)
    chex.assert_trees_all_equal(broken, whole)
    self.assertEqual((about['seed'], about['restarts']), (0, 0))

  def test_seconds_of_the_steps_add_up_when_a_run_resumes(self):
    folder = self._folder()
    _, about, _ = self._fit(folder, num_steps=5)
    first = about['times']['step_seconds']
    self.assertBetween(first, 0.001, about['times']['train_seconds'])
    _, about, _ = self._fit(folder)
    self.assertGreater(about['times']['step_seconds'], first)

  def test_a_run_of_an_older_version_has_no_seconds_of_the_steps(self):
    folder, times = self._folder(), steps._Trainer._times

    def old_times(self, run):
      return {k: v for k, v in times(self, run).items() if k != 'step_seconds'}

    with mock.patch.object(steps._Trainer, '_times', old_times):
      self._fit(folder, num_steps=5)
    _, about, _ = self._fit(folder)
    self.assertEqual(
      about['times'].keys(), {'train_seconds', 'rays_per_second'}
    )

  def test_a_bug_in_a_view_ends_the_run(self):
    def render_video(info, variables):
      np.zeros(3) + np.zeros(4)

    with self.assertRaisesRegex(ValueError, 'operands could not be broadcast'):
      self._fit(self._folder(), render_video=render_video, i_video=5)

  @parameterized.parameters(signal.SIGINT, signal.SIGTERM)
  def test_a_signal_saves_a_checkpoint(self, number):
    whole, _, _ = self._fit(self._folder())
    folder = self._folder()
    show = progress.Progress.show

    def stop(self, scalars, **call):
      show(self, scalars, **call)
      if self._step == 6:
        os.kill(os.getpid(), number)

    with (
      mock.patch.object(progress.Progress, 'show', stop),
      self.assertRaises(signals.StoppedError) as caught,
    ):
      self._fit(folder)
    self.assertEqual(caught.exception.exit_code, 128 + number)
    self.assertIn('Stopped by', (folder / 'log.txt').read_text())
    with checkpoints.Checkpoints(folder / 'checkpoints') as kept:
      (step,) = kept.steps()
    self.assertBetween(step, 6, 8)
    self.assertIn(f'step {step}', str(caught.exception))
    broken, _, _ = self._fit(folder)
    chex.assert_trees_all_equal(broken, whole)

  def test_a_signal_does_not_wait_for_a_view(self):
    whole, _, _ = self._fit(self._folder(), i_img=6)
    folder = self._folder()

    def view(params, step):
      os.kill(os.getpid(), signal.SIGTERM)
      raise AssertionError('The view goes on.')

    with self.assertRaisesRegex(
      signals.StoppedError, 'after step 6; the check'
    ):
      self._fit(folder, validate=view, i_img=6)
    broken, _, text = self._fit(folder, i_img=6)
    self.assertIn('Resuming from the checkpoint of step 6.', text)
    chex.assert_trees_all_equal(broken, whole)

  def test_a_signal_during_the_last_save_is_not_forgotten(self):
    save = checkpoints.Checkpoints.save

    def stop(self, *args, **kwargs):
      os.kill(os.getpid(), signal.SIGTERM)
      save(self, *args, **kwargs)

    folder = self._folder()
    with (
      mock.patch.object(checkpoints.Checkpoints, 'save', stop),
      self.assertRaisesRegex(signals.StoppedError, 'after step 12; the check'),
    ):
      self._fit(folder)
    _, _, text = self._fit(folder)
    self.assertIn('Resuming from the checkpoint of step 12.', text)

  def _full_disk_at(self, *steps):
    save = checkpoints.Checkpoints.save

    def fail(self, state, *args, **kwargs):
      if int(state.step) in steps:
        raise checkpoints.SaveError(f'{state.step} not written.')
      save(self, state, *args, **kwargs)

    return mock.patch.object(checkpoints.Checkpoints, 'save', fail)

  def test_a_failed_save_ends_the_run_only_at_the_last_step(self):
    folder = self._folder()
    with (
      self._full_disk_at(4, 12),
      self.assertRaisesRegex(OSError, '12 not written'),
    ):
      self._fit(folder, i_weights=4)
    log = (folder / 'log.txt').read_text()
    self.assertIn('4 not written. Training continues', log)
    self.assertNotIn('12 not written. Training continues', log)
    self.assertIn('12 not written', log)
    whole, _, text = self._fit(folder, i_weights=4)
    self.assertIn('Resuming from the checkpoint of step 8.', text)
    self.assertEqual(int(whole.step), 12)

  def test_a_failed_save_after_a_signal_is_an_error(self):
    def view(variables, step):
      os.kill(os.getpid(), signal.SIGTERM)

    with self._full_disk_at(6), self.assertRaisesRegex(OSError, '6 not writt'):
      self._fit(self._folder(), validate=view, i_img=6)

  def test_keeps_the_newest_checkpoints_and_the_best(self):
    folder = self._folder()
    self._fit(folder, i_weights=2, i_img=2, num_steps=11)
    with checkpoints.Checkpoints(folder / 'checkpoints') as kept:
      steps = kept.steps()
    self.assertEqual(steps, [2, 8, 10, 11])  # The first was the best.

  def _begin_dead(self, seeds):
    """Lets the runs of some seeds begin with an empty scene."""
    begin = steps._init_state

    def begin_dead(experiment, seed, init_params):
      state = begin(experiment, seed, init_params)
      if seed not in seeds:
        return state
      params = jax.tree.map(lambda x: x, state.params)
      for layers in params.values():
        layers['mlp/density']['b'] = np.full(1, -100.0, np.float32)
      return state._replace(params=params)

    return mock.patch.object(steps, '_init_state', begin_dead)

  def test_a_collapsed_run_restarts(self):
    changes = {
      'density_activation': 'relu',
      'raw_noise_std': 0.0,
      'collapse_steps': 4,
      'i_weights': 2,
    }
    folder, second = self._folder(), collapse.next_seed(0)
    with self._begin_dead({0}):
      state, about, text = self._fit(folder, **changes)
    self.assertRegex(
      text,
      f'After 4 steps the run has collapsed.*with seed {second} .restart 1',
    )
    self.assertEqual((about['seed'], about['restarts']), (second, 1))
    # From there on it is the run of that seed.
    expected, _, _ = self._fit(self._folder(), seed=second, **changes)
    chex.assert_trees_all_equal(state, expected)
    with checkpoints.Checkpoints(folder / 'checkpoints') as kept:
      self.assertEqual(kept.restore(state)[1]['seed'], second)
    again, about, _ = self._fit(folder, num_steps=14, **changes)
    self.assertEqual((int(again.step), about['seed']), (14, second))

  def test_a_collapsed_run_restarts_three_times_at_most(self):
    seeds = [0]
    for _ in range(4):
      seeds.append(collapse.next_seed(seeds[-1]))
    changes = {
      'density_activation': 'relu',
      'raw_noise_std': 0.0,
      'collapse_steps': 4,
    }
    with self._begin_dead(seeds):
      state, about, text = self._fit(self._folder(), **changes)
      self.assertEqual((int(state.step), about['restarts']), (12, 3))
      self.assertEqual(about['seed'], seeds[3])
      self.assertIn('It is not restarted.', text)
      _, about, text = self._fit(
        self._folder(), restart_collapsed=False, **changes
      )
    self.assertEqual(about['restarts'], 0)
    self.assertIn('It is not restarted.', text)

"""Many processes, real ones on this machine, against one."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

import chex
import jax
import numpy as np
import pytest
from absl.testing import parameterized
from tensorboard.backend.event_processing import event_accumulator

from experiments.processes import multihost
from nerf_haiku import checkpoints
from tests.support import environment, worker

_ROOT = pathlib.Path(__file__).parents[2]
_TRAIN = _ROOT / 'experiments' / 'train.py'
_WORKER = _ROOT / 'tests' / 'support' / 'worker.py'
_SMALL = (
  f'--config={_ROOT}/experiments/configs/laptop_procedural.py',
  '--config.model.net_width=16',
  '--config.model.net_depth=2',
  '--config.model.skips=()',
  '--config.model_fine.net_width=16',
  '--config.model_fine.net_depth=2',
  '--config.model_fine.skips=()',
  '--config.num_samples=8',
  '--config.num_importance=8',
  '--config.num_rand=256',
  '--config.procedural.size=16',
  '--config.procedural.num_train=3',
  '--config.procedural.num_test=2',
  '--config.i_print=1',
)


def _free_port():
  with socket.socket() as opened:
    opened.bind(('127.0.0.1', 0))
    return opened.getsockname()[1]


class _Launched:
  """A program, started as many processes; none outlives the context."""

  def __init__(
    self, folder, program, *arguments, count=2, devices=1, slurm=False, last=()
  ):
    """`last`: arguments of the last process alone."""
    self._folder, port = folder, _free_port()
    self._files = []
    self.processes = []
    for i in range(count):
      found = environment.make(devices) | {'PYTHONPATH': str(_ROOT)}
      line = [sys.executable, program, *arguments]
      if slurm:
        found |= {
          'SLURM_JOB_ID': '1',
          'SLURM_STEP_NODELIST': 'localhost',
          'SLURM_NTASKS': str(count),
          'SLURM_PROCID': str(i),
          'SLURM_LOCALID': str(i),
          'JAX_COORDINATOR_PORT': str(port),
        }
      elif count > 1:
        line += [
          f'--coordinator=127.0.0.1:{port}',
          f'--num_processes={count}',
          f'--process_index={i}',
        ]
      line += last if i == count - 1 else ()
      out, err = ((folder / f'{kind}_{i}').open('w') for kind in ('out', 'err'))
      self._files += [out, err]
      self.processes.append(
        # Without cores of their own they would wait for each other's threads.
        subprocess.Popen(
          ['taskset', '--cpu-list', str(i % os.cpu_count()), *line],
          cwd=folder,
          env=found,
          stdout=out,
          stderr=err,
        )
      )

  def __enter__(self):
    return self

  def __exit__(self, *error):
    for process in self.processes:
      process.kill()
      process.wait()
    for file in self._files:
      file.close()

  def said(self, kind, i):
    return (self._folder / f'{kind}_{i}').read_text()

  def wait_until_said(self, text):
    """Waits for what process 0 prints."""
    while not re.search(text, self.said('out', 0)):
      if self.processes[0].poll() is not None:
        raise AssertionError(self.said('err', 0))
      time.sleep(0.1)

  def codes(self, seconds=120):
    """Waits for all to end, so long at most; gives their exit codes."""
    until = time.monotonic() + seconds
    return [x.wait(max(0.1, until - time.monotonic())) for x in self.processes]


class StartTest(chex.TestCase):
  @parameterized.parameters(
    ((None, 2, 0), '--coordinator: is missing; --num_processes, --process'),
    (('a:1', None, 0), '--num_processes: is missing'),
    (('a:1', 2, None), '--process_index: is missing'),
    (('a:1', 2, 2), '--process_index: got 2; allowed: 0 to 1'),
    (('a:1', 2, -1), '--process_index: got -1'),
    (('a:1', 0, 0), '--num_processes: got 0'),
    (('a', 2, 0), "--coordinator: got 'a'; allowed: host:port"),
  )
  def test_a_wrong_flag_is_named(self, flags, message):
    with self.assertRaisesRegex(ValueError, message):
      multihost.start(*flags)

  @parameterized.named_parameters(
    ('nowhere', {}, False),
    ('one_task', {'SLURM_NTASKS': '1'}, False),
    ('four_tasks', {'SLURM_NTASKS': '4'}, True),
    # In the shell of a job, where no task runs.
    ('shell', {'SLURM_NTASKS': '4', 'SLURM_STEP_NODELIST': None}, False),
    ('pod', {'KUBERNETES_SERVICE_HOST': 'a'}, False),
    (
      'open_mpi',
      {'OMPI_MCA_orte_hnp_uri': '1', 'OMPI_COMM_WORLD_SIZE': '2'},
      True,
    ),
  )
  def test_what_launched_it(self, changes, expected):
    task = {
      'SLURM_JOB_ID': '7',
      'SLURM_STEP_NODELIST': 'a',
      'SLURM_PROCID': '0',
      'SLURM_LOCALID': '0',
    }
    there = task | changes if 'SLURM_NTASKS' in changes else changes
    there = {x: y for x, y in there.items() if y is not None}
    with mock.patch.dict(os.environ, there, clear=True):
      self.assertEqual(multihost._launched_as_one_of_many(), expected)

  def test_alone(self):
    multihost.start('127.0.0.1:1', 1, 0)
    multihost.start(None, None, None)
    self.assertFalse(multihost.is_multihost())
    self.assertEqual(multihost.run_on_main(lambda: 3), 3)
    self.assertIs(multihost.collective(len), len)


@pytest.mark.slow
class ManyTest(chex.TestCase):
  def _folder(self):
    return pathlib.Path(self.create_tempdir().full_path)

  def _arrays(self, path):
    with np.load(path) as stored:
      return list(stored.values())

  def test_a_step_and_a_view_of_two_by_two(self):
    """Against one process with one device: gradient, checkpoints, pixels."""
    folder, model = self._folder(), worker.Model()
    begin = jax.tree.map(np.asarray, model.state())
    with checkpoints.Checkpoints(folder / 'kept') as kept:
      kept.save(begin, {})
    with _Launched(
      folder, _WORKER, '--task=step', f'--folder={folder}', devices=2
    ) as launched:
      self.assertEqual(launched.codes(), [0, 0], launched.said('err', 0))
    expected = model.step(begin, slice(None), 1)
    with checkpoints.Checkpoints(folder / 'kept') as kept:
      after, about = kept.restore(begin)
    self.assertEqual(about, {'by': 0})
    for i in range(2):
      # Bit for bit what the one process has kept, and is given back.
      chex.assert_trees_all_equal(
        self._arrays(folder / f'before_{i}.npz'), jax.tree.leaves(begin)
      )
      chex.assert_trees_all_equal(
        self._arrays(folder / f'after_{i}.npz'), jax.tree.leaves(after)
      )
      (pixels,) = self._arrays(folder / f'view_{i}.npz')
      np.testing.assert_array_equal(pixels, model.view(after))
    gradients = zip(
      jax.tree.leaves(after.opt_state),
      jax.tree.leaves(expected.opt_state),
      strict=True,
    )
    largest = max(
      np.max(np.abs(x)) for x in jax.tree.leaves(expected.opt_state)
    )
    for found, wanted in gradients:
      np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * largest)

  def _check_render(self, folder):
    """Two processes draw what one has scored, and a video."""
    with _Launched(
      folder,
      _ROOT / 'experiments' / 'render.py',
      '--model_dir=one',
      '--save_dir=drawn',
      '--config.num_poses=2',
    ) as launched:
      self.assertEqual(launched.codes(), [0, 0], launched.said('err', 0))
      self.assertIn('2 frames of 16x16: drawn', launched.said('out', 0))
      self.assertEmpty(launched.said('out', 1))
    drawn, one = (
      json.loads((folder / x / 'results.json').read_text())
      for x in ('drawn/test', 'one')
    )
    self.assertEqual(drawn['psnr_per_view'], one['psnr_per_view'])
    self.assertEqual(drawn['ssim_per_view'], one['ssim_per_view'])

  def _newest(self, run):
    there = os.listdir(run / 'checkpoints')
    return max(int(x) for x in there if x.isdigit())

  def _losses(self, run):
    read = event_accumulator.EventAccumulator(str(run / 'tensorboard'))
    read.Reload()
    points = read.Scalars('train/loss')
    self.assertEqual([x.step for x in points[:20]], list(range(1, 21)))
    return np.array([x.value for x in points[:20]])

  def test_a_run_of_two_by_two(self):
    """Learns as one process does, stops by a signal to one, goes on alone."""
    folder = self._folder()
    with _Launched(
      folder,
      _TRAIN,
      *_SMALL,
      '--config.num_steps=20',
      '--model_dir=one',
      count=1,
    ) as launched:
      self.assertEqual(launched.codes(), [0], launched.said('err', 0))
    self._check_render(folder)
    many = (*_SMALL, '--config.num_steps=100000', '--model_dir=many')
    with _Launched(
      folder, _TRAIN, *many, '--config.i_testset=20', devices=2
    ) as launched:
      launched.wait_until_said('step 20  test')
      launched.processes[1].send_signal(signal.SIGTERM)
      self.assertEqual(launched.codes(), [143, 143], launched.said('err', 0))
      stopped = int(
        re.search(r'kept after step (\d+)', launched.said('err', 0))[1]
      )
      self.assertEmpty(launched.said('out', 1))
    run = folder / 'many'
    self.assertEqual(self._newest(run), stopped)
    np.testing.assert_allclose(
      self._losses(run), self._losses(folder / 'one'), rtol=1e-3
    )
    psnr = [
      json.loads((folder / x / 'results.json').read_text())['psnr']
      for x in ('one', 'many/test_0000020')
    ]
    np.testing.assert_allclose(*psnr, rtol=0, atol=0.1)
    with _Launched(
      folder,
      _TRAIN,
      *_SMALL,
      f'--config.num_steps={stopped + 1}',
      '--model_dir=many',
      count=1,
    ) as launched:
      self.assertEqual(launched.codes(), [0], launched.said('err', 0))
      self.assertIn(f'checkpoint of step {stopped}.', launched.said('out', 0))
    # Each step was written by one process, and the log by none of the others.
    log = (run / 'log.txt').read_text()
    self.assertLen(re.findall(r'  step +20  loss', log), 1)


@pytest.mark.slow
class EndTest(chex.TestCase):
  """The others end within 60 s and name who is missing."""

  def _folder(self):
    return pathlib.Path(self.create_tempdir().full_path)

  def test_an_error_of_one(self):
    with _Launched(
      self._folder(),
      _TRAIN,
      *_SMALL,
      '--model_dir=run',
      last=['--config.num_rand=255'],
    ) as launched:
      self.assertEqual(launched.codes(60), [1, 1])
      wrong = 'config.num_rand: got 255, and 256 on process 0'
      self.assertStartsWith(launched.said('err', 1), f'Error: {wrong}')
      self.assertRegex(
        launched.said('err', 0), rf'^Process 1 \(.*\) failed: {wrong}'
      )

  @parameterized.named_parameters(
    ('first_is_killed', 0, signal.SIGKILL, 'is gone'),
    ('last_is_killed', 1, signal.SIGKILL, 'gave no sign of life'),
    ('last_is_stopped', 1, signal.SIGSTOP, 'gave no sign of life'),
  )
  def test_a_signal_to_one(self, missing, number, message):
    with _Launched(self._folder(), _WORKER, slurm=True) as launched:
      launched.wait_until_said('together')
      launched.processes[missing].send_signal(number)
      codes = launched.codes(60)
      self.assertEqual(codes[missing], -signal.SIGKILL)
      self.assertEqual(codes[1 - missing], 1)
      self.assertRegex(
        launched.said('err', 1 - missing),
        rf'(?m)^Process {missing} \(.*\) {message}',
      )

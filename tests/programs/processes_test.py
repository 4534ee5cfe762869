"""Runs of several processes, real ones on this machine, against one."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from nerf_haiku import checkpoints
from tests.support import environment, ports, worker

_ROOT = pathlib.Path(__file__).parents[2]
_TRAIN = _ROOT / 'experiments' / 'train.py'
_WORKER = _ROOT / 'tests' / 'support' / 'worker.py'
_SMALL = (
  f'--config={_ROOT}/experiments/configs/laptop_procedural.py',
  '--config.model.net_width=16',
  '--config.model.net_depth=2',
  '--config.model.skips=()',
  # One network, which compiles faster; the worker's model has two.
  '--config.num_samples=8',
  '--config.num_importance=0',
  '--config.num_rand=256',
  '--config.procedural.size=16',
  '--config.procedural.num_train=3',
  '--config.procedural.num_test=2',
  '--config.i_print=1',
)


class _Launched:
  """A program, started as several processes; none outlives the context."""

  def __init__(
    self, folder, program, *arguments, count=2, devices=1, slurm=False, last=()
  ):
    """`last`: arguments of the last process alone."""
    self._folder, self.port = folder, ports.free_port()
    self._files = []
    self.processes = []
    for i in range(count):
      variables = environment.make(devices) | {'PYTHONPATH': str(_ROOT)}
      line = [sys.executable, program, *arguments]
      if slurm:
        variables |= {
          'SLURM_JOB_ID': '1',
          'SLURM_STEP_NODELIST': 'localhost',
          'SLURM_NTASKS': str(count),
          'SLURM_PROCID': str(i),
          'SLURM_LOCALID': str(i),
          'JAX_COORDINATOR_PORT': str(self.port),
        }
      elif count > 1:
        line += [
          f'--coordinator=127.0.0.1:{self.port}',
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
          env=variables,
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

  def output(self, kind, i):
    return (self._folder / f'{kind}_{i}').read_text()

  def wait_for_output(self, text, count=1):
    """Waits until process 0 has printed a text so many times."""
    while len(re.findall(text, self.output('out', 0))) < count:
      if self.processes[0].poll() is not None:
        raise AssertionError(self.output('err', 0))
      time.sleep(0.1)

  def exit_codes(self, timeout=120):
    """Waits until all have ended, and returns their exit codes."""
    deadline = time.monotonic() + timeout
    return [
      x.wait(max(0.1, deadline - time.monotonic())) for x in self.processes
    ]


@pytest.mark.slow
class RunTest(chex.TestCase):
  def _folder(self):
    return pathlib.Path(self.create_tempdir().full_path)

  def _arrays(self, path):
    with np.load(path) as stored:
      return list(stored.values())

  def test_a_step_and_an_image_equal_those_of_one_process(self):
    """Against one process with one device: gradient, checkpoints, pixels."""
    folder, model = self._folder(), worker.Model()
    begin = jax.tree.map(np.asarray, model.state())
    with checkpoints.Checkpoints(folder / 'kept') as kept:
      kept.save(begin, {})
    with _Launched(
      folder, _WORKER, '--task=step', f'--folder={folder}', devices=2
    ) as launched:
      self.assertEqual(launched.exit_codes(), [0, 0], launched.output('err', 0))
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
    """Two processes render and score what one has, and a video."""
    with _Launched(
      folder,
      _ROOT / 'experiments' / 'render.py',
      '--model_dir=one',
      '--save_dir=rendered',
      '--config.num_poses=2',
    ) as launched:
      self.assertEqual(launched.exit_codes(), [0, 0], launched.output('err', 0))
      self.assertIn('2 frames of 16x16: rendered', launched.output('out', 0))
      self.assertEmpty(launched.output('out', 1))
    rendered, one = (
      json.loads((folder / x / 'results.json').read_text())
      for x in ('rendered/test', 'one')
    )
    self.assertEqual(rendered['psnr_per_view'], one['psnr_per_view'])
    self.assertEqual(rendered['ssim_per_view'], one['ssim_per_view'])

  def _latest(self, run):
    names = os.listdir(run / 'checkpoints')
    return max(int(x) for x in names if x.isdigit())

  def _losses(self, run):
    read = event_accumulator.EventAccumulator(str(run / 'tensorboard'))
    read.Reload()
    points = read.Scalars('train/loss')
    self.assertEqual([x.step for x in points[:20]], list(range(1, 21)))
    return np.array([x.value for x in points[:20]])

  def test_a_run_equals_that_of_one_process(self):
    """A signal to either of its processes stops it."""
    folder = self._folder()
    with _Launched(
      folder,
      _TRAIN,
      *_SMALL,
      '--config.num_steps=20',
      '--model_dir=one',
      count=1,
    ) as launched:
      self.assertEqual(launched.exit_codes(), [0], launched.output('err', 0))
    self._check_render(folder)
    many = (*_SMALL, '--config.num_steps=100000', '--model_dir=many')
    with _Launched(
      folder, _TRAIN, *many, '--config.i_testset=20', devices=2
    ) as launched:
      launched.wait_for_output('step 20  test')
      launched.processes[1].send_signal(signal.SIGTERM)
      self.assertEqual(
        launched.exit_codes(), [143, 143], launched.output('err', 0)
      )
      stopped = int(
        re.search(
          r'Stopped by SIGTERM after step (\d+)', launched.output('err', 0)
        )[1]
      )
      self.assertEmpty(launched.output('out', 1))
    run = folder / 'many'
    self.assertEqual(self._latest(run), stopped)
    np.testing.assert_allclose(
      self._losses(run), self._losses(folder / 'one'), rtol=1e-3
    )
    psnr = [
      json.loads((folder / x / 'results.json').read_text())['psnr']
      for x in ('one', 'many/test_0000020')
    ]
    np.testing.assert_allclose(*psnr, rtol=0, atol=0.1)
    # Only process 0 writes the log.
    log = (run / 'log.txt').read_text()
    self.assertLen(re.findall(r'  step +20  loss', log), 1)


@pytest.mark.slow
class FailureTest(chex.TestCase):
  """If one process fails, the others end and name it."""

  def _folder(self):
    return pathlib.Path(self.create_tempdir().full_path)

  def test_a_setting_that_differs(self):
    with _Launched(
      self._folder(),
      _TRAIN,
      *_SMALL,
      '--model_dir=run',
      last=['--config.num_rand=255'],
    ) as launched:
      self.assertEqual(launched.exit_codes(60), [1, 1])
      message = 'config.num_rand: got 255, but process 0 has 256'
      self.assertStartsWith(launched.output('err', 1), f'Error: {message}')
      self.assertRegex(
        launched.output('err', 0), rf'^Process 1 \(.*\) failed: {message}'
      )

  def _can_connect(self, address):
    try:
      socket.create_connection(address, 5).close()
    except ConnectionRefusedError:
      return False
    return True

  def test_process_0_is_killed(self):
    with _Launched(self._folder(), _WORKER, '--task=wait') as launched:
      launched.wait_for_output('together')
      # It listens where --coordinator says, and nowhere else.
      self.assertTrue(self._can_connect(('127.0.0.1', launched.port)))
      self.assertFalse(self._can_connect(('127.0.0.2', launched.port)))
      launched.processes[0].kill()
      self.assertEqual(launched.exit_codes(60), [-signal.SIGKILL, 1])
      self.assertRegex(
        launched.output('err', 1), r'(?m)^Process 0 \(.*\) is gone'
      )

  def test_another_process_is_suspended(self):
    with _Launched(
      self._folder(), _WORKER, '--task=wait', slurm=True
    ) as launched:
      # Some four seconds: longer than the silence that ends a run.
      launched.wait_for_output('together', count=40)
      launched.processes[1].send_signal(signal.SIGSTOP)
      # Process 0 kills it.
      self.assertEqual(launched.exit_codes(60), [1, -signal.SIGKILL])
      self.assertRegex(
        launched.output('err', 0),
        r'(?m)^Process 1 \(.*\) has sent no heartbeat for 3 s',
      )

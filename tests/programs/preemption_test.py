"""Real processes that are killed, starved of disk, and started twice.

The long form is `experiments/benchmarks/preemption.py`, `docs/reliability.md`.
"""

import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
from unittest import mock

import chex
import pytest

from experiments.benchmarks import preemption
from tests.support import environment

_EXPERIMENTS = pathlib.Path(preemption.__file__).parents[1]


@pytest.mark.slow
class PreemptionTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.enterContext(mock.patch.dict(os.environ, environment.make(1)))

  def test_a_run_killed_at_random_times_ends_with_the_same_bits(self):
    whole = preemption.run(self.folder / 'whole')
    self.assertEqual(whole.code, 0, whole.err)
    seed = random.randrange(2**31)
    print(f'seed {seed}')  # Shown if it fails.
    generator = random.Random(seed)
    numbers = [signal.SIGKILL, signal.SIGTERM]
    times = [generator.uniform(0, whole.seconds) for _ in numbers]
    model_dir = self.folder / 'killed'
    preemption.run_with_kills(model_dir, times, numbers)
    self.assertEmpty(
      preemption.differing(
        preemption.last_state(model_dir),
        preemption.last_state(self.folder / 'whole'),
      )
    )

  def _start(self, model_dir, *arguments):
    process = subprocess.Popen(
      [
        sys.executable,
        _EXPERIMENTS / 'train.py',
        *preemption.ARGUMENTS,
        *arguments,
        f'--model_dir={model_dir}',
      ],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    self.addCleanup(process.kill)
    return process

  def _wait_for(self, process, *texts):
    """Reads lines until one with a text has come, for each text in turn."""
    lines = []
    for text in texts:
      for line in process.stdout:
        lines.append(line)
        if text in line:
          break
      else:
        self.fail(f'No {text!r}: {"".join(lines)} {process.stderr.read()}')
    return lines

  def test_a_full_disk_and_a_second_run(self):
    """RLIMIT_FSIZE 0 lets no file grow: it stands for a disk that is full."""
    model_dir = self.folder / 'full'
    long = '--config.num_steps=1000000'
    process = self._start(model_dir, long, '--config.i_weights=50')
    self._wait_for(process, 'step     100')
    second = self._start(model_dir, long)
    _, err = second.communicate(timeout=120)
    self.assertEqual(second.returncode, 1)
    self.assertRegex(err, r'^Error: --model_dir: another process trains in .*')
    self.assertLen(err.splitlines(), 1)

    limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    lines = self._wait_for(process, 'could not be written', 'could not be writ')
    told = ''.join(lines)
    for name in ('log.txt', 'TensorBoard'):
      failed = [x for x in lines if name in x and 'Training continues' in x]
      self.assertLen(failed, 1, told)
    self.assertIn('(File too large). The last one on disk: that of', told)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
    before = max(_steps(model_dir))
    while max(_steps(model_dir)) == before:
      self._wait_for(process, 'loss')
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    self.assertEqual(process.returncode, 143)
    self.assertRegex(err, r'after step \d+; the checkpoint is saved')
    self.assertNotIn('Traceback', err)
    left = [x.name for x in model_dir.rglob('*.orbax-checkpoint-tmp*')]
    self.assertEmpty(left)

    # The signal comes while the update is compiled, or in the first steps.
    again = self._start(model_dir, long)
    self._wait_for(again, 'Resuming from')
    again.send_signal(signal.SIGTERM)
    _, err = again.communicate(timeout=120)
    self.assertEqual(again.returncode, 143, err)
    self.assertNotIn('Traceback', err)


def _steps(model_dir):
  return [
    int(x.name)
    for x in (model_dir / 'checkpoints').iterdir()
    if x.name.isdecimal()
  ]

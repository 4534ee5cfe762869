import contextlib
import io
import os
import pathlib
from unittest import mock

import chex

from experiments.trainer import progress


class ProgressTest(chex.TestCase):
  def _run(self, losses, every, seconds=1.0, first=0):
    """Lines of a run whose first step takes ten times as long."""
    clock = iter([0.0] + [9 * seconds + i * seconds for i in range(1, 99)])
    now = [next(clock)]
    text = io.StringIO()
    with (
      mock.patch.object(
        progress.time, 'perf_counter', side_effect=lambda: now[0]
      ),
      contextlib.redirect_stdout(text),
    ):
      log = progress.Log(pathlib.Path(self.create_tempfile().full_path))
      shown = progress.Progress(
        log,
        first_step=first,
        num_steps=first + len(losses),
        num_rays=100,
        every=every,
      )
      for loss in losses:
        now[0] = next(clock)
        shown.show({'loss': loss, 'psnr': 20.0})
      rate = shown.rays_per_second()
      shown.close()
    return text.getvalue().splitlines(), rate

  def test_lines_come_every_so_often_and_at_the_end(self):
    lines, _ = self._run([0.5, 0.4, 0.3, 0.2, 0.1], every=2)
    self.assertEqual(
      [x.split('  ')[:3] for x in lines],
      [
        ['step 2', 'loss 0.40000', 'PSNR 20.00 dB'],
        ['step 4', 'loss 0.20000', 'PSNR 20.00 dB'],
        ['step 5', 'loss 0.10000', 'PSNR 20.00 dB'],
      ],
    )

  def test_the_rate_leaves_out_the_step_that_compiles(self):
    _, rate = self._run([0.5] * 5, every=9, seconds=0.5)
    self.assertAlmostEqual(rate, 200.0)
    _, rate = self._run([0.5], every=9)
    self.assertEqual(rate, 0.0)

  def test_a_resumed_run_counts_from_where_it_was(self):
    lines, rate = self._run([0.5, 0.4, 0.3], every=2, first=99, seconds=0.5)
    self.assertEqual(
      [x.split('  ')[0] for x in lines], ['step 100', 'step 102']
    )
    self.assertAlmostEqual(rate, 200.0)

  def test_a_pause_is_not_in_the_rate(self):
    now = [0.0]
    log = progress.Log(pathlib.Path(self.create_tempfile().full_path))
    with mock.patch.object(
      progress.time, 'perf_counter', side_effect=lambda: now[0]
    ):
      shown = progress.Progress(
        log, first_step=0, num_steps=9, num_rays=100, every=9
      )
      for seconds in (5.0, 1.0, 1.0):
        now[0] += seconds
        shown.show({'loss': 0.5, 'psnr': 20.0})
        with shown.paused():
          now[0] += 30.0
          inside = shown.step_seconds()
        self.assertEqual(shown.step_seconds(), inside)
      self.assertAlmostEqual(shown.rays_per_second(), 100.0)
      self.assertEqual(inside, 2.0)  # Not the first step, which compiles.
      shown.close()


class LogTest(chex.TestCase):
  def test_a_line_each_with_its_time(self):
    path = pathlib.Path(self.create_tempdir().full_path) / 'log.txt'
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
      log = progress.Log(path)
      log.info('one\ntwo')
      log.write('three')
    self.assertEqual(text.getvalue(), 'one\ntwo\n')
    lines = path.read_text().splitlines()
    self.assertEqual([x.split('  ')[1] for x in lines], ['one', 'two', 'three'])

  def test_text_that_is_not_unicode_is_escaped(self):
    path = pathlib.Path(self.create_tempfile().full_path)
    progress.Log(path).write('\u00e9 \udcff')
    self.assertEndsWith(path.read_bytes(), b'  \xc3\xa9 \\udcff\n')

  def test_a_file_that_cannot_be_written_is_reported_once(self):
    folder = pathlib.Path(self.create_tempdir().full_path) / 'gone'
    log, text = progress.Log(folder / 'log.txt'), io.StringIO()
    with contextlib.redirect_stdout(text):
      log.info('one')
      log.info('two')
      folder.mkdir()
      log.info('three')
      (folder / 'log.txt').unlink()
      folder.rmdir()
      log.info('four')
    lines = text.getvalue().splitlines()
    told = f'{folder}/log.txt cannot be written (No such file or directory). '
    told += 'Training continues.'
    self.assertEqual(lines, ['one', told, 'two', 'three', 'four', told])

  def test_an_output_that_cannot_be_written_stops_nothing(self):
    """/dev/full is a disk that is full, as for `train.py > run.txt`."""
    path = pathlib.Path(self.create_tempdir().full_path) / 'log.txt'
    with open('/dev/full', 'w', buffering=1) as full:
      with contextlib.redirect_stdout(full):
        progress.Log(path).info('one')
      with contextlib.suppress(OSError):
        full.close()
    self.assertRegex(path.read_text(), 'one')

  def test_a_pipe_that_nobody_reads_ends_the_run(self):
    path = pathlib.Path(self.create_tempdir().full_path) / 'log.txt'
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, 'w', buffering=1) as pipe:
      with contextlib.redirect_stdout(pipe), self.assertRaises(BrokenPipeError):
        progress.Log(path).info('one')
      with contextlib.suppress(OSError):
        pipe.close()

import contextlib
import io
from unittest import mock

import chex

from experiments import progress


class ProgressTest(chex.TestCase):
  def _run(self, losses, every, seconds=1.0):
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
      shown = progress.Progress(
        num_steps=len(losses), num_rays=100, every=every
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

  def test_a_loss_that_is_no_number_stops(self):
    with self.assertRaisesRegex(ValueError, 'nan after step 2.*learning_rate'):
      self._run([0.5, float('nan'), 0.3], every=2)

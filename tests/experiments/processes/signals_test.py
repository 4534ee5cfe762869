import os
import signal

import chex
from absl.testing import parameterized

from experiments.processes import signals


class ListenerTest(chex.TestCase):
  @parameterized.parameters((signal.SIGINT, 130), (signal.SIGTERM, 143))
  def test_the_first_is_noted_and_the_second_stops(self, number, code):
    before = signal.getsignal(number)
    with signals.Listener() as listener:
      self.assertIsNone(listener.signal_number)
      os.kill(os.getpid(), number)
      self.assertEqual(listener.signal_number, number)
      with self.assertRaises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
        signal.pause()
    self.assertEqual(signal.getsignal(number), before)
    signals.check_between_images()  # Nobody listens.
    error = signals.StoppedError(12, number)
    self.assertEqual(error.exit_code, code)
    self.assertRegex(str(error), f'{signal.Signals(number).name}.*step 12')

  def test_a_view_under_way_ends(self):
    with signals.Listener(between_views=True) as listener:
      with listener.at_once():
        signals.check_between_images()  # No signal yet.
        os.kill(os.getpid(), signal.SIGTERM)
        self.assertEqual(listener.signal_number, signal.SIGTERM)
        with self.assertRaises(KeyboardInterrupt):
          signals.check_between_images()
      signals.check_between_images()  # Nothing is to end at once any more.


class TerminatedTest(chex.TestCase):
  def test_sigterm_ends_what_is_under_way(self):
    before = signal.getsignal(signal.SIGTERM)
    self.addCleanup(signal.signal, signal.SIGTERM, before)
    signals.raise_on_sigterm()
    with self.assertRaises(signals.TerminatedError):
      os.kill(os.getpid(), signal.SIGTERM)
      signal.pause()
    with signals.Listener() as listener:  # While it listens, it decides.
      os.kill(os.getpid(), signal.SIGTERM)
      self.assertEqual(listener.signal_number, signal.SIGTERM)
    with self.assertRaises(signals.TerminatedError):
      os.kill(os.getpid(), signal.SIGTERM)
      signal.pause()

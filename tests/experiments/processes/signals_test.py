import contextlib
import os
import signal

import chex
from absl.testing import parameterized

from experiments.processes import signals


class ListenerTest(chex.TestCase):
  @parameterized.parameters((signal.SIGINT, 130), (signal.SIGTERM, 143))
  def test_notes_the_first_signal_and_stops_at_the_second(self, number, code):
    before = signal.getsignal(number)
    with signals.Listener() as listener:
      self.assertIsNone(listener.signal_number)
      os.kill(os.getpid(), number)
      self.assertEqual(listener.signal_number, number)
      with self.assertRaises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
        signal.pause()
    self.assertEqual(signal.getsignal(number), before)
    signals.raise_if_interrupted()  # No listener, and no signal.
    error = signals.StoppedError(12, number)
    self.assertEqual(error.exit_code, code)
    self.assertEqual(
      str(error),
      f'Stopped by {signal.Signals(number).name} after step 12; the checkpoint '
      'is saved. Run the same command to resume.',
    )

  def test_interrupts_only_between_images(self):
    with signals.Listener(only_between_images=True) as listener:
      with listener.interruptible():
        signals.raise_if_interrupted()  # No signal yet.
        os.kill(os.getpid(), signal.SIGTERM)
        self.assertEqual(listener.signal_number, signal.SIGTERM)
        with self.assertRaises(KeyboardInterrupt):
          signals.raise_if_interrupted()
      signals.raise_if_interrupted()  # The context has ended.

  def test_interrupts_at_once(self):
    with signals.Listener() as listener, listener.interruptible():
      with self.assertRaises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
      self.assertEqual(listener.signal_number, signal.SIGTERM)


class TerminatedTest(chex.TestCase):
  def test_sigterm_raises_an_error(self):
    for number in (signal.SIGTERM, signal.SIGINT):
      self.addCleanup(signal.signal, number, signal.getsignal(number))
    signals.raise_on_signals()
    with self.assertRaises(signals.TerminatedError):
      os.kill(os.getpid(), signal.SIGTERM)
      signal.pause()
    signals.raise_on_signals()
    with signals.Listener() as listener:  # It handles signals meanwhile.
      os.kill(os.getpid(), signal.SIGTERM)
      self.assertEqual(listener.signal_number, signal.SIGTERM)
    with self.assertRaises(signals.TerminatedError):
      os.kill(os.getpid(), signal.SIGTERM)
      signal.pause()

  def test_what_a_library_catches_is_raised_again(self):
    for number in (signal.SIGTERM, signal.SIGINT):
      self.addCleanup(signal.signal, number, signal.getsignal(number))
    # Ignored where the tests run in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signals.raise_on_signals()
    signals.raise_if_interrupted()
    with contextlib.suppress(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
      signal.pause()
    for use in (signals.raise_if_interrupted, signals.Listener().__enter__):
      with self.assertRaises(KeyboardInterrupt):
        use()
    signals.raise_on_signals()
    signals.raise_if_interrupted()

"""Ctrl-C and SIGTERM: at once, or for a run that is to keep what it has."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

_NOTED = b'\nKeeping the state and stopping; once more stops at once.\n'


class StoppedError(Exception):
  """The run was asked to stop, and has kept its state."""

  def __init__(self, step: int, signal_number: int):
    super().__init__(
      f'Stopped by {signal.Signals(signal_number).name} and kept after step '
      f'{step}: the same command goes on from there.'
    )
    # As shells say it.
    self.exit_code = 128 + signal_number


class TerminatedError(KeyboardInterrupt):
  """SIGTERM where there is nothing to keep: as Ctrl-C, but for its code."""


def raise_on_sigterm() -> None:
  """Has SIGTERM end what is under way, by a `TerminatedError`."""

  def end(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise TerminatedError

  signal.signal(signal.SIGTERM, end)


class Listener:
  """A context in which the first signal is only noted; a second one stops.

  `signal_number` is the signal that came, or None.
  """

  def __init__(self, *, between_views: bool = False) -> None:
    """`between_views`: whether `at_once` waits for the view under way."""
    self._between_views = between_views
    self.signal_number: int | None = None
    self._at_once = False
    self._before: dict[int, signal._HANDLER] = {}

  def __enter__(self) -> 'Listener':
    global _listening
    _listening = self
    for number in (signal.SIGINT, signal.SIGTERM):
      self._before[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *error: object) -> None:
    global _listening
    _listening = None
    for number, handler in self._before.items():
      signal.signal(number, handler)

  @contextlib.contextmanager
  def at_once(self) -> Iterator[None]:
    """A context that the first signal ends, by a `KeyboardInterrupt`."""
    self._at_once = True
    try:
      yield
    finally:
      self._at_once = False

  def _note(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self.signal_number is not None:
      raise KeyboardInterrupt
    self.signal_number = number
    # Not by print: the signal may have come in the middle of one.
    os.write(2, _NOTED)
    if self._at_once and not self._between_views:
      raise KeyboardInterrupt

  def between_views(self) -> None:
    """Ends a context `at_once` if a signal came."""
    if self._at_once and self.signal_number is not None:
      raise KeyboardInterrupt


_listening: Listener | None = None


def check_between_images() -> None:
  """To be called where many processes may leave off drawing."""
  if _listening is not None:
    _listening.between_views()

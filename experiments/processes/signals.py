"""Ctrl-C and SIGTERM: stop at once, or after a checkpoint is saved."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

_NOTICE = (
  b'\nSaving a checkpoint, then stopping. Press Ctrl-C again to stop now.\n'
)


class StoppedError(Exception):
  """The run was stopped by a signal, and its checkpoint is saved."""

  def __init__(self, step: int, signal_number: int):
    super().__init__(
      f'Stopped by {signal.Signals(signal_number).name} after step {step}; the '
      'checkpoint is saved. Run the same command to resume.'
    )
    self.exit_code = 128 + signal_number  # The convention of shells.


class TerminatedError(KeyboardInterrupt):
  """SIGTERM where there is nothing to save: Ctrl-C with another exit code."""


def exit_on_interrupt() -> None:
  """Makes Ctrl-C end the process at once and silently.

  For the time of imports, when libraries turn a `KeyboardInterrupt` into other
  errors, and for the end of a process.
  """

  def handle(number: int, frame: FrameType | None) -> None:
    del frame
    os._exit(128 + number)  # The convention of shells.

  if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, handle)


def raise_on_signals() -> None:
  """Makes Ctrl-C a `KeyboardInterrupt`, and SIGTERM a `TerminatedError`.

  Where a library catches that, `raise_if_interrupted` raises it again.
  """
  global _raised
  _raised = None

  def handle(number: int, frame: FrameType | None) -> None:
    global _raised
    del frame
    is_interrupt = number == signal.SIGINT
    _raised = KeyboardInterrupt() if is_interrupt else TerminatedError()
    raise _raised

  if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, handle)
  signal.signal(signal.SIGTERM, handle)


# What the handler of `raise_on_signals` has raised.
_raised: KeyboardInterrupt | None = None


class Listener:
  """A context in which the first signal is only noted; a second one stops.

  `signal_number` is that of the first signal, or None.
  """

  def __init__(self, *, only_between_images: bool = False) -> None:
    """Listens once the context is entered.

    Args:
      only_between_images: whether the first signal interrupts an
        `interruptible` context only in `raise_if_interrupted`.
    """
    self._only_between_images = only_between_images
    self.signal_number: int | None = None
    self._interruptible = False
    self._previous: dict[int, signal._HANDLER] = {}

  def __enter__(self) -> 'Listener':
    global _listener
    raise_if_interrupted()
    _listener = self
    for number in (signal.SIGINT, signal.SIGTERM):
      self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *error: object) -> None:
    global _listener
    _listener = None
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  @contextlib.contextmanager
  def interruptible(self) -> Iterator[None]:
    """A context in which the first signal raises a `KeyboardInterrupt`."""
    self._interruptible = True
    try:
      yield
    finally:
      self._interruptible = False

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self.signal_number is not None:
      raise KeyboardInterrupt
    self.signal_number = number
    # Not with print: the signal may have come in the middle of one.
    os.write(2, _NOTICE)
    if self._interruptible and not self._only_between_images:
      raise KeyboardInterrupt

  def raise_if_interrupted(self) -> None:
    """Raises a `KeyboardInterrupt` if a signal came, where it is to."""
    if self._interruptible and self.signal_number is not None:
      raise KeyboardInterrupt


_listener: Listener | None = None


def raise_if_interrupted() -> None:
  """Raises a `KeyboardInterrupt` if the current listener asks for it.

  Called where all processes of a run can stop rendering together. Before there
  is a listener, it raises again what a library caught.
  """
  if _listener is None and _raised is not None:
    raise _raised
  if _listener is not None:
    _listener.raise_if_interrupted()

"""What a user sees of a run while it trains."""

import contextlib
import datetime
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import tqdm

_BAR = '{percentage:3.0f}%|{bar}| [{elapsed}<{remaining}] {postfix}'
# Seconds between two refreshes of the bar.
_REFRESH = 0.5


class Log:
  """Says things to the user, and keeps them in a file.

  A file that can not be written does not stop a run; that is said once.
  """

  def __init__(self, path: pathlib.Path | None):
    """Without a path it does neither."""
    self.path = path
    self._fails = False

  def say(self, text: str) -> None:
    """Prints, above the bar if there is one, and writes it down."""
    if self.path is not None:
      _print(text)
      self.note(text)

  def note(self, text: str) -> None:
    """Writes it down only."""
    if self.path is None:
      return
    now = datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M:%S')
    lines = [f'{now}  {line}\n' for line in text.splitlines()]
    try:
      with self.path.open('a') as file:
        file.writelines(lines)
      self._fails = False
    except OSError as error:
      if not self._fails:
        _print(
          f'{self.path} can not be written ({error.strerror}); training goes '
          'on.'
        )
      self._fails = True


def _print(text: str) -> None:
  """Prints above the bar; a file that the output goes to may be full too."""
  try:
    tqdm.tqdm.write(text)
  except BrokenPipeError:
    raise  # Nobody reads on: `train.py | head`.
  except OSError:
    pass


class Progress:
  """A bar in a terminal, and a line every so many steps anywhere."""

  def __init__(
    self,
    log: Log,
    *,
    first_step: int,
    num_steps: int,
    num_rays: int,
    every: int,
  ):
    """Makes the bar.

    Args:
      log: where lines go.
      first_step: steps that were done before.
      num_steps: steps that will have been done at the end.
      num_rays: rays of a step.
      every: steps between two lines.
    """
    self._log = log
    self._first = self._step = first_step
    self._num_steps = num_steps
    self._num_rays = num_rays
    self._every = every
    self._start = self._refreshed = time.perf_counter()
    self._paused = 0.0
    self._pause: float | None = None  # When the pause under way began.
    self._bar = tqdm.tqdm(
      total=num_steps,
      initial=first_step,
      bar_format=_BAR,
      # None: no bar where the output is no terminal.
      disable=None if log.path else True,
    )

  def show(self, scalars: dict[str, Any]) -> None:
    """Counts a step, and shows its scalars when it is time to."""
    self._step += 1
    now = time.perf_counter()
    if self._step == self._first + 1:
      # The first step compiles: the rate is without it.
      self._start, self._paused = now, 0.0
    last = self._step == self._num_steps
    if last or self._step % self._every == 0:
      width = len(str(self._num_steps))
      self._log.say(f'step {self._step:>{width}}  {self._describe(scalars)}')
    if not self._bar.disable and (last or now > self._refreshed + _REFRESH):
      self._refreshed = now
      self._bar.set_postfix_str(self._describe(scalars), refresh=False)
      self._bar.update(self._step - self._bar.n)

  def rays_per_second(self) -> float:
    """Mean rate from the end of the first step on; 0 before the second."""
    steps = self._step - self._first - 1
    if steps < 1:
      return 0.0
    return steps * self._num_rays / self.step_seconds()

  def step_seconds(self) -> float:
    """Returns the seconds spent in steps so far.

    Neither pauses count, nor the first step, which waits for compilation.
    """
    if self._step == self._first:
      return 0.0
    now = time.perf_counter() if self._pause is None else self._pause
    return now - self._start - self._paused

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """A context whose time does not count into the rate."""
    self._pause = time.perf_counter()
    try:
      yield
    finally:
      self._paused += time.perf_counter() - self._pause
      self._pause = None

  def close(self) -> None:
    """Leaves the terminal as it was."""
    self._bar.close()

  def _describe(self, scalars: dict[str, Any]) -> str:
    return (
      f'loss {scalars["loss"]:.5f}  PSNR {scalars["psnr"]:.2f} dB  '
      f'{self.rays_per_second():,.0f} rays/s'
    )

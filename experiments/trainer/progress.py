"""The log, the progress bar and the profile of a run."""

import contextlib
import datetime
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import tqdm

_BAR = '{percentage:3.0f}%|{bar}| [{elapsed}<{remaining}] {postfix}'
# Seconds between two refreshes of the bar.
_REFRESH = 0.5
# Steps that are profiled, from 0, the first of the process, which compiles.
_PROFILED_STEPS = range(3, 8)


class Log:
  """Prints messages, and writes them to a file.

  A file that cannot be written does not stop a run; that is printed once.
  """

  def __init__(self, path: pathlib.Path | None):
    """Opens a log; without a path it prints and writes nothing."""
    self.path = path
    self._is_failing = False

  def info(self, text: str) -> None:
    """Prints a message, above the bar if there is one, and writes it."""
    if self.path is not None:
      _print(text)
      self.write(text)

  def write(self, text: str) -> None:
    """Writes a message to the file only."""
    if self.path is None:
      return
    now = datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M:%S')
    lines = [f'{now}  {line}\n' for line in text.splitlines()]
    try:
      with self.path.open(
        'a', encoding='utf-8', errors='backslashreplace'
      ) as file:
        file.writelines(lines)
      self._is_failing = False
    except OSError as error:
      if not self._is_failing:
        _print(
          f'{self.path} cannot be written ({error.strerror}). Training '
          'continues.'
        )
      self._is_failing = True


def _print(text: str) -> None:
  """Prints above the bar; a file that the output goes to may be full too."""
  try:
    tqdm.tqdm.write(text)
  except BrokenPipeError:
    raise  # The reader has gone: `train.py | head`.
  except OSError:
    pass


class Progress:
  """A progress bar in a terminal, and a line every N steps anywhere."""

  def __init__(
    self,
    log: Log,
    *,
    first_step: int,
    num_steps: int,
    num_rays: int,
    every: int,
  ):
    """Starts the bar.

    Args:
      log: of the run.
      first_step: number of steps before this process.
      num_steps: number of steps at the end of the run.
      num_rays: rays of a step.
      every: steps between two lines.
    """
    self._log = log
    self._first = self._step = self._measured_from = first_step
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

  def show(
    self, scalars: dict[str, Any], *, is_of_first_call: bool = False
  ) -> None:
    """Counts a step, and shows its scalars when that is due.

    Args:
      scalars: of the step.
      is_of_first_call: whether the update was called for the first time, with
        this step and maybe others; the first step is in any case.
    """
    self._step += 1
    now = time.perf_counter()
    if is_of_first_call or self._step == self._first + 1:
      self._restart_clock()  # The first call compiles.
    last = self._step == self._num_steps
    if last or self._step % self._every == 0:
      width = len(str(self._num_steps))
      self._log.info(f'step {self._step:>{width}}  {self._describe(scalars)}')
    if not self._bar.disable and (last or now > self._refreshed + _REFRESH):
      self._refreshed = now
      self._bar.set_postfix_str(self._describe(scalars), refresh=False)
      self._bar.update(self._step - self._bar.n)

  def rays_per_second(self) -> float:
    """Returns the mean rate from the first step on; 0 before the second."""
    steps = self._step - self._measured_from
    if steps < 1:
      return 0.0
    return steps * self._num_rays / self.step_seconds()

  def _restart_clock(self) -> None:
    """Leaves the steps so far out of the rate."""
    self._start, self._paused = time.perf_counter(), 0.0
    self._measured_from = self._step

  def seconds_per_step(self) -> float | None:
    """Returns the mean of the steps from the second on; None before it."""
    steps = self._step - self._measured_from
    return self.step_seconds() / steps if steps > 0 else None

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
    """Returns a context whose time is left out of the rate."""
    self._pause = time.perf_counter()
    try:
      yield
    finally:
      self._paused += time.perf_counter() - self._pause
      self._pause = None

  def close(self) -> None:
    """Closes the bar."""
    self._bar.close()

  def _describe(self, scalars: dict[str, Any]) -> str:
    return (
      f'loss {scalars["loss"]:.5f}  PSNR {scalars["psnr"]:.2f} dB  '
      f'{self.rays_per_second():,.0f} rays/s'
    )


class Profile:
  """A profile of five steps, for TensorBoard's profiler, XProf or Perfetto."""

  def __init__(self, folder: pathlib.Path | None, log: Log):
    """Prepares a profile in a folder; without one nothing is recorded."""
    self._folder, self._log = folder, log
    self._running = False

  def before(self, step: int) -> None:
    """Starts or stops recording; call it before each step, from 0 on.

    Where a call takes several steps, whole calls are recorded.
    """
    if self._folder is None:
      return
    if self._running and step >= _PROFILED_STEPS.stop:
      self.stop()
      self._folder = None
    elif not self._running and step >= _PROFILED_STEPS.start:
      jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
      self._running = True

  def stop(self) -> None:
    """Writes the profile if one is being recorded."""
    if self._running:
      self._running = False
      jax.profiler.stop_trace()
      self._log.info(f'The profile of some steps is in {self._folder}.')

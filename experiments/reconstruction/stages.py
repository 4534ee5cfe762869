"""Shows the stages of a reconstruction: a bar, then a line for each."""

import time
from types import TracebackType

import tqdm

_BAR = '{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}]'
_OPEN_BAR = '{desc} {n_fmt} [{elapsed}]'  # Where the total is not known.


class Stages:
  """A progress bar in a terminal, and a line at the end of each stage.

  A context: on leaving it, the bar of a stage that has not ended is removed.
  """

  def __init__(self) -> None:
    self._bar: tqdm.tqdm | None = None
    self._name, self._start, self._done = '', 0.0, 0

  def __enter__(self) -> 'Stages':
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if self._bar is not None:
      self._bar.close()

  def start(self, name: str, total: int | None) -> None:
    """Starts a stage of `total` steps, if that is known."""
    self._name, self._start, self._done = name, time.perf_counter(), 0
    self._bar = tqdm.tqdm(
      total=total,
      desc=f'{name:<10}',
      bar_format=_OPEN_BAR if total is None else _BAR,
      leave=False,
      disable=None,  # No bar where the output is no terminal.
    )

  def show(self, done: int) -> None:
    """Shows how many steps of the stage are done."""
    assert self._bar is not None
    self._done = done
    self._bar.update(done - self._bar.n)

  def finish(self, what: str) -> None:
    """Ends the stage; prints `what` was done, and how long it took."""
    assert self._bar is not None
    self._bar.close()
    self._bar = None
    seconds = time.perf_counter() - self._start
    print(f'{self._name:<10} {self._done} {what}, {seconds:.0f} s', flush=True)

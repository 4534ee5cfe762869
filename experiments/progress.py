"""What a user sees of a run while it trains."""

import math
import time

import tqdm

from nerf_haiku import training

_BAR = '{percentage:3.0f}%|{bar}| [{elapsed}<{remaining}] {postfix}'
# Seconds between two refreshes of the bar.
_REFRESH = 0.5


class Progress:
  """A bar in a terminal, and a line every so many steps anywhere.

  Reading scalars waits for the step that makes them, so they are read only
  when they are shown.
  """

  def __init__(self, *, num_steps: int, num_rays: int, every: int):
    """Makes the bar.

    Args:
      num_steps: steps that will have been done at the end.
      num_rays: rays of a step.
      every: steps between two lines.
    """
    self._step = 0
    self._num_steps = num_steps
    self._num_rays = num_rays
    self._every = every
    self._start = self._refreshed = time.perf_counter()
    self._bar = tqdm.tqdm(
      total=num_steps, disable=None, bar_format=_BAR
    )  # disable=None: no bar where the output is no terminal.

  def show(self, scalars: training.Scalars) -> None:
    """Counts a step, and shows its scalars when it is time to.

    Raises:
      ValueError: if a loss that is shown is no finite number.
    """
    self._step += 1
    if self._step == 1:
      float(scalars['loss'])  # The first step compiles: the rate is without.
      self._start = time.perf_counter()
    if self._step % self._every == 0 or self._step == self._num_steps:
      width = len(str(self._num_steps))
      text = f'step {self._step:>{width}}  {self._describe(scalars)}'
      tqdm.tqdm.write(text)
    now = time.perf_counter()
    last = self._step == self._num_steps
    if not self._bar.disable and (last or now > self._refreshed + _REFRESH):
      self._refreshed = now
      self._bar.set_postfix_str(self._describe(scalars), refresh=False)
      self._bar.update(self._step - self._bar.n)

  def rays_per_second(self) -> float:
    """Mean rate from the end of the first step on; 0 before the second."""
    steps = self._step - 1
    if steps < 1:
      return 0.0
    return steps * self._num_rays / (time.perf_counter() - self._start)

  def close(self) -> None:
    """Leaves the terminal as it was."""
    self._bar.close()

  def _describe(self, scalars: training.Scalars) -> str:
    loss, psnr = float(scalars['loss']), float(scalars['psnr'])
    if not math.isfinite(loss):
      raise ValueError(
        f'The loss is {loss} after step {self._step}; a smaller '
        'config.learning_rate may help.'
      )
    return (
      f'loss {loss:.5f}  PSNR {psnr:.2f} dB  '
      f'{self.rays_per_second():,.0f} rays/s'
    )

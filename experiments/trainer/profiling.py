"""A profile of a few steps."""

import pathlib

import jax

from experiments.trainer import progress

# Counted from the first step of the process, which compiles.
_STEPS = range(3, 8)


class Profile:
  """Records five steps, for TensorBoard's profiler, XProf or Perfetto."""

  def __init__(self, folder: pathlib.Path | None, log: progress.Log):
    """Records nothing without a folder."""
    self._folder, self._log = folder, log
    self._running = False

  def before(self, step: int) -> None:
    """To be called before each step; 0 is the first of the process."""
    if self._folder is not None and step == _STEPS.start:
      jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
      self._running = True
    elif step == _STEPS.stop:
      self.stop()

  def stop(self) -> None:
    """Writes what was recorded, if anything was."""
    if self._running:
      self._running = False
      jax.profiler.stop_trace()
      self._log.say(f'The profile of some steps is in {self._folder}.')

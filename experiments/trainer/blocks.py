"""Calls of the update: how many steps each takes, and what it reads."""

import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.builders import experiment as experiment_lib
from experiments.builders import training_step
from nerf_haiku import arrays, devices, training

# Steps of a call on an accelerator, and the seconds that they may take: two
# calls are in flight when a signal is noticed.
_NUM_STEPS, _MAX_SECONDS = 16, 0.25

# Returns the scalars of each step of a call, as host arrays; it waits for them.
Read = Callable[[], list[training.Scalars]]


class Block(NamedTuple):
  """A call of the update."""

  num_steps: int
  update: training_step.Update

  def split(self, scalars: training.Scalars) -> Read:
    """Returns what reads the scalars of a call, which may be at work still."""
    fetch = fetch_later(scalars)

    def read() -> list[training.Scalars]:
      host = fetch()
      if self.num_steps == 1:
        return [host]
      return [
        jax.tree.map(lambda x, i=i: x[i], host) for i in range(self.num_steps)
      ]

    return read


def fetch_later(scalars: training.Scalars) -> Callable[[], training.Scalars]:
  """Returns a function that reads arrays, all in one copy to the host.

  The copy begins as soon as they are computed. On a CPU nothing is copied.
  """
  if devices.are_cpus() or jax.process_count() > 1:
    return lambda: jax.device_get(scalars)
  packed = _pack(scalars)
  packed.copy_to_host_async()

  def read() -> training.Scalars:
    host: training.Scalars = arrays.unpack(np.asarray(packed), scalars)
    return host

  return read


_pack = jax.jit(arrays.pack)


class Blocks:
  """Divides a run's steps into calls of one step, or of one other number."""

  def __init__(self, experiment: experiment_lib.Experiment):
    """Starts to compile the updates, while the run's state is made."""
    self._experiment = experiment
    config = experiment.config
    self._asked = config.steps_per_call
    self._num_steps = self._asked or _num_steps()
    self._single = experiment.compile_update()
    self._several: concurrent.futures.Future[Any] | None = None
    if self._num_steps > 1:
      self._several = experiment.compile_update(self._num_steps)

  def at(self, step: int, seconds: float | None) -> Block:
    """Returns the call that follows.

    Args:
      step: steps taken so far.
      seconds: of a step, as far as that is known.
    """
    several = self._several
    if several is not None and self._fits(step):
      is_ready = several.done() and seconds is not None
      is_short = is_ready and self._num_steps * (seconds or 0) < _MAX_SECONDS
      # Where it is asked for, and with several processes, which must agree, it
      # hangs on no clock.
      if self._asked or is_short:
        return Block(self._num_steps, several.result())
    return Block(1, self._single.result())

  def _fits(self, step: int) -> bool:
    """Returns whether a call may begin here, and passes no step with outputs.

    It begins at multiples, which `training.make_update` asks for.
    """
    config, end = self._experiment.config, step + self._num_steps
    intervals = (
      config.i_img,
      config.i_weights,
      config.i_testset,
      config.i_video,
      config.num_steps,
    )
    return step % self._num_steps == 0 and all(
      end <= (step // every + 1) * every for every in intervals
    )

  def memory(self) -> Any:
    """Returns the memory analysis of a step, or None."""
    if not self._single.done() or self._single.exception() is not None:
      return None
    analyze = getattr(self._single.result(), 'memory_analysis', None)
    return analyze() if analyze else None

  def data(self, inputs: Iterator[Any], num_steps: int) -> Any:
    """Returns what a call of so many steps reads."""
    of_steps = [next(inputs) for _ in range(num_steps)]
    return self._experiment.inputs.stack(of_steps)


def _num_steps() -> int:
  is_alone = jax.process_count() == 1
  return _NUM_STEPS if is_alone and not devices.are_cpus() else 1

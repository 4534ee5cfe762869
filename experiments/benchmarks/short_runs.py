"""Training within this process, without a folder: what benchmarks repeat."""

import time
from typing import NamedTuple

import jax

from experiments.builders import experiment as experiment_lib
from experiments.builders import training_step
from nerf_haiku import devices, training


class ShortRun(NamedTuple):
  """A run after its last step."""

  state: training.TrainState  # replicated `[D, ...]`.
  scalars: training.Scalars  # of the last step.
  seconds: float  # of the steps alone.


def train(
  experiment: experiment_lib.Experiment, update: training_step.Update, seed: int
) -> ShortRun:
  """Trains with a seed, as a run does."""
  init_key, key = jax.random.split(jax.random.key(seed))
  state = devices.replicate(experiment.init_state(init_key))
  inputs = experiment.make_inputs(
    seed=seed, start_step=0, num_steps=experiment.config.num_steps
  )
  start = time.perf_counter()
  for data in inputs:
    state, scalars = update(state, data, key)
    # Several devices of one CPU deadlock when steps are queued up.
    jax.block_until_ready(scalars)
  return ShortRun(state, scalars, time.perf_counter() - start)

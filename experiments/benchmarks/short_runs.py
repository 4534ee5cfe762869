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


def compile_update(
  experiment: experiment_lib.Experiment,
) -> training_step.Update:
  """Compiles the update of an experiment, and returns it."""
  return training_step.compile_ahead(
    experiment.update,
    experiment.state_shapes(),
    num_rays=experiment.config.num_rand,
    with_alpha=experiment.config.random_background,
  ).result()


def train(
  experiment: experiment_lib.Experiment, update: training_step.Update, seed: int
) -> ShortRun:
  """Trains with a seed, as a run does."""
  init_key, key = jax.random.split(jax.random.key(seed))
  state = devices.replicate(experiment.init_state(init_key))
  batches = experiment.make_batches(
    seed=seed, start_step=0, num_steps=experiment.config.num_steps
  )
  start = time.perf_counter()
  for batch in batches:
    state, scalars = update(state, batch, key)
    # Several devices of one CPU deadlock when steps are queued up.
    jax.block_until_ready(scalars)
  return ShortRun(state, scalars, time.perf_counter() - start)

"""The training step of the paper's network, compared with matrix products.

    python experiments/benchmarks/step.py --microbatch=8,16,32,0
    python experiments/benchmarks/step.py --microbatch=32 \
        --dtype=float32,bfloat16 --remat=False,True

Prints for each microbatch (0: chosen automatically), dtype and remat the memory
of a step's temporaries, its seconds, its GFLOP/s, and their ratio to the rate
of matrix products in the same process.
"""

import itertools
import pathlib
import statistics
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from absl import app, flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.benchmarks import machine
from experiments.builders import experiment as experiment_lib
from experiments.configs import paper_blender_lego
from experiments.processes import environment
from nerf_haiku import devices

_MICROBATCH = flags.DEFINE_list(
  'microbatch', ['8', '16', '32', '64', '0'], 'Rays of a microbatch.'
)
_DTYPE = flags.DEFINE_list('dtype', ['float32'], 'Data types of the networks.')
_REMAT = flags.DEFINE_list(
  'remat', ['False'], 'Whether gradients recompute activations.'
)
_NUM_RAND = flags.DEFINE_integer('num_rand', 1024, 'Rays of a step.')
_NET_WIDTH = flags.DEFINE_integer('net_width', 256, 'Width of the layers.')
_NUM_IMPORTANCE = flags.DEFINE_integer('num_importance', 128, 'Fine samples.')
_TURNS = flags.DEFINE_integer('turns', 5, 'Repetitions of each step.')


class Step(NamedTuple):
  """A compiled step."""

  take: Callable[[], None]  # takes the step, and waits for its end.
  flops: float
  megabytes: float  # memory of its temporaries.


def make_step(microbatch: int, dtype: str, remat: bool) -> Step:
  """Compiles a step with these settings."""
  config = paper_blender_lego.get_config()
  config.num_rand = _NUM_RAND.value
  config.num_importance = _NUM_IMPORTANCE.value
  for model in (config.model, config.model_fine):
    model.net_width = _NET_WIDTH.value
  config.microbatch, config.dtype, config.remat = microbatch, dtype, remat
  scene = machine.make_scene(800)
  experiment = experiment_lib.make_experiment(config, scene)
  update: Any = experiment.update
  data = next(experiment.make_inputs(seed=0, start_step=0, num_steps=1))
  state = devices.replicate(experiment.init_state(jax.random.key(0)))
  compiled = update.lower(state, data, jax.random.key(0)).compile()

  def take() -> None:
    nonlocal state
    state, scalars = compiled(state, data, jax.random.key(0))
    jax.block_until_ready(scalars)

  flops = machine.flops_per_ray(config, training=True) * config.num_rand
  memory = compiled.memory_analysis().temp_size_in_bytes
  return Step(take=take, flops=flops, megabytes=memory / 2**20)


def main(argv: list[str]) -> None:
  """Measures in turns, and prints the table."""
  del argv
  environment.quiet_libraries()
  environment.retain_freed_memory()
  settings = list(
    itertools.product(
      map(int, _MICROBATCH.value),
      _DTYPE.value,
      [x == 'True' for x in _REMAT.value],
    )
  )
  steps = [make_step(*x) for x in settings]
  products = machine.Products()
  for step in steps:
    step.take()  # The first call allocates memory from the system.
  seconds: list[list[float]] = [[] for _ in steps]
  for _ in range(_TURNS.value):
    for step, times in zip(steps, seconds, strict=True):
      products.sample()
      times.append(machine.timed(step.take))
  rate = products.rate()
  print(
    f'{_NUM_RAND.value} rays of 64 + {_NUM_IMPORTANCE.value} samples; matrix '
    f'products run at {rate / 1e9:.0f} GFLOP/s; {_TURNS.value} turns: median '
    '(min to max).'
  )
  rows = [
    [
      str(microbatch or 'auto'),
      dtype,
      str(remat),
      f'{step.megabytes:.0f}',
      machine.format_range(times),
      f'{step.flops / statistics.median(times) / 1e9:.0f}',
      machine.format_range([step.flops / x / rate for x in times]),
    ]
    for (microbatch, dtype, remat), step, times in zip(
      settings, steps, seconds, strict=True
    )
  ]
  machine.print_table(
    (
      'microbatch',
      'dtype',
      'remat',
      'memory, MB',
      'step, s',
      'GFLOP/s',
      'of the products',
    ),
    rows,
  )


if __name__ == '__main__':
  app.run(main)

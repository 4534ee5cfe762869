"""The training step of `paper_blender_lego` beside matrix products.

  python experiments/benchmarks/step.py --microbatch=8,16,32,0

Prints for each size of the pieces (0: as the config chooses) the seconds of a
step, its GFLOP/s, and their ratio to the machine's rate in the same run.
"""

import statistics
from collections.abc import Callable

import jax
import numpy as np
from absl import app, flags

from experiments import build, process
from experiments.benchmarks import machine
from experiments.configs import paper_blender_lego
from nerf_haiku import devices, training

_MICROBATCH = flags.DEFINE_list(
  'microbatch', ['8', '16', '32', '64', '0'], 'Rays of a piece.'
)
_NUM_RAND = flags.DEFINE_integer('num_rand', 1024, 'Rays of a step.')
_NUM_IMPORTANCE = flags.DEFINE_integer('num_importance', 128, 'Fine samples.')
_TURNS = flags.DEFINE_integer('turns', 5, 'Times that each step is taken.')


def make_step(microbatch: int) -> tuple[Callable[[], None], float]:
  """A step that waits for its end, and its FLOPs."""
  config = paper_blender_lego.get_config()
  config.num_rand = _NUM_RAND.value
  config.num_importance = _NUM_IMPORTANCE.value
  config.microbatch = microbatch
  scene = machine.make_scene(800)
  renderer = build.renderer(config)
  update = build.update(config, scene, renderer)
  rng = np.random.default_rng(0)
  batch = devices.shard(
    training.Batch(
      rng.integers(0, 4, config.num_rand).astype(np.int32),
      rng.integers(0, 800, (config.num_rand, 2)).astype(np.int32),
      rng.uniform(size=(config.num_rand, 3)).astype(np.float32),
    ),
    jax.local_device_count(),
  )
  state = devices.replicate(
    training.init_state(renderer, build.optimizer(config), jax.random.key(0))
  )

  def step() -> None:
    nonlocal state
    state, scalars = update(state, batch, jax.random.key(0))
    jax.block_until_ready(scalars)

  flops = machine.flops_per_ray(config, training=True) * config.num_rand
  return step, flops


def main(argv: list[str]) -> None:
  """Measures in turns, and prints the table."""
  del argv
  process.keep_freed_memory()
  sizes = [int(x) for x in _MICROBATCH.value]
  steps = [make_step(size) for size in sizes]
  products = machine.Products()
  for step, _ in steps:
    step()  # Compiles.
  seconds: list[list[float]] = [[] for _ in steps]
  for _ in range(_TURNS.value):
    for (step, _), taken in zip(steps, seconds, strict=True):
      products.sample()
      taken.append(machine.timed(step))
  rate = products.rate()
  print(
    f'{_NUM_RAND.value} rays of 64 + {_NUM_IMPORTANCE.value} samples; matrix '
    f'products run at {rate / 1e9:.0f} GFLOP/s; {_TURNS.value} turns: median '
    '(least to greatest).'
  )
  rows = [
    [
      str(size or 'auto'),
      machine.spread(taken),
      f'{flops / statistics.median(taken) / 1e9:.0f}',
      machine.spread([flops / x / rate for x in taken]),
    ]
    for size, (_, flops), taken in zip(sizes, steps, seconds, strict=True)
  ]
  head = ('microbatch', 'step, s', 'GFLOP/s', 'of the products')
  machine.print_table(head, rows)


if __name__ == '__main__':
  app.run(main)

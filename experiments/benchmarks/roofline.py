"""How near the machine's limit a step and a view of a fast field are.

    python experiments/benchmarks/roofline.py
    python experiments/benchmarks/roofline.py --data_dir=data \
        --config=experiments/configs/fast_blender_lego.py

Trains for some steps, so that the grid knows what is empty. Then the work is
counted that a step cannot do without: products of the networks, reads from the
tables of the hash grid and additions to them, and the bytes of the optimizer.
Each is divided by the rate that the machine reaches at it in the same process,
the best of several sizes. The limit is the sum.
"""

import dataclasses
import functools
import pathlib
import statistics
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments import launch
from experiments.benchmarks import machine
from experiments.builders import experiment as experiment_lib
from experiments.builders import model, scene_loader
from nerf_haiku import (
  cameras,
  devices,
  errors,
  hash_grid,
  ray_marching,
  training,
)
from nerf_haiku.renderers import occupancy

_STEPS = flags.DEFINE_integer('roof_steps', 300, 'Steps before measuring.')
_TURNS = flags.DEFINE_integer('roof_turns', 15, 'Repetitions.')
_SIZES = (2**14, 2**16, 2**18)  # Of gathers and scatters.
_COPIED = 2**24  # Numbers of a copy.


class Work(NamedTuple):
  """What is computed."""

  flops: float  # of products.
  reads: float  # of numbers of tables.
  additions: float  # to numbers of tables.
  bytes: float  # of arrays that are read and written in order.


class Rates(NamedTuple):
  """What the machine does in a second."""

  flops: float
  reads: float
  additions: float
  bytes: float

  def seconds(self, work: Work) -> list[float]:
    """Returns the seconds of each kind of work."""
    return [amount / rate for amount, rate in zip(work, self, strict=True)]


class Sampler:
  """Measures the machine's rates, in turn with what is compared with them."""

  def __init__(self, num_rows: int):
    """Compiles.

    Args:
      num_rows: rows of a table of one level.
    """
    self._products = machine.Products()
    rng = np.random.default_rng(0)
    self._table = jnp.asarray(rng.normal(size=num_rows), jnp.float32)
    self._indices = [
      jnp.asarray(rng.integers(0, num_rows, n), jnp.int32) for n in _SIZES
    ]
    self._copied = jnp.ones(_COPIED, jnp.float32)
    self._seconds: dict[Any, list[float]] = {}
    self._gather = jax.jit(_read)
    self._scatter = jax.jit(
      lambda t, i: jnp.zeros_like(t).at[i].add(1.0, mode='promise_in_bounds')
    )
    self._copy = jax.jit(lambda x: x + 1.0)
    self._sample_memory()  # Compiles; `Products` has done so.
    self._seconds.clear()

  def sample(self) -> None:
    """Measures each rate once more."""
    self._products.sample()
    self._sample_memory()

  def _sample_memory(self) -> None:
    for index in self._indices:
      self._time('reads', len(index), self._gather, self._table, index)
      self._time('additions', len(index), self._scatter, self._table, index)
    self._time('bytes', 8 * _COPIED, self._copy, self._copied)

  def rates(self) -> Rates:
    """Returns the best rate over the sizes, of the medians over the turns."""
    best = dict.fromkeys(('reads', 'additions', 'bytes'), 0.0)
    for (name, amount), seconds in self._seconds.items():
      best[name] = max(best[name], amount / statistics.median(seconds))
    return Rates(flops=self._products.rate(), **best)

  def _time(
    self, name: str, amount: int, fn: Callable[..., Any], *args: Any
  ) -> None:
    seconds = machine.timed(lambda: jax.block_until_ready(fn(*args)))
    self._seconds.setdefault((name, amount), []).append(seconds)


def _read(table: jax.Array, index: jax.Array) -> jax.Array:
  """Adds up eight numbers of a table for each result, as a grid does."""
  corners = index.reshape(8, -1)
  return functools.reduce(
    jnp.add, [table.at[i].get(mode='promise_in_bounds') for i in corners]
  )


def make_count(
  renderer: occupancy.OccupancyRenderer, variables: Any
) -> Callable[[cameras.Rays], np.ndarray]:
  """Returns a function that counts samples of rays.

  It returns how many are in occupied cells, and how many of these are lit.
  """

  @jax.jit
  def count(variables: Any, rays: cameras.Rays) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0), len(rays.near))
    samples: Any = renderer.sample_rays(variables, rays, keys)
    marched = ray_marching.count_samples(samples.marched)
    return jnp.sum(marched), jnp.sum(samples.num_samples)

  return lambda rays: np.array(count(variables, rays))


def work_per_sample(
  params: Any, levels: hash_grid.GridLevels
) -> dict[str, Work]:
  """Returns the work of a sample: of its density, its colour, its gradient."""
  layers = {name.split('/')[-1]: x for name, x in params.items() if 'w' in x}
  sizes = {name: x['w'].size for name, x in layers.items()}
  density = 2.0 * (sizes['layer_0'] + sizes['density'])
  whole = 2.0 * sum(sizes.values())
  tables = [x for name, x in params['hash'].items() if name.startswith('feat')]
  reads = 8.0 * len(levels.sizes) * len(tables)
  return {
    'density': Work(density, reads, 0, 0),
    'view': Work(whole, reads, 0, 0),
    # Two more products for each; the reads are those of the values.
    'gradient': Work(3 * whole, reads, reads, 0),
  }


def _times(work: Work, count: float) -> Work:
  return Work(*(count * x for x in work))


def _sum(*works: Work) -> Work:
  return Work(*(sum(x) for x in zip(*works, strict=True)))


def main() -> None:
  """Trains, measures, and prints the table."""
  config = launch.CONFIG.value
  if (config.field, config.renderer) != ('hash', 'occupancy'):
    raise errors.UserError(
      f'config.field, config.renderer: got {config.field!r}, '
      f"{config.renderer!r}; must be 'hash', 'occupancy'."
    )
  scene = scene_loader.load_scene(config, launch.DATA_DIR.value)
  experiment = experiment_lib.make_experiment(config, scene)
  update = experiment.compile_update().result()
  (data,) = experiment.make_inputs(seed=0, start_step=0, num_steps=1)
  state = devices.replicate(experiment.init_state(jax.random.key(0)))
  key = jax.random.key(1)

  def take() -> None:
    nonlocal state
    state, scalars = update(state, data, key)
    jax.block_until_ready(scalars)

  def render() -> None:
    experiment.render_image(state.variables(), scene.test.cameras, 0)

  for _ in range(_STEPS.value):
    take()
  render()  # Compiles.
  grid = model.make_record(config, scene)['fields']['field']
  levels = hash_grid.grid_levels(
    num_levels=grid['num_levels'],
    base_resolution=grid['base_resolution'],
    max_resolution=grid['max_resolution'],
    hashmap_size=grid['hashmap_size'],
  )
  sampler = Sampler(max(levels.sizes))
  seconds: dict[str, list[float]] = {'step': [], 'view': []}
  for turn in range(_TURNS.value):
    sampler.sample()
    seconds['step'].append(machine.timed(take))
    if turn % 3 == 0:
      seconds['view'].append(machine.timed(render))
  work = _work(experiment, devices.unreplicate(state), levels)
  _print(sampler.rates(), work, seconds)


def _work(
  experiment: experiment_lib.Experiment,
  state: training.TrainState,
  levels: hash_grid.GridLevels,
) -> dict[str, Work]:
  """Returns the work of a step and of a view."""
  config, scene = experiment.config, experiment.scene
  cast_fn = model.make_cast_fn(config, scene)
  variables = state.variables()
  each = work_per_sample(variables.params['field'], levels)
  rng = np.random.default_rng(0)
  train, test = scene.train.cameras, scene.test.cameras
  camera = rng.integers(0, len(train.sizes), config.num_rand).astype(np.int32)
  pixel = (rng.random((len(camera), 2)) * train.sizes[camera]).astype(np.int32)
  renderer: Any = experiment.renderer
  count = make_count(renderer, variables)
  step = count(cast_fn(train, jnp.asarray(camera), jnp.asarray(pixel)))
  pixel = cameras.pixels(*map(int, test.sizes[0]))
  view = np.zeros(2, int)
  settings = renderer.settings.of_evaluation()
  renderer = dataclasses.replace(renderer, settings=settings)
  count = make_count(renderer, variables)
  for start in range(0, len(pixel), config.num_rand):
    part = pixel[start : start + config.num_rand]
    rays = cast_fn(test, jnp.zeros(len(part), int), jnp.asarray(part))
    view += count(rays)
  # Adam reads the gradient, two moments and the parameters, and writes the
  # latter three; the gradient was written.
  num_params = sum(x.size for x in jax.tree.leaves(variables.params))
  print(
    f'Samples in occupied cells, and of these what light reaches: a step '
    f'{step[0]:,}, {step[1]:,}; a view {view[0]:,}, {view[1]:,}.'
  )
  return {
    'step': _sum(
      _times(each['density'], step[0]),
      _times(each['gradient'], step[1]),
      Work(0, 0, 0, 8 * 4 * num_params),
    ),
    'view': _times(each['view'], view[1]),
  }


def _print(
  rates: Rates, work: dict[str, Work], seconds: dict[str, list[float]]
) -> None:
  print(
    f'Products {rates.flops / 1e9:.0f} GFLOP/s, reads {rates.reads / 1e6:.0f} '
    f'and additions {rates.additions / 1e6:.0f} million a second, copies '
    f'{rates.bytes / 1e9:.1f} GB/s.'
  )
  rows = []
  for name, amount in work.items():
    parts = rates.seconds(amount)
    rows.append(
      [
        name,
        *(f'{1e3 * x:.1f}' for x in parts),
        f'{1e3 * sum(parts):.1f}',
        machine.format_range([1e3 * x for x in seconds[name]], 1),
        machine.format_range([sum(parts) / x for x in seconds[name]]),
      ]
    )
  machine.print_table(
    (
      'ms',
      'products',
      'reads',
      'additions',
      'bytes',
      'limit',
      'measured',
      'limit / measured',
    ),
    rows,
  )


if __name__ == '__main__':
  launch.run(main, launch.quickstart_config)

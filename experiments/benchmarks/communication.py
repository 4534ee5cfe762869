"""Communication between processes, compared with the time of a step.

    python experiments/benchmarks/communication.py

Starts two processes, each on a core of its own. For the paper's network and for
the hash field they take a step together, then sum arrays of the shapes of its
gradient: array by array, and as one array, as a step does.
A second table extrapolates to other machines: in a ring of D devices each sends
2 (D - 1) / D of the gradient, in 2 (D - 1) messages.
"""

import os
import pathlib
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import app, flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.benchmarks import machine
from experiments.builders import experiment as experiment_lib
from experiments.configs import fast_blender_lego, paper_blender_lego
from experiments.processes import environment, multihost
from nerf_haiku import devices, training

_TURNS = flags.DEFINE_integer('turns', 5, 'Repetitions of each measurement.')
_NUM_RAND = flags.DEFINE_integer(
  'num_rand', 0, 'Rays of a step; 0: those of the config.'
)
_MEETS_AT = flags.DEFINE_string('meets_at', None, 'Internal.')
_INDEX = flags.DEFINE_integer('index', None, 'Internal.')

_CONFIGS = {
  'the paper': paper_blender_lego,
  'hash, occupancy': fast_blender_lego,
}
# Assumed, not measured: bytes that a device sends per second, and the latency
# of a message in seconds.
_LINKS = {
  'NVLink, 200 GB/s': (200e9, 5e-6),
  'Ethernet, 100 Gb/s': (12.5e9, 20e-6),
}
# Assumed speed of one A100: for the paper's network 60 TFLOP/s (40 % of the
# peak of TF32), for the hash field 50 million samples per second.
_A100_FLOPS = 60e12
_A100_SAMPLES = 50e6
_DEVICES = (1, 2, 4, 8, 16, 32, 64)
_HEAD = (
  'model',
  'rays',
  'arrays',
  'gradient, MB',
  'step, s',
  'sums of its arrays, s',
  'one sum, s',
  'of the step',
)
_EXTRAPOLATED_HEAD = (
  'model',
  'link',
  'D',
  'MB sent by each',
  'computing, ms',
  'communicating, ms',
  'efficiency',
  'rays for 80 %',
)


def ring_seconds(
  size: float, count: int, *, rate: float, latency: float
) -> float:
  """Returns the seconds in which `count` devices in a ring sum `size` bytes."""
  messages = 2 * (count - 1)
  return messages * (size / count / rate + latency)


def efficiency(compute: float, count: int, communication: float) -> float:
  """Returns the efficiency of `count` devices that share `compute` seconds."""
  shared = compute / count
  return shared / (shared + communication)


def rays_for(
  ray_seconds: float, size: float, count: int, *, rate: float, latency: float
) -> float:
  """Returns the rays of a step for which `count` devices are 80 % efficient."""
  seconds = ring_seconds(size, count, rate=rate, latency=latency)
  return 4 * seconds * count / ray_seconds


def _make_step(config: ml_collections.ConfigDict) -> tuple[Callable, Any]:
  """Returns a function that takes a step, and arrays like its gradient."""
  scene = machine.make_scene(64)
  experiment = experiment_lib.make_experiment(config, scene)
  update = experiment.update
  state = experiment.init_state(jax.random.key(0))
  gradient = jax.tree.map(np.asarray, state.params)
  data = next(experiment.make_inputs(seed=0, start_step=0, num_steps=1))
  state = devices.replicate(state)

  def take_step() -> dict[str, Any]:
    nonlocal state
    state, scalars = update(state, data, jax.random.key(0))
    return jax.device_get(scalars)

  return take_step, gradient


def _make_sum(gradient: Any, *, each: bool = False) -> Callable[[], Any]:
  """Returns a function that sums arrays over processes, as one or `each`."""
  total = jax.pmap(
    (lambda x: jax.lax.psum(x, training.AXIS))
    if each
    else training.sum_over_devices,
    training.AXIS,
  )
  arrays = devices.replicate(gradient)
  return lambda: jax.block_until_ready(total(arrays))


class _Times(NamedTuple):
  """Seconds of each turn."""

  steps: list[float]
  sums: list[float]  # of the gradient as one array.
  sums_each: list[float]  # of the gradient array by array.


def _time(take_step: Callable[[], Any], gradient: Any, turns: int) -> _Times:
  """Times steps and sums in turn."""
  add, add_each = _make_sum(gradient), _make_sum(gradient, each=True)
  times = _Times(steps=[], sums=[], sums_each=[])
  for turn in range(turns + 1):
    seconds = [machine.timed(x) for x in (take_step, add, add_each)]
    if turn:  # The first compiles.
      for values, value in zip(times, seconds, strict=True):
        values.append(value)
  return times


def _measure() -> None:
  """Measures in each process; the main process prints the tables."""
  rows, extrapolated = [], []
  for name, module in _CONFIGS.items():
    config = module.get_config()
    config.num_rand = _NUM_RAND.value or config.num_rand
    take_step, gradient = _make_step(config)
    times = _time(take_step, gradient, _TURNS.value)
    arrays = jax.tree.leaves(gradient)
    size = sum(x.nbytes for x in arrays)
    share = statistics.median(times.sums) / statistics.median(times.steps)
    rows.append(
      [
        name,
        f'{config.num_rand}',
        f'{len(arrays)}',
        f'{size / 1e6:.1f}',
        machine.format_range(times.steps, 3),
        machine.format_range(times.sums_each, 4),
        machine.format_range(times.sums, 4),
        f'{share:.3f}',
      ]
    )
    ray_seconds = float(take_step()['samples']) / _A100_SAMPLES
    if config.field == 'mlp':
      flops = machine.flops_per_ray(config, training=True)
      ray_seconds = flops / _A100_FLOPS
    extrapolated += _extrapolate(name, ray_seconds, config.num_rand, size)
  if multihost.is_main():
    machine.print_table(_HEAD, rows)
    print()
    machine.print_table(_EXTRAPOLATED_HEAD, extrapolated)


def _extrapolate(
  name: str, ray_seconds: float, num_rays: int, size: int
) -> list[list[str]]:
  """Returns the rows of a model in the second table."""
  rows = []
  for link, (rate, latency) in _LINKS.items():
    for count in _DEVICES[1:]:
      seconds = ring_seconds(size, count, rate=rate, latency=latency)
      needed = rays_for(ray_seconds, size, count, rate=rate, latency=latency)
      compute = ray_seconds * num_rays
      rows.append(
        [
          name,
          link,
          f'{count}',
          f'{2 * (count - 1) / count * size / 1e6:.1f}',
          f'{1e3 * compute / count:.2f}',
          f'{1e3 * seconds:.2f}',
          f'{efficiency(compute, count, seconds):.2f}',
          f'{needed:,.0f}',
        ]
      )
  return rows


def main(argv: list[str]) -> None:
  """Starts two processes that measure, or measures in one of them."""
  del argv
  environment.quiet_libraries()
  environment.retain_freed_memory()
  if _INDEX.value is not None:
    os.sched_setaffinity(0, {_INDEX.value})  # One core each.
    multihost.initialize(_MEETS_AT.value, 2, _INDEX.value)
    _measure()
    multihost.exit_process(0)
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  command = [*sys.orig_argv, f'--meets_at=127.0.0.1:{port}']
  children = [subprocess.Popen([*command, f'--index={i}']) for i in range(2)]
  sys.exit(max(x.wait() for x in children))


if __name__ == '__main__':
  app.run(main)

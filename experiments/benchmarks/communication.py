"""What processes send to each other for a step, beside what they compute.

    python experiments/benchmarks/communication.py

Starts two processes, each on a core of its own. For the paper's network and for
the hash field they take a step together, then sum arrays like the gradient's
alone: array by array, and as one array, as a step does.
Below stands what that makes of other machines, by arithmetic: a ring of D
devices sends 2 (D - 1) / D of the gradient, in 2 (D - 1) messages.
"""

import os
import pathlib
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

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

_TURNS = flags.DEFINE_integer('turns', 5, 'Times that each is done.')
_NUM_RAND = flags.DEFINE_integer('num_rand', 0, 'Rays of a step; 0: as given.')
_MEETS_AT = flags.DEFINE_string('meets_at', None, 'Of its own use.')
_INDEX = flags.DEFINE_integer('index', None, 'Of its own use.')

_CONFIGS = {
  'the paper': paper_blender_lego,
  'hash, occupancy': fast_blender_lego,
}
# Assumed, not measured: bytes a second that a device sends, and seconds that a
# message takes.
_LINKS = {
  'NVLink, 200 GB/s': (200e9, 5e-6),
  'Ethernet, 100 Gb/s': (12.5e9, 20e-6),
}
# Assumed: seconds of the computation of a ray on one A100. The paper's network
# by its FLOPs at 60 TFLOP/s (40 % of the peak of TF32); the hash field by its
# samples at 50 million a second.
_A100_FLOPS = 60e12
_A100_SAMPLES = 50e6
_DEVICES = (1, 2, 4, 8, 16, 32, 64)


def ring_seconds(
  size: float, count: int, *, rate: float, latency: float
) -> float:
  """Seconds of an all-reduce of `size` bytes by `count` devices in a ring."""
  messages = 2 * (count - 1)
  return messages * (size / count / rate + latency)


def efficiency(compute: float, count: int, communication: float) -> float:
  """Of `count` devices that share what takes one device `compute` seconds."""
  shared = compute / count
  return shared / (shared + communication)


def rays_for(
  ray_seconds: float, size: float, count: int, *, rate: float, latency: float
) -> float:
  """Rays of a step, of all devices, that make them 80 % efficient."""
  seconds = ring_seconds(size, count, rate=rate, latency=latency)
  return 4 * seconds * count / ray_seconds


def _make_step(config: ml_collections.ConfigDict) -> tuple[Callable, Any]:
  """A step of all processes; arrays like those of its gradient."""
  scene = machine.make_scene(64)
  experiment = experiment_lib.make_experiment(config, scene)
  update = experiment.update
  state = experiment.init_state(jax.random.key(0))
  like = jax.tree.map(np.asarray, state.params)
  index = jax.process_index()
  rays = config.num_rand // jax.process_count()
  batch = machine.make_batch(config, 64, num_rays=rays, seed=index)
  state = devices.replicate(state)

  def take() -> dict[str, Any]:
    nonlocal state
    state, scalars = update(state, batch, jax.random.key(0))
    return jax.device_get(scalars)

  return take, like


def _make_sum(like: Any, *, each: bool = False) -> Callable[[], Any]:
  """A sum over all processes of such arrays, or of each."""
  total = jax.pmap(
    (lambda x: jax.lax.psum(x, training.AXIS))
    if each
    else training.sum_over_devices,
    training.AXIS,
  )
  arrays = devices.replicate(like)
  return lambda: jax.block_until_ready(total(arrays))


def _measure() -> None:
  """Of one process; the first prints."""
  rows, lines = [], []
  for name, module in _CONFIGS.items():
    config = module.get_config()
    config.num_rand = _NUM_RAND.value or config.num_rand
    take, like = _make_step(config)
    add, add_each = _make_sum(like), _make_sum(like, each=True)
    arrays = jax.tree.leaves(like)
    size = sum(x.nbytes for x in arrays)
    steps: list[float] = []
    sums: list[float] = []
    sums_each: list[float] = []
    for turn in range(_TURNS.value + 1):
      times = [machine.timed(x) for x in (take, add, add_each)]
      if turn:  # The first compiles.
        for to, seconds in zip((steps, sums, sums_each), times, strict=True):
          to.append(seconds)
    samples = float(take()['samples'])
    share = statistics.median(sums) / statistics.median(steps)
    rows.append(
      [
        name,
        f'{config.num_rand}',
        f'{len(arrays)}',
        f'{size / 1e6:.1f}',
        machine.format_range(steps, 3),
        machine.format_range(sums_each, 4),
        machine.format_range(sums, 4),
        f'{share:.3f}',
      ]
    )
    ray = samples / _A100_SAMPLES
    if config.field == 'mlp':
      ray = machine.flops_per_ray(config, training=True) / _A100_FLOPS
    lines += _beyond(name, ray, config.num_rand, size)
  if not multihost.is_main():
    return
  machine.print_table(
    (
      'model',
      'rays',
      'arrays',
      'gradient, MB',
      'step, s',
      'sums of its arrays, s',
      'one sum, s',
      'of the step',
    ),
    rows,
  )
  print()
  machine.print_table(
    (
      'model',
      'link',
      'D',
      'MB sent by each',
      'computing, ms',
      'communicating, ms',
      'efficiency',
      'rays for 80 %',
    ),
    lines,
  )


def _beyond(name: str, ray: float, rays: int, size: int) -> list[list[str]]:
  """Rows of the second table; `ray`: seconds of one."""
  rows = []
  for link, (rate, latency) in _LINKS.items():
    for count in _DEVICES[1:]:
      seconds = ring_seconds(size, count, rate=rate, latency=latency)
      needed = rays_for(ray, size, count, rate=rate, latency=latency)
      rows.append(
        [
          name,
          link,
          f'{count}',
          f'{2 * (count - 1) / count * size / 1e6:.1f}',
          f'{1e3 * ray * rays / count:.2f}',
          f'{1e3 * seconds:.2f}',
          f'{efficiency(ray * rays, count, seconds):.2f}',
          f'{needed:,.0f}',
        ]
      )
  return rows


def main(argv: list[str]) -> None:
  """Starts the second process, and measures."""
  del argv
  environment.quiet_libraries()
  environment.retain_freed_memory()
  if _INDEX.value is not None:
    os.sched_setaffinity(0, {_INDEX.value})  # Of one core each.
    multihost.initialize(_MEETS_AT.value, 2, _INDEX.value)
    _measure()
    multihost.exit_process(0)
  with socket.socket() as opened:
    opened.bind(('127.0.0.1', 0))
    port = opened.getsockname()[1]
  line = [*sys.orig_argv, f'--meets_at=127.0.0.1:{port}']
  both = [subprocess.Popen([*line, f'--index={i}']) for i in range(2)]
  sys.exit(max(x.wait() for x in both))


if __name__ == '__main__':
  app.run(main)

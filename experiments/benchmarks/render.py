"""Rendering with the paper's network, compared with matrix products.

    python experiments/benchmarks/render.py --sizes=100,800 --turns=5,2

Prints for each size the seconds of a view, its GFLOP/s, and their ratio to the
rate of matrix products in the same process.
"""

import functools
import pathlib
import statistics
import sys

import jax
from absl import app, flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.benchmarks import machine
from experiments.builders import experiment as experiment_lib
from experiments.configs import paper_blender_lego
from experiments.processes import environment
from nerf_haiku import devices

_SIZES = flags.DEFINE_list(
  'sizes', ['100', '800'], 'Heights and widths of the views.'
)
_TURNS = flags.DEFINE_list('turns', ['5', '2'], 'Number of views of each size.')


def measure(size: int, turns: int) -> list[str]:
  """Returns a row of the table."""
  config = paper_blender_lego.get_config()
  scene = machine.make_scene(size)
  experiment = experiment_lib.make_experiment(config, scene)
  variables = jax.jit(experiment.renderer.init)(jax.random.key(0))
  render = functools.partial(
    experiment.render_image, devices.replicate(variables)
  )
  flops = size**2 * machine.flops_per_ray(config, training=False)
  small = machine.make_scene(8).test.cameras
  render(small, 0)  # Compiles.
  products, seconds = machine.Products(), []
  products.sample()
  for turn in range(turns):
    view = turn % len(scene.test.images)
    seconds.append(
      machine.timed(functools.partial(render, scene.test.cameras, view))
    )
    products.sample()
  rate = products.rate()
  return [
    f'{size}x{size}',
    str(turns),
    machine.format_range(seconds),
    f'{flops / statistics.median(seconds) / 1e9:.0f}',
    f'{rate / 1e9:.0f}',
    machine.format_range([flops / x / rate for x in seconds]),
  ]


def main(argv: list[str]) -> None:
  """Measures, and prints the table."""
  del argv
  environment.quiet_libraries()
  environment.retain_freed_memory()
  sizes, turns = ([int(x) for x in f.value] for f in (_SIZES, _TURNS))
  rows = [measure(*pair) for pair in zip(sizes, turns, strict=True)]
  print('64 + 128 samples, 8 x 256: median (min to max).')
  machine.print_table(
    (
      'view',
      'views',
      'seconds',
      'GFLOP/s',
      'products, GFLOP/s',
      'of the products',
    ),
    rows,
  )


if __name__ == '__main__':
  app.run(main)

"""Rendering with a trained run, compared with the paper's network.

    python experiments/benchmarks/trained.py --model_dir=runs/NAME --sizes=800

Renders the test views in turn, at some sizes. The seconds of the paper's
network are not measured, but a lower bound: the operations of its matrix
products (64 + 128 samples, 8 x 256) at the machine's rate, sampled in turn with
the views.
"""

import functools
import pathlib
import sys

import numpy as np
from absl import flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments import launch
from experiments.benchmarks import machine
from experiments.configs import paper_blender_lego
from experiments.outputs import trained_run
from nerf_haiku import cameras

_SIZES = flags.DEFINE_list(
  'sizes', ['100', '800'], 'Heights and widths of the views.'
)
_TURNS = flags.DEFINE_integer('turns', 5, 'Number of views of each size.')


def measure(run: trained_run.TrainedRun, size: int, turns: int) -> list[str]:
  """Returns a row of the table."""
  config = paper_blender_lego.get_config()
  flops = size**2 * machine.flops_per_ray(config, training=False)
  test = run.scene.test.cameras
  test = cameras.scale(test, np.full_like(test.sizes, size))
  run.render(test, 0)  # Compiles.
  products, seconds = machine.Products(), []
  products.sample()
  for turn in range(turns):
    view = turn % len(test.sizes)
    render = functools.partial(run.render, test, view)
    seconds.append(machine.timed(render))
    products.sample()
  paper = flops / products.rate()
  return [
    f'{size}x{size}',
    str(turns),
    machine.format_range(seconds),
    f'{paper:.0f}',
    machine.format_range([paper / x for x in seconds], 0),
  ]


def main() -> None:
  """Measures, and prints the table."""
  run = launch.load_trained_run(None)
  rows = [measure(run, int(size), _TURNS.value) for size in _SIZES.value]
  print('Median (min to max).')
  machine.print_table(
    ('view', 'views', 'seconds', "the paper's network, s", 'times faster'), rows
  )


if __name__ == '__main__':
  launch.run(main, launch.saved_config)

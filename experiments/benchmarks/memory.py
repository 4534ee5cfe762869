"""Memory that the images of a scene cost, beside their size.

    python experiments/benchmarks/memory.py --data_dir=data

The largest resident memory of three steps on lego at 800x800 with a tiny
network, less the same on a scene of 4x4 pixels; as a ratio to the bytes of
lego's 100 training views as RGBA.
"""

import pathlib
import statistics
import tempfile

from absl import app, flags

from experiments.benchmarks import commands, machine
from nerf_haiku.datasets import procedural, writers

_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Where lego lies.', required=True
)
_TURNS = flags.DEFINE_integer('turns', 3, 'Runs of each scene.')
_CONFIG = pathlib.Path(__file__).parents[1] / 'configs/paper_blender_lego.py'
_BYTES = 100 * 800 * 800 * 4
_TINY = (
  '--config.model.net_width=8', '--config.model.net_depth=2',
  '--config.model.skips=()', '--config.model_fine.net_width=8',
  '--config.model_fine.net_depth=2', '--config.model_fine.skips=()',
  '--config.num_samples=4', '--config.num_importance=4',
  '--config.num_rand=64', '--config.num_steps=3', '--config.i_print=1',
)  # fmt: skip


def main(argv: list[str]) -> None:
  """Measures in turns, and prints the table."""
  del argv
  lego = str(pathlib.Path(str(_DATA_DIR.value)).resolve())
  peaks: dict[str, list[float]] = {'4x4': [], '800x800': []}
  with tempfile.TemporaryDirectory() as folder:
    made = procedural.make_scene(
      seed=0, size=4, num_train=100, num_val=13, num_test=25
    )
    writers.write_blender(made, pathlib.Path(folder) / 'tiny' / 'lego')
    for turn in range(_TURNS.value + 1):
      for name, data_dir in (('4x4', 'tiny'), ('800x800', lego)):
        arguments = [
          f'--config={_CONFIG}', *_TINY, f'--data_dir={data_dir}',
          f'--config.testskip={1 if name == "4x4" else 8}',
          f'--model_dir={name}_{turn}', '--compilation_cache=cache',
        ]  # fmt: skip
        _, peak = commands.run_until('step 3', arguments, folder)
        if turn:  # The first only compiles.
          peaks[name].append(peak)
  base = statistics.median(peaks['4x4'])
  rows = [
    [
      name,
      machine.spread(values, 0),
      machine.spread([(x - base) * 2**20 / _BYTES for x in values]),
    ]
    for name, values in peaks.items()
  ]
  print(
    f'{_TURNS.value} runs of each: median (least to greatest). 100 views of '
    f'800x800 RGBA are {_BYTES / 2**20:.0f} MB.'
  )
  machine.print_table(
    ('scene', 'peak, MB', 'less the 4x4 scene, of those bytes'), rows
  )


if __name__ == '__main__':
  app.run(main)

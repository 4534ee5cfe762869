"""Memory of a run, compared with the size of its images.

    python experiments/benchmarks/memory.py --data_dir=data

Measures the peak resident memory of three steps on lego at 800x800 with a tiny
network, and of a hundred steps with the fast field; also without that of the
libraries alone, and without 1.3 times the bytes of lego's 100 training views as
RGBA.
"""

import pathlib
import statistics
import subprocess
import sys
import tempfile

from absl import app, flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.benchmarks import commands, machine
from nerf_haiku.datasets import writers
from nerf_haiku.datasets.procedural import photographs

_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Folder that contains lego.', required=True
)
_TURNS = flags.DEFINE_integer('turns', 3, 'Repetitions of each run.')
_CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
_BYTES = 100 * 800 * 800 * 4
_TINY = (
  f'--config={_CONFIGS / "paper_blender_lego.py"}',
  '--config.model.net_width=8',
  '--config.model.net_depth=2',
  '--config.model.skips=()',
  '--config.model_fine.net_width=8',
  '--config.model_fine.net_depth=2',
  '--config.model_fine.skips=()',
  '--config.num_samples=4',
  '--config.num_importance=4',
  '--config.num_rand=64',
  '--config.num_steps=3',
  '--config.i_print=1',
)
_FAST = (
  f'--config={_CONFIGS / "fast_blender_lego.py"}',
  '--config.down_factor=1',
  '--config.num_steps=100',
  '--config.i_print=100',
)
# The libraries of any run whose images fit, imported and used once.
_LIBRARIES = """
import resource
from experiments import train
import jax, jax.numpy as jnp
jax.jit(lambda x: x @ x)(jnp.ones((64, 64))).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main(argv: list[str]) -> None:
  """Measures in turns, and prints the table."""
  del argv
  lego = str(pathlib.Path(str(_DATA_DIR.value)).resolve())
  runs = {
    '4x4, tiny network': ('step 3', 'tiny', 1, _TINY),
    '800x800, tiny network': ('step 3', lego, 8, _TINY),
    '800x800, fast field': ('step 100', lego, 8, _FAST),
  }
  peaks: dict[str, list[float]] = {'libraries': [], **{x: [] for x in runs}}
  with tempfile.TemporaryDirectory() as folder:
    scene = photographs.make_scene(
      seed=0, size=4, num_train=100, num_val=13, num_test=25
    )
    writers.write_blender(scene, pathlib.Path(folder) / 'tiny' / 'lego')
    for _ in range(_TURNS.value):
      peaks['libraries'].append(_measure_libraries())
      for name, (line, data_dir, testskip, flags_) in runs.items():
        # Each compiles, like the first run of a user.
        arguments = [
          *flags_,
          f'--data_dir={data_dir}',
          f'--config.testskip={testskip}',
          f'--model_dir={len(peaks[name])}_{name}',
          '--compilation_cache=',
        ]
        _, peak = commands.run_until(line, arguments, folder)
        peaks[name].append(peak)
  libraries = statistics.median(peaks['libraries'])
  images = _BYTES / 2**20
  rows = [
    [
      name,
      machine.format_range(values, 0),
      machine.format_range([x - libraries for x in values], 0),
      machine.format_range([x - libraries - 1.3 * images for x in values], 0),
    ]
    for name, values in peaks.items()
  ]
  print(
    f'{_TURNS.value} runs of each: median (min to max). 100 views of '
    f'800x800 RGBA are {images:.0f} MB.'
  )
  machine.print_table(
    ('scene', 'peak, MB', 'less the libraries', 'less 1.3 times the views'),
    rows,
  )


def _measure_libraries() -> float:
  """Returns the peak in MB of a process that trains nothing."""
  process = subprocess.run(
    [sys.executable, '-c', _LIBRARIES],
    check=True,
    capture_output=True,
    text=True,
    cwd=pathlib.Path(__file__).parents[2],
  )
  return float(process.stdout.split()[-1])


if __name__ == '__main__':
  app.run(main)

"""PSNR over seconds of whole runs, each in a process of its own.

    python experiments/benchmarks/quality.py --seeds=0,1,2 --data_dir=data \
        --configs=fast_blender_lego --plot=quality.png

Seconds are those of the whole process: imports, loading, compilation (with an
empty cache) and scoring all test views. The rate of matrix products shows how
fast the machine was between the runs.
"""

import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

from absl import app, flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments import launch
from experiments.benchmarks import machine
from experiments.processes import environment

_CONFIGS = flags.DEFINE_list('configs', ['quickstart'], 'Names of configs.')
_SEEDS = flags.DEFINE_list(
  'seeds', ['0', '1', '2'], 'Random seeds; each config has a run of each.'
)
_SET = flags.DEFINE_list(
  'set', [], 'Changes of the configs, as config.field=value.'
)
_LEVEL = flags.DEFINE_float(
  'level', None, 'Stop a run when a validation view reaches this PSNR, dB.'
)
_PLOT = flags.DEFINE_string(
  'plot', None, 'Write a plot of the curves to this PNG.'
)
_TRAIN = pathlib.Path(__file__).parents[1] / 'train.py'
_VALIDATION = re.compile(r'step +(\d+)  validation ([\d.]+) dB')


class Run(NamedTuple):
  """A run that has ended."""

  curve: list[tuple[float, float]]  # seconds, PSNR of the validation view.
  seconds: float  # of the whole process.
  results: dict[str, Any]  # of results.json; empty if it was stopped.


def run(arguments: list[str], folder: pathlib.Path, level: float | None) -> Run:
  """Runs `train.py` in a folder with an empty compilation cache.

  Args:
    arguments: command-line arguments.
    folder: where the run and the cache are written.
    level: PSNR in dB; the run is stopped when a validation view reaches it.

  Raises:
    RuntimeError: if the run fails, or does not reach the level.
  """
  begin, curve = time.perf_counter(), []
  child = subprocess.Popen(
    [
      sys.executable,
      str(_TRAIN),
      *arguments,
      f'--model_dir={folder / "run"}',
      f'--compilation_cache={folder / "cache"}',
    ],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert child.stdout is not None
  for line in child.stdout:
    match = _VALIDATION.match(line)
    if match:
      curve.append((time.perf_counter() - begin, float(match[2])))
      if level is not None and curve[-1][1] >= level:
        child.kill()
        child.wait()
        return Run(curve, curve[-1][0], {})
  if child.wait():
    raise RuntimeError(f'train.py {arguments} failed.')
  if level is not None:
    raise RuntimeError(f'train.py {arguments} did not reach {level} dB.')
  seconds = time.perf_counter() - begin
  results = json.loads((folder / 'run' / 'results.json').read_text())
  return Run(curve, seconds, results)


def plot(runs: dict[str, list[Run]], path: str) -> None:
  """Plots the curves; crosses are the means over all test views."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(figsize=(7, 4))
  for i, (name, repeated) in enumerate(runs.items()):
    for k, result in enumerate(repeated):
      axes.plot(
        *zip(*result.curve, strict=True),
        color=f'C{i}',
        label=None if k else name,
      )
      axes.plot(result.seconds, result.results['psnr'], 'x', color=f'C{i}')
  axes.set_xlabel('seconds from the start of the process')
  axes.set_ylabel('PSNR, dB')
  axes.grid(alpha=0.3)
  axes.legend()
  figure.savefig(path, dpi=100, bbox_inches='tight')


def main(argv: list[str]) -> None:
  """Runs all configs with all seeds, and prints the table."""
  del argv
  environment.quiet_libraries()
  products = machine.Products()
  runs = {
    name: [_run(name, seed, products) for seed in _SEEDS.value]
    for name in _CONFIGS.value
  }
  print(f'Matrix products ran at {products.rate() / 1e9:.0f} GFLOP/s.')
  if _LEVEL.value is not None:
    _print_seconds_to_level(runs, _LEVEL.value)
    return
  _print_results(runs)
  if _PLOT.value:
    plot(runs, _PLOT.value)


def _run(name: str, seed: str, products: machine.Products) -> Run:
  """Runs a config as the flags say, after a sample of the machine's rate."""
  data_dir = launch.DATA_DIR.value
  arguments = [f'--config={launch.CONFIGS / name}.py', f'--seed={seed}']
  arguments += [f'--{field}' for field in _SET.value]
  if data_dir is not None and name != 'quickstart':
    arguments.append(f'--data_dir={pathlib.Path(data_dir).resolve()}')
  products.sample()
  with tempfile.TemporaryDirectory() as folder:
    return run(arguments, pathlib.Path(folder), _LEVEL.value)


def _print_seconds_to_level(runs: dict[str, list[Run]], level: float) -> None:
  print(f'Seconds to {level} dB, from the start and the first validation.')
  rows = [
    [
      name,
      str(len(repeated)),
      machine.format_range([x.seconds for x in repeated], 0),
      machine.format_range([x.seconds - x.curve[0][0] for x in repeated], 1),
    ]
    for name, repeated in runs.items()
  ]
  machine.print_table(
    ('config', 'seeds', 'seconds', 'less the first validation'), rows
  )


def _print_results(runs: dict[str, list[Run]]) -> None:
  rows = []
  for name, repeated in runs.items():
    results = [x.results for x in repeated]
    rays = statistics.median(x['rays_per_second'] for x in results)
    rows.append(
      [
        name,
        str(results[0]['steps']),
        str(len(repeated)),
        machine.format_range([x.seconds for x in repeated], 0),
        machine.format_range([x['psnr'] for x in results]),
        machine.format_range([x['ssim'] for x in results], 3),
        f'{rays:.0f}',
      ]
    )
  print('Median (min to max) of the seeds.')
  machine.print_table(
    ('config', 'steps', 'seeds', 'seconds', 'PSNR, dB', 'SSIM', 'rays/s'), rows
  )


if __name__ == '__main__':
  app.run(main)

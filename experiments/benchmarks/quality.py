"""PSNR over seconds of whole runs, each a process of its own.

    python experiments/benchmarks/quality.py --seeds=0,1,2 --data_dir=data \
        --configs=fast_blender_lego --plot=quality.png

Seconds are counted from the start of the process to its end: imports, loading,
compilation (nothing is compiled before) and the evaluation of all test views.
The rate of matrix products says how fast the machine was between the runs.
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
_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'One run of each.')
_SET = flags.DEFINE_list('set', [], 'Fields, as config.field=value.')
_LEVEL = flags.DEFINE_float(
  'level', None, 'dB of a validation view at which a run is stopped.'
)
_PLOT = flags.DEFINE_string('plot', None, 'PNG of the curves.')
_TRAIN = pathlib.Path(__file__).parents[1] / 'train.py'
_VALIDATION = re.compile(r'step +(\d+)  validation ([\d.]+) dB')


class Run(NamedTuple):
  """What a run came to."""

  curve: list[tuple[float, float]]  # seconds, PSNR of a validation view.
  seconds: float  # of the whole process.
  results: dict[str, Any]  # of results.json; empty if it was stopped.


def run(arguments: list[str], folder: pathlib.Path, level: float | None) -> Run:
  """Runs `train.py` with arguments, in a folder with an empty cache.

  It is stopped when a validation view reaches a level, in dB.

  Raises:
    RuntimeError: if it fails.
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
    found = _VALIDATION.match(line)
    if found:
      curve.append((time.perf_counter() - begin, float(found.group(2))))
      if level is not None and curve[-1][1] >= level:
        child.kill()
        child.wait()
        return Run(curve, curve[-1][0], {})
  if child.wait():
    raise RuntimeError(f'train.py {arguments} failed.')
  if level is not None:
    raise RuntimeError(f'train.py {arguments} ended below {level} dB.')
  seconds = time.perf_counter() - begin
  results = json.loads((folder / 'run' / 'results.json').read_text())
  return Run(curve, seconds, results)


def plot(runs: dict[str, list[Run]], path: str) -> None:
  """Draws the curves; crosses are the means over all test views."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(figsize=(7, 4))
  for i, (name, several) in enumerate(runs.items()):
    for k, one in enumerate(several):
      axes.plot(
        *zip(*one.curve, strict=True), color=f'C{i}', label=None if k else name
      )
      axes.plot(one.seconds, one.results['psnr'], 'x', color=f'C{i}')
  axes.set_xlabel('seconds from the start of the process')
  axes.set_ylabel('PSNR, dB')
  axes.grid(alpha=0.3)
  axes.legend()
  figure.savefig(path, dpi=100, bbox_inches='tight')


def main(argv: list[str]) -> None:
  """Runs all, and prints the table."""
  del argv
  environment.quiet_libraries()
  data = launch.DATA_DIR.value
  runs: dict[str, list[Run]] = {}
  products = machine.Products()
  for name in _CONFIGS.value:
    for seed in _SEEDS.value:
      arguments = [f'--config={launch.CONFIGS / name}.py', f'--seed={seed}']
      arguments += [f'--{field}' for field in _SET.value]
      if data is not None and name != 'quickstart':
        arguments.append(f'--data_dir={pathlib.Path(data).resolve()}')
      products.sample()
      with tempfile.TemporaryDirectory() as folder:
        runs.setdefault(name, []).append(
          run(arguments, pathlib.Path(folder), _LEVEL.value)
        )
  print(f'Matrix products ran at {products.rate() / 1e9:.0f} GFLOP/s.')
  if _LEVEL.value is not None:
    print(f'Seconds to {_LEVEL.value} dB, from the start and the first step.')
    machine.print_table(
      ('config', 'seeds', 'seconds', 'less the first validation'),
      [
        [
          name,
          str(len(several)),
          machine.format_range([x.seconds for x in several], 0),
          machine.format_range([x.seconds - x.curve[0][0] for x in several], 1),
        ]
        for name, several in runs.items()
      ],
    )
    return
  rows = [
    [
      name,
      str(several[0].results['steps']),
      str(len(several)),
      machine.format_range([x.seconds for x in several], 0),
      machine.format_range([x.results['psnr'] for x in several]),
      machine.format_range([x.results['ssim'] for x in several], 3),
      f'{statistics.median(x.results["rays_per_second"] for x in several):.0f}',
    ]
    for name, several in runs.items()
  ]
  print('Median (least to greatest) of the seeds.')
  machine.print_table(
    ('config', 'steps', 'seeds', 'seconds', 'PSNR, dB', 'SSIM', 'rays/s'), rows
  )
  if _PLOT.value:
    plot(runs, _PLOT.value)


if __name__ == '__main__':
  app.run(main)

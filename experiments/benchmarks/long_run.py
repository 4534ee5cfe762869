"""Memory, speed and open files of a run of many short steps.

    python experiments/benchmarks/long_run.py --plot=long_run.png

The run logs, draws a validation view and keeps a state so often that twenty
thousand steps hold what weeks of a real one do. Linux alone: it reads `/proc`.
"""

import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

from absl import app, flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments import launch
from experiments.benchmarks import commands, machine

_STEPS = flags.DEFINE_integer('steps', 20_000, 'Of the run.', lower_bound=4)
_PLOT = flags.DEFINE_string('plot', None, 'PNG of memory, files and speed.')
_SET = flags.DEFINE_list('set', [], 'Fields, as config.field=value.')
_TRAIN = pathlib.Path(__file__).parents[1] / 'train.py'
_STEP = re.compile(r'step +(\d+)  loss')
_ARGUMENTS = (
  f'--config={launch.CONFIGS}/laptop_procedural.py',
  '--config.i_print=20',
  '--config.i_weights=200',
  '--config.i_img=200',
  *commands.TINY,
)


class Sample(NamedTuple):
  """A process at a step."""

  step: int
  seconds: float  # since it began.
  megabytes: float  # resident.
  files: int  # open ones.
  threads: int


def watch(arguments: list[str], folder: str) -> list[Sample]:
  """Runs `train.py`, and looks at it at each line of a step.

  Raises:
    RuntimeError: if it fails.
  """
  begin = time.perf_counter()
  process = subprocess.Popen(
    [sys.executable, str(_TRAIN), *arguments, f'--model_dir={folder}/run'],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout is not None
  assert process.stderr is not None
  said: list[str] = []
  reader = threading.Thread(target=lambda: said.extend(process.stderr or ()))
  reader.start()
  samples = []
  for line in process.stdout:
    found = _STEP.match(line)
    if found:
      seconds = time.perf_counter() - begin
      samples.append(Sample(int(found[1]), seconds, *_look(process.pid)))
  reader.join()
  if process.wait():
    raise RuntimeError(f'train.py {arguments} failed: {"".join(said)}')
  return samples


def _look(pid: int) -> tuple[float, int, int]:
  """Resident megabytes, open files and threads of a process."""
  of = pathlib.Path('/proc') / str(pid)
  pages = int((of / 'statm').read_text().split()[1])
  megabytes = pages * os.sysconf('SC_PAGE_SIZE') / 2**20
  return (
    megabytes,
    len(list((of / 'fd').iterdir())),
    len(list((of / 'task').iterdir())),
  )


def stage(samples: list[Sample], first: int, last: int) -> list[str]:
  """A row of the table: what was between two steps."""
  chosen = [x for x in samples if first <= x.step <= last]
  rate = (chosen[-1].step - chosen[0].step) / (
    chosen[-1].seconds - chosen[0].seconds
  )
  files = sorted({x.files for x in chosen})
  threads = sorted({x.threads for x in chosen})
  return [
    f'{first} to {last}',
    machine.format_range([x.megabytes for x in chosen], 0),
    f'{files[0]} to {files[-1]}',
    f'{threads[0]} to {threads[-1]}',
    f'{rate:.0f}',
  ]


def plot(samples: list[Sample], path: str) -> None:
  """Draws memory, open files and seconds over steps."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(3, 1, figsize=(7, 6), sharex=True)
  steps = [x.step for x in samples]
  axes[0].plot(steps, [x.megabytes for x in samples])
  axes[0].set_ylabel('resident, MB')
  axes[1].plot(steps, [x.files for x in samples], label='open files')
  axes[1].plot(steps, [x.threads for x in samples], label='threads')
  axes[1].legend()
  axes[2].plot(steps, [x.seconds for x in samples])
  axes[2].set_ylabel('seconds')
  axes[2].set_xlabel('step')
  for one in axes:
    one.margins(y=0.2)
    one.set_ylim(bottom=0)
    one.grid(alpha=0.3)
  figure.savefig(path, dpi=100, bbox_inches='tight')


def main(argv: list[str]) -> None:
  """Runs, and prints the table."""
  del argv
  steps = _STEPS.value
  arguments = [*_ARGUMENTS, f'--config.num_steps={steps}']
  arguments += [f'--{field}' for field in _SET.value]
  with tempfile.TemporaryDirectory() as folder:
    samples = watch(arguments, folder)
  early = samples[-1].step // 20  # 1,000 of 20,000.
  parts = [(early * i, early * (i + 1)) for i in (0, 1, 5, 10, 15, 19)]
  machine.print_table(
    ('steps', 'resident, MB', 'open files', 'threads', 'steps/s'),
    [stage(samples, first, last) for first, last in parts],
  )
  at_first = [x.megabytes for x in samples if early <= x.step <= 2 * early]
  at_end = [x.megabytes for x in samples if x.step > steps - early]
  growth = statistics.median(at_end) / statistics.median(at_first) - 1
  print(
    f'Memory of the last {early} steps over that after {early}: {growth:+.1%}'
  )
  if _PLOT.value:
    plot(samples, _PLOT.value)


if __name__ == '__main__':
  app.run(main)

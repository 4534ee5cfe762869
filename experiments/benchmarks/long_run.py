"""Memory, speed and open files of a run of many short steps.

    python experiments/benchmarks/long_run.py --plot=long_run.png

The run logs, renders a validation view and saves a checkpoint as often in
twenty thousand steps as a real run does in weeks. It reads `/proc`, so it needs
Linux.
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

_STEPS = flags.DEFINE_integer(
  'steps', 20_000, 'Steps of the run.', lower_bound=4
)
_PLOT = flags.DEFINE_string(
  'plot', None, 'Write a plot of memory, files and speed to this PNG.'
)
_SET = flags.DEFINE_list(
  'set', [], 'Changes of the config, as config.field=value.'
)
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
  """The resources of a process at a step."""

  step: int
  seconds: float  # since the process began.
  megabytes: float  # resident memory.
  files: int  # open files.
  threads: int


def watch(arguments: list[str], folder: str) -> list[Sample]:
  """Runs `train.py`, with a sample at each step that it prints.

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
  messages: list[str] = []
  reader = threading.Thread(
    target=lambda: messages.extend(process.stderr or ())
  )
  reader.start()
  samples = []
  for line in process.stdout:
    match = _STEP.match(line)
    if match:
      seconds = time.perf_counter() - begin
      samples.append(_sample(process.pid, int(match[1]), seconds))
  reader.join()
  if process.wait():
    raise RuntimeError(f'train.py {arguments} failed: {"".join(messages)}')
  return samples


def _sample(pid: int, step: int, seconds: float) -> Sample:
  """Returns the resources of a process now."""
  folder = pathlib.Path('/proc') / str(pid)
  pages = int((folder / 'statm').read_text().split()[1])
  return Sample(
    step=step,
    seconds=seconds,
    megabytes=pages * os.sysconf('SC_PAGE_SIZE') / 2**20,
    files=len(list((folder / 'fd').iterdir())),
    threads=len(list((folder / 'task').iterdir())),
  )


def make_row(samples: list[Sample], first: int, last: int) -> list[str]:
  """Returns a row of the table, the samples between two steps."""
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
  """Plots memory, open files and seconds over steps."""
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
  for axis in axes:
    axis.margins(y=0.2)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
  figure.savefig(path, dpi=100, bbox_inches='tight')


def main(argv: list[str]) -> None:
  """Runs `train.py`, and prints the table."""
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
    [make_row(samples, first, last) for first, last in parts],
  )
  before = [x.megabytes for x in samples if early <= x.step <= 2 * early]
  after = [x.megabytes for x in samples if x.step > steps - early]
  growth = statistics.median(after) / statistics.median(before) - 1
  print(
    f'Growth of memory from step {early} to the last {early}: {growth:+.1%}'
  )
  if _PLOT.value:
    plot(samples, _PLOT.value)


if __name__ == '__main__':
  app.run(main)

"""Seconds from the start of the quickstart to the end of its first step.

    python experiments/benchmarks/startup.py

Cold: with an empty compilation cache. Warm: with the cache of the cold run
before it.
"""

import pathlib
import sys
import tempfile

from absl import app, flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.benchmarks import commands, machine

_TURNS = flags.DEFINE_integer('turns', 5, 'Number of runs of each kind.')
_ARGUMENTS = flags.DEFINE_list(
  'arguments', [], 'Further arguments of train.py, separated by commas.'
)


def main(argv: list[str]) -> None:
  """Measures in turns, and prints the table."""
  del argv
  times: dict[str, list[float]] = {'cold': [], 'warm': []}
  for turn in range(_TURNS.value):
    with tempfile.TemporaryDirectory() as folder:
      for kind, seconds in times.items():
        arguments = [
          '--compilation_cache=cache',
          '--config.i_print=1',
          f'--model_dir=run_{turn}_{kind}',
          *_ARGUMENTS.value,
        ]
        seconds.append(commands.run_until('step   1', arguments, folder)[0])
  print(f'{_TURNS.value} runs of each: median (min to max).')
  machine.print_table(
    ('compilation cache', 'seconds to the first step'),
    [
      [kind, machine.format_range(seconds, 1)]
      for kind, seconds in times.items()
    ],
  )


if __name__ == '__main__':
  app.run(main)

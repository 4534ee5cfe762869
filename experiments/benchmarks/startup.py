"""Seconds from the command to the first finished step of the quickstart.

    python experiments/benchmarks/startup.py

Cold: nothing is compiled yet. Warm: the compilation cache has what the cold
run before it compiled.
"""

import pathlib
import sys
import tempfile

from absl import app, flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.benchmarks import commands, machine

_TURNS = flags.DEFINE_integer('turns', 5, 'Runs of each kind.')


def main(argv: list[str]) -> None:
  """Measures in turns, and prints the table."""
  del argv
  taken: dict[str, list[float]] = {'cold': [], 'warm': []}
  for turn in range(_TURNS.value):
    with tempfile.TemporaryDirectory() as folder:
      for kind, seconds in taken.items():
        arguments = [
          '--compilation_cache=cache',
          '--config.i_print=1',
          f'--model_dir=run_{turn}_{kind}',
        ]
        seconds.append(commands.run_until('step   1', arguments, folder)[0])
  print(f'{_TURNS.value} runs of each: median (least to greatest).')
  machine.print_table(
    ('compilation cache', 'seconds to the first step'),
    [
      [kind, machine.format_range(seconds, 1)]
      for kind, seconds in taken.items()
    ],
  )


if __name__ == '__main__':
  app.run(main)

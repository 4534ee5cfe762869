"""Runs a program with several command lines, each in a process of its own.

The processes are forked from one that has imported what the program imports:
most of what a program takes that only refuses its arguments.
"""

import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from tests.support import environment

_ROOT = pathlib.Path(__file__).resolve().parents[2]


class Ended(NamedTuple):
  """A process that has ended."""

  code: int
  out: list[str]
  err: list[str]


def run_each(
  program: str, folder: pathlib.Path, lines: Sequence[Sequence[str]]
) -> list[Ended]:
  """Runs `experiments/{program}.py` with each of some lists of arguments.

  Args:
    program: its name.
    folder: where the processes start.
    lines: the arguments of each process.
  """
  with tempfile.TemporaryDirectory() as outputs:
    subprocess.run(
      [sys.executable, '-m', 'tests.support.forked', program, folder, outputs],
      cwd=_ROOT,
      env=environment.make(1),
      input=json.dumps(lines),
      text=True,
      check=True,
      timeout=300,
    )
    codes = json.loads((pathlib.Path(outputs) / 'codes').read_text())
    return [
      Ended(
        code,
        *(
          (pathlib.Path(outputs) / f'{i}.{name}').read_text().splitlines()
          for name in ('out', 'err')
        ),
      )
      for i, code in enumerate(codes)
    ]


def _run_child(program: str, folder: str, output: str, line: list[str]) -> None:
  """Becomes the program."""
  for descriptor, name in ((1, 'out'), (2, 'err')):
    opened = os.open(f'{output}.{name}', os.O_WRONLY | os.O_CREAT)
    os.dup2(opened, descriptor)
  os.chdir(folder)
  path = str(_ROOT / 'experiments' / f'{program}.py')
  sys.argv = [path, *line]
  runpy.run_path(path, run_name='__main__')


def _main(program: str, folder: str, outputs: str) -> None:
  from experiments import launch  # noqa: F401
  from experiments.outputs import videos  # noqa: F401
  from experiments.trainer import dry_run, run  # noqa: F401

  codes = []
  for i, line in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if not child:
      _run_child(program, folder, f'{outputs}/{i}', line)
      sys.exit()
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
  (pathlib.Path(outputs) / 'codes').write_text(json.dumps(codes))


if __name__ == '__main__':
  _main(*sys.argv[1:])

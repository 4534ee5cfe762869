"""Runs the programs without waiting for their imports.

Half of the time of a small run is the import of libraries. A server imports
them once and forks a process for each run, which is then a process like any
other, with its own flags, devices, outputs and exit code.
"""

import atexit
import functools
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
from typing import NamedTuple

from tests.support import environment

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_LIMIT = 300  # Seconds; a process that takes longer is ended.


class Ended(NamedTuple):
  """A process that has ended."""

  code: int
  out: list[str]
  err: list[str]


def run(
  program: str, *arguments: str, folder: str | os.PathLike, devices: int = 1
) -> Ended:
  """Runs `experiments/{program}.py` in a folder, with virtual devices."""
  with tempfile.TemporaryDirectory() as outputs:
    request = {
      'program': program,
      'arguments': arguments,
      'folder': os.fspath(folder),
      'flags': environment.make(devices)['XLA_FLAGS'],
      'outputs': outputs,
    }
    server = _server()
    server.stdin.write(json.dumps(request) + '\n')
    server.stdin.flush()
    code = int(server.stdout.readline())
    out, err = (
      (pathlib.Path(outputs) / name).read_text().splitlines()
      for name in ('out', 'err')
    )
  return Ended(code, out, err)


@functools.cache
def _server() -> subprocess.Popen:
  """Starts the server of this process; it ends with it."""
  server = subprocess.Popen(
    [sys.executable, '-m', 'tests.support.forked'],
    cwd=_ROOT,
    env=environment.make(1),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  atexit.register(server.communicate)  # The end of its input ends it.
  return server


def _serve() -> None:
  from experiments import launch  # noqa: F401
  from experiments.outputs import videos  # noqa: F401
  from experiments.trainer import dry_run, run  # noqa: F401

  for line in sys.stdin:
    child = os.fork()
    if not child:
      _become_program(**json.loads(line))
      return
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)


def _become_program(
  program: str, arguments: list[str], folder: str, flags: str, outputs: str
) -> None:
  signal.alarm(_LIMIT)
  os.close(0)
  for descriptor, name in ((1, 'out'), (2, 'err')):
    opened = os.open(f'{outputs}/{name}', os.O_WRONLY | os.O_CREAT)
    os.dup2(opened, descriptor)
  os.chdir(folder)
  os.environ['XLA_FLAGS'] = flags
  path = str(_ROOT / 'experiments' / f'{program}.py')
  sys.argv = [path, *arguments]
  runpy.run_path(path, run_name='__main__')


if __name__ == '__main__':
  _serve()

"""Runs `train.py` as a user would, until it prints some line."""

import os
import pathlib
import subprocess
import sys
import time

_TRAIN = pathlib.Path(__file__).parents[1] / 'train.py'
# Networks and samples so small that they take next to no time.
SMALL_NETWORKS = (
  '--config.model.net_width=16',
  '--config.model.net_depth=2',
  '--config.model.skips=()',
  '--config.model_fine.net_width=16',
  '--config.model_fine.net_depth=2',
  '--config.model_fine.skips=()',
  '--config.num_samples=8',
  '--config.num_importance=8',
)
# A scene that takes no time either.
_SMALL_SCENE = (
  '--config.num_rand=32',
  '--config.procedural.size=16',
  '--config.procedural.num_train=3',
  '--config.procedural.num_test=2',
)
TINY = (*_SMALL_SCENE, *SMALL_NETWORKS)
# The same for the quickstart's field and renderer.
TINY_HASH = (
  *_SMALL_SCENE,
  '--config.hash.num_levels=2',
  '--config.hash.hashmap_size=512',
  '--config.hash.color_width=8',
  '--config.occupancy.max_samples=2048',
)


def run_until(
  line: str, arguments: list[str], folder: str
) -> tuple[float, float]:
  """Runs `train.py` until it prints a line, and kills it then.

  Args:
    line: the beginning of the line.
    arguments: command-line arguments of `train.py`.
    folder: working directory.

  Returns:
    Seconds until the line, and the process's peak resident memory in MB.

  Raises:
    RuntimeError: if it ends without such a line.
  """
  begin = time.perf_counter()
  process = subprocess.Popen(
    [sys.executable, str(_TRAIN), *arguments],
    cwd=folder,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout is not None
  seconds = None
  for text in process.stdout:
    if text.startswith(line):
      seconds = time.perf_counter() - begin
      process.kill()
      break
  process.stdout.close()
  _, _, usage = os.wait4(process.pid, 0)
  if seconds is None:
    raise RuntimeError(f'train.py {arguments} ended without a line {line!r}.')
  return seconds, usage.ru_maxrss / 1024

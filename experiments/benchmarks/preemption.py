"""Kills training processes at random times, and compares their last states.

    python experiments/benchmarks/preemption.py --rounds=30

A round starts `train.py`, kills it (SIGKILL; with `--signals=TERM,INT` others
in turn) at a time drawn uniformly from that of a whole run, from its first
import to its last view, and starts it again until it finishes. Its last state
must be that of an uninterrupted run, bit for bit, and at most `i_weights` steps
may be lost.
"""

import collections
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import app, flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments import launch
from experiments.benchmarks import commands
from experiments.outputs import run_dir
from experiments.processes import environment

_ROUNDS = flags.DEFINE_integer('rounds', 30, 'Number of runs to kill.')
_KILLS = flags.DEFINE_integer('kills', 1, 'Kills of each run.')
_SEED = flags.DEFINE_integer('seed', 0, 'Random seed of the times.')
_SIGNALS = flags.DEFINE_list('signals', ['KILL'], 'Signals, sent in turn.')
_TRAIN = pathlib.Path(__file__).parents[1] / 'train.py'
_STEP = re.compile(r'step +(\d+)  loss')
# The phase of a process that finished before its signal.
_FINISHED = 'not killed'
_RESUMED = re.compile(
  r'Resuming from the checkpoint of step (\d+)|this run, finished after (\d+)'
)

# Short steps and many saves, so that a kill is likely to hit one.
SAVE_EVERY = 5
ARGUMENTS = (
  f'--config={launch.CONFIGS}/laptop_procedural.py',
  '--config.num_steps=100',
  f'--config.i_weights={SAVE_EVERY}',
  '--config.i_print=1',
  '--config.i_img=50',
  *commands.TINY,
)


class Ended(NamedTuple):
  """A process that has ended."""

  code: int
  seconds: float
  first_step: int  # the step that it resumed from.
  last_step: int  # the last step that it printed.
  out: list[str]
  err: str


def run(
  model_dir: pathlib.Path,
  *,
  seconds: float | None = None,
  number: int = signal.SIGKILL,
  arguments: tuple[str, ...] = ARGUMENTS,
) -> Ended:
  """Runs `train.py`, and sends it a signal after some seconds, if given."""
  begin = time.perf_counter()
  child = subprocess.Popen(
    [sys.executable, str(_TRAIN), *arguments, f'--model_dir={model_dir}'],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    out, err = child.communicate(timeout=600 if seconds is None else seconds)
  except subprocess.TimeoutExpired:
    child.send_signal(number)
    out, err = child.communicate(timeout=120)
  resumed = [int(''.join(x)) for x in _RESUMED.findall(out)]
  steps = [int(x) for x in _STEP.findall(out)]
  first_step = resumed[0] if resumed else 0
  return Ended(
    code=child.returncode,
    seconds=time.perf_counter() - begin,
    first_step=first_step,
    last_step=max([first_step, *steps]),
    out=out.splitlines(),
    err=err,
  )


def last_state(model_dir: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns all arrays of the newest checkpoint, by name."""
  folder = model_dir / run_dir.CHECKPOINTS
  step = max(int(x.name) for x in folder.iterdir() if x.name.isdecimal())
  path = folder.absolute() / str(step) / 'state'
  tree = ocp.StandardCheckpointer().restore(path)
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def differing(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> str:
  """Returns the names of arrays that differ in a bit; '' if none does."""
  return ', '.join(
    name
    for name in sorted(one.keys() | other.keys())
    if name not in one
    or name not in other
    or one[name].tobytes() != other[name].tobytes()
  )


def phase(ended: Ended, model_dir: pathlib.Path) -> str:
  """Returns the phase in which a process was killed, judged by its output."""
  if not any(_STEP.match(x) for x in ended.out):
    return 'before its first step'
  if list((model_dir / run_dir.CHECKPOINTS).glob('*.orbax-checkpoint-tmp*')):
    return 'in a save'
  if any(f'step {_num_steps()} ' in x for x in ended.out):
    return 'after its last step'
  return 'between steps'


def _num_steps() -> int:
  (text,) = [x for x in ARGUMENTS if 'num_steps' in x]
  return int(text.partition('=')[2])


def run_with_kills(
  model_dir: pathlib.Path, times: list[float], numbers: list[int]
) -> list[tuple[str, Ended]]:
  """Kills a run once at each of some times, and lets it finish then.

  Args:
    model_dir: the folder of the run.
    times: seconds after which its processes are killed.
    numbers: the signals.

  Returns:
    All processes, each with the phase in which it was killed.

  Raises:
    RuntimeError: if a process does not resume, loses more steps than it may,
      or prints a traceback.
  """
  processes, reached = [], 0
  for seconds, number in zip(
    [*times, None], [*numbers, signal.SIGKILL], strict=True
  ):
    ended = run(model_dir, seconds=seconds, number=number)
    if 'Traceback' in ended.err:
      raise RuntimeError(f'A traceback: {ended.err}')
    if reached and any(map(_STEP.match, ended.out)):
      lost = reached - ended.first_step
      if lost > SAVE_EVERY:
        raise RuntimeError(f'{lost} steps were lost: {ended.out}')
    if seconds is None and ended.code:
      raise RuntimeError(f'It does not resume: {ended.err}')
    if ended.code == 0:
      processes.append((_FINISHED, ended))
    elif ended.code in (-number, 128 + number):
      processes.append((phase(ended, model_dir), ended))
    else:
      raise RuntimeError(f'Exit code {ended.code}: {ended.err}')
    if any('train views' in x for x in ended.out):  # It has loaded the run.
      reached = max(reached, ended.last_step)
  return processes


def main(argv: list[str]) -> None:
  """Prints a line for each kill, and a summary."""
  del argv
  environment.quiet_libraries()
  generator = random.Random(_SEED.value)
  names = _SIGNALS.value
  numbers = [int(getattr(signal, f'SIG{name}')) for name in names]
  phases: collections.Counter[str] = collections.Counter()
  max_lost = rounds = 0
  with tempfile.TemporaryDirectory() as path:
    folder = pathlib.Path(path)
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(folder / 'cache')
    run(folder / 'warm')
    whole = run(folder / 'whole')
    expected = last_state(folder / 'whole')
    print(
      f'seed {_SEED.value}; an uninterrupted run takes {whole.seconds:.1f} s',
      flush=True,
    )
    while rounds < _ROUNDS.value:
      kills = range(_KILLS.value)
      times = [generator.uniform(0, whole.seconds) for _ in kills]
      sent = [numbers[(rounds + k) % len(numbers)] for k in kills]
      model_dir = folder / 'killed'
      processes = run_with_kills(model_dir, times, sent)
      difference = differing(last_state(model_dir), expected)
      if difference:
        raise RuntimeError(f'Round {rounds}: {difference} differ.')
      shutil.rmtree(model_dir)
      if any(name == _FINISHED for name, _ in processes[:-1]):
        continue  # It finished before it was killed.
      for k, (name, ended) in enumerate(processes[:-1]):
        phases[name] += 1
        resumed = processes[k + 1][1].first_step
        max_lost = max(max_lost, ended.last_step - resumed)
        print(
          f'{rounds}: {signal.Signals(sent[k]).name} after {times[k]:.2f} s, '
          f'{name}: after step {ended.last_step}, resumed from {resumed}; '
          'equal',
          flush=True,
        )
      rounds += 1
  print(
    f'{rounds} runs ended with the bits of the uninterrupted one; '
    f'at most {max_lost} steps lost (i_weights={SAVE_EVERY}). Killed: '
    + ', '.join(f'{count} {name}' for name, count in phases.most_common())
  )


if __name__ == '__main__':
  app.run(main)

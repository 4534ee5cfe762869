"""Kills training processes at random moments, and compares what comes of them.

    python experiments/benchmarks/preemption.py --rounds=30

A round starts `train.py`, kills it (SIGKILL; with `--signals=TERM,INT` others
in turn) at a moment drawn evenly over the time of a whole run, from its first
import to its last view, and starts it again until it ends by itself. Its last
state must be that of an unbroken run, bit for bit, and no more than `i_weights`
steps may be lost.
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

_ROUNDS = flags.DEFINE_integer('rounds', 30, 'Runs that are killed.')
_KILLS = flags.DEFINE_integer('kills', 1, 'Kills of each.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the moments.')
_SIGNALS = flags.DEFINE_list('signals', ['KILL'], 'Sent in turn.')
_TRAIN = pathlib.Path(__file__).parents[1] / 'train.py'
_STEP = re.compile(r'step +(\d+)  loss')
# Where a process was that no signal met.
_ENDED = 'not killed'
_GOES_ON = re.compile(
  r'Resuming from the checkpoint of step (\d+)|this run, finished after (\d+)'
)

# Short steps and many saves, so that a moment is likely to be in one.
SAVED_EVERY = 5
ARGUMENTS = (
  f'--config={launch.CONFIGS}/laptop_procedural.py',
  '--config.num_steps=100',
  f'--config.i_weights={SAVED_EVERY}',
  '--config.i_print=1',
  '--config.i_img=50',
  *commands.TINY,
)


class Ended(NamedTuple):
  """What a process came to."""

  code: int
  seconds: float
  began: int  # the step that it went on from.
  reached: int  # the last step that it told of.
  out: list[str]
  err: str


def run(
  model_dir: pathlib.Path,
  *,
  moment: float | None = None,
  number: int = signal.SIGKILL,
  arguments: tuple[str, ...] = ARGUMENTS,
) -> Ended:
  """Runs `train.py`, and sends it a signal after some seconds."""
  begin = time.perf_counter()
  child = subprocess.Popen(
    [sys.executable, str(_TRAIN), *arguments, f'--model_dir={model_dir}'],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    out, err = child.communicate(timeout=600 if moment is None else moment)
  except subprocess.TimeoutExpired:
    child.send_signal(number)
    out, err = child.communicate(timeout=120)
  began = [int(''.join(x)) for x in _GOES_ON.findall(out)]
  steps = [int(x) for x in _STEP.findall(out)]
  first = began[0] if began else 0
  return Ended(
    child.returncode,
    time.perf_counter() - begin,
    first,
    max([first, *steps]),
    out.splitlines(),
    err,
  )


def last_state(model_dir: pathlib.Path) -> dict[str, np.ndarray]:
  """All arrays of the newest state."""
  kept = model_dir / run_dir.CHECKPOINTS
  step = max(int(x.name) for x in kept.iterdir() if x.name.isdecimal())
  tree = ocp.StandardCheckpointer().restore(kept.absolute() / f'{step}/state')
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def differing(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> str:
  """The arrays that are not the same bits; '' if all are."""
  return ', '.join(
    name
    for name in sorted(one.keys() | other.keys())
    if name not in one
    or name not in other
    or one[name].tobytes() != other[name].tobytes()
  )


def phase(ended: Ended, model_dir: pathlib.Path) -> str:
  """Where a process was when it was killed, as far as can be told."""
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


def killed_round(
  model_dir: pathlib.Path, moments: list[float], numbers: list[int]
) -> list[tuple[str, Ended]]:
  """Kills a run at each moment, and has it go on to its end.

  Returns:
    For each kill that met the process alive where it was, and its end; and the
    last process.

  Raises:
    RuntimeError: if a process does not go on, loses more than it may, or shows
      a traceback.
  """
  told, reached = [], 0
  for moment, number in zip(
    [*moments, None], [*numbers, signal.SIGKILL], strict=True
  ):
    ended = run(model_dir, moment=moment, number=number)
    if 'Traceback' in ended.err:
      raise RuntimeError(f'A traceback: {ended.err}')
    loaded = bool([x for x in ended.out if 'train views' in x])
    if reached and any(map(_STEP.match, ended.out)):
      lost = reached - ended.began
      if lost > SAVED_EVERY:
        raise RuntimeError(f'{lost} steps were lost: {ended.out}')
    if moment is None:
      if ended.code:
        raise RuntimeError(f'It does not go on: {ended.err}')
      told.append((_ENDED, ended))
    elif ended.code == 0:
      told.append((_ENDED, ended))
    else:
      if ended.code not in (-number, 128 + number):
        raise RuntimeError(f'Exit code {ended.code}: {ended.err}')
      told.append((phase(ended, model_dir), ended))
    if loaded:
      reached = max(reached, ended.reached)
  return told


def main(argv: list[str]) -> None:
  """Prints a line for each round, and what they came to."""
  del argv
  environment.quiet_libraries()
  draw = random.Random(_SEED.value)
  names = _SIGNALS.value
  numbers = [int(getattr(signal, f'SIG{name}')) for name in names]
  phases: collections.Counter[str] = collections.Counter()
  most_lost = rounds = 0
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(folder / 'cache')
    run(folder / 'warm')
    whole = run(folder / 'whole')
    expected = last_state(folder / 'whole')
    print(
      f'seed {_SEED.value}; an unbroken run takes {whole.seconds:.1f} s',
      flush=True,
    )
    while rounds < _ROUNDS.value:
      moments = [draw.uniform(0, whole.seconds) for _ in range(_KILLS.value)]
      sent = [numbers[(rounds + k) % len(numbers)] for k in range(_KILLS.value)]
      model_dir = folder / 'killed'
      told = killed_round(model_dir, moments, sent)
      fault = differing(last_state(model_dir), expected)
      if fault:
        raise RuntimeError(f'Round {rounds}: {fault} differ.')
      shutil.rmtree(model_dir)
      if any(where == _ENDED for where, _ in told[:-1]):
        continue  # It was faster than the moment.
      for k, (where, ended) in enumerate(told[:-1]):
        phases[where] += 1
        after = told[k + 1][1].began
        most_lost = max(most_lost, ended.reached - after)
        print(
          f'{rounds}: {signal.Signals(sent[k]).name} after {moments[k]:.2f} s, '
          f'{where}: step {ended.reached} was done, went on from {after}; '
          'equal',
          flush=True,
        )
      rounds += 1
  print(
    f'{rounds} runs ended with the bits of the unbroken one; '
    f'at most {most_lost} steps lost (i_weights={SAVED_EVERY}). Killed: '
    + ', '.join(f'{count} {where}' for where, count in phases.most_common())
  )


if __name__ == '__main__':
  app.run(main)

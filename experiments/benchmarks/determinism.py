"""Differences between runs of one seed on different numbers of devices.

    python experiments/benchmarks/determinism.py

Compares runs on several virtual devices of the CPU with the first one: relative
differences of the losses of the first steps, the PSNR at the end, and whether
the last states are equal bit for bit. Each run compiles for itself.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

import numpy as np
from absl import app, flags
from tensorboard.backend.event_processing import event_accumulator

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments import launch
from experiments.benchmarks import machine, preemption
from experiments.outputs import run_dir
from experiments.processes import environment

_CONFIGS = flags.DEFINE_list(
  'configs', ['laptop_procedural', 'quickstart'], 'Names of configs.'
)
_DEVICES = flags.DEFINE_list(
  'devices', ['1', '1', '2', '4'], 'Numbers of devices; a run for each.'
)
_STEPS = flags.DEFINE_integer('steps', 300, 'Steps of a run.')
_COMPARED = 20  # Steps whose losses are compared.
_TRAIN = pathlib.Path(__file__).parents[1] / 'train.py'
_ARGUMENTS = (
  '--config.procedural.size=32',
  '--config.procedural.num_test=4',
  '--config.num_rand=256',
  '--config.batch_warmup_steps=0',
  '--config.i_print=1',
  '--compilation_cache=',
)


class Run(NamedTuple):
  """The results of a run."""

  losses: np.ndarray  # [steps] loss of each step.
  psnr: float  # dB, mean over the test views.
  state: dict[str, np.ndarray]  # arrays of the last state, by name.


def run(name: str, devices: int, folder: pathlib.Path, steps: int) -> Run:
  """Trains on virtual devices of the CPU.

  Args:
    name: name of the config.
    devices: number of devices.
    folder: folder of the run.
    steps: number of steps.

  Raises:
    subprocess.CalledProcessError: if it fails.
  """
  flag = f'--xla_force_host_platform_device_count={devices}'
  arguments = [
    f'--config={launch.CONFIGS / name}.py',
    *_ARGUMENTS,
    f'--config.num_steps={steps}',
    f'--model_dir={folder}',
  ]
  subprocess.run(
    [sys.executable, str(_TRAIN), *arguments],
    env=os.environ | {'XLA_FLAGS': flag, 'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.DEVNULL,
    check=True,
  )
  events = event_accumulator.EventAccumulator(
    str(folder / run_dir.TENSORBOARD), {'scalars': 0}
  )
  events.Reload()
  losses = np.asarray([x.value for x in events.Scalars('train/loss')])
  psnr = json.loads((folder / run_dir.RESULTS).read_text())['psnr']
  return Run(losses, psnr, preemption.last_state(folder))


def main(argv: list[str]) -> None:
  """Prints a row for each run."""
  del argv
  environment.quiet_libraries()
  rows = []
  for name in _CONFIGS.value:
    first = None
    for i, devices in enumerate(_DEVICES.value):
      with tempfile.TemporaryDirectory() as folder:
        result = run(
          name, int(devices), pathlib.Path(folder) / str(i), _STEPS.value
        )
      first = first or result
      difference = np.abs(result.losses / first.losses - 1)[:_COMPARED]
      equal = not preemption.differing(result.state, first.state)
      rows.append(
        [
          name,
          devices,
          f'{difference[0]:.1e}',
          f'{np.max(difference):.1e}',
          f'{result.psnr:.2f}',
          'yes' if equal else 'no',
        ]
      )
  machine.print_table(
    (
      'config',
      'devices',
      'loss of step 1',
      f'of {_COMPARED} steps, at most',
      f'PSNR after {_STEPS.value}, dB',
      'bit-equal state',
    ),
    rows,
  )


if __name__ == '__main__':
  app.run(main)

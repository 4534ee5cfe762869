"""What the number of devices changes in a run.

    python experiments/benchmarks/determinism.py

Runs of the same seed on several virtual devices of the CPU, beside one on one
device: how far the losses of the first steps are from its own, and the PSNR at
the end. Each compiles for itself.
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
_DEVICES = flags.DEFINE_list('devices', ['1', '1', '2', '4'], 'One run each.')
_STEPS = flags.DEFINE_integer('steps', 300, 'Of a run.')
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
  """What a run came to."""

  losses: np.ndarray  # of each step.
  psnr: float  # dB, over the test views.
  state: dict[str, np.ndarray]  # the last.


def run(name: str, devices: int, folder: pathlib.Path, steps: int) -> Run:
  """Trains on so many virtual devices.

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
  read = event_accumulator.EventAccumulator(
    str(folder / run_dir.TENSORBOARD), {'scalars': 0}
  )
  read.Reload()
  losses = np.asarray([x.value for x in read.Scalars('train/loss')])
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
        one = run(
          name, int(devices), pathlib.Path(folder) / str(i), _STEPS.value
        )
      first = first or one
      apart = np.abs(one.losses / first.losses - 1)[:_COMPARED]
      equal = not preemption.differing(one.state, first.state)
      rows.append(
        [
          name,
          devices,
          f'{apart[0]:.1e}',
          f'{np.max(apart):.1e}',
          f'{one.psnr:.2f}',
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

"""Renders and scores the test views of a trained run.

  python experiments/evaluate.py --model_dir=runs/lego --step=4000

The config, and where the data lie, are those of the run; flags override them.
"""

import pathlib

import jax
from absl import flags

from experiments import config as config_lib
from experiments import launch, rendering, runs

_SAVE_DIR = flags.DEFINE_string(
  'save_dir', None, 'Where views and scores go; default: in --model_dir.'
)
_STEP = flags.DEFINE_integer(
  'step', None, 'Of the kept state; default: the newest.'
)


def main() -> None:
  """Does what the flags ask for, and says where it lies."""
  config_lib.check(launch.CONFIG.value, jax.local_device_count())
  model_dir = launch.model_dir()
  run = runs.load(
    launch.CONFIG.value,
    data_dir=launch.DATA_DIR.value,
    model_dir=model_dir,
    step=_STEP.value,
  )
  name = f'evaluation_{run.kept.step:07}'
  save_dir = pathlib.Path(_SAVE_DIR.value or model_dir / name)
  print(rendering.score(run, save_dir.expanduser()))


if __name__ == '__main__':
  launch.run(main, launch.of_the_run)

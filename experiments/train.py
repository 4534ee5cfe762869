"""Trains a NeRF, renders its test views and scores them.

With no flag it learns the built-in scene:

  python experiments/train.py

On Blender's lego, with the paper's settings:

  python experiments/train.py --data_dir=data \
      --config=experiments/configs/paper_blender_lego.py --model_dir=runs/lego

The same command goes on with a run that was stopped.
"""

import sys
import time

_START = time.perf_counter()  # Imports take seconds too.

import math
import pathlib

import jax
from absl import flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from experiments import launch
from experiments.configs import schema
from experiments.outputs import run_dir, videos
from experiments.trainer import dry_run, run

_SEED = flags.DEFINE_integer(
  'seed', 0, 'Of everything random.', lower_bound=0, upper_bound=2**31 - 1
)
_INIT_FROM = flags.DEFINE_string(
  'init_from', None, 'Folder of a run whose weights this one begins with.'
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Load, check, tell what the run would be, and stop.'
)
_PROFILE = flags.DEFINE_bool(
  'profile', False, 'Profile five steps, for TensorBoard or Perfetto.'
)


def main() -> None:
  """Does what the flags ask for, and says where the results lie."""
  config, data_dir = launch.CONFIG.value, launch.DATA_DIR.value
  name = launch.config_path().stem
  model_dir = pathlib.Path(launch.MODEL_DIR.value or f'runs/{name}')
  model_dir = model_dir.expanduser()
  devices = 1 if config.render_only else jax.device_count()
  schema.check(config, devices)
  if _DRY_RUN.value:
    print(dry_run.describe_run(config, data_dir, _SEED.value))
    return
  if config.render_only:
    videos.render_only(config, data_dir, model_dir)
    return
  content = run.train(
    config,
    data_dir=data_dir,
    model_dir=model_dir,
    seed=_SEED.value,
    start=_START,
    init_from=_INIT_FROM.value,
    profiled=_PROFILE.value,
  )
  psnr = content['psnr']
  print(
    f'PSNR {math.inf if psnr is None else psnr:.2f} dB over '
    f'{content["views"]} test views after {content["train_seconds"]:.0f} s of '
    f'training: {model_dir / run_dir.RESULTS}, picture: '
    f'{model_dir / run_dir.VIEWS / "overview.png"}'
  )


if __name__ == '__main__':
  launch.run(main, launch.quickstart)

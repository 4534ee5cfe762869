"""Trains a NeRF, renders its test views and scores them.

Without flags it trains on the built-in scene:

  python experiments/train.py

On lego of the Blender scenes, with the settings of the paper:

  python experiments/train.py --data_dir=data \
      --config=experiments/configs/paper_blender_lego.py --model_dir=runs/lego

Run the same command to resume a run that was stopped.
"""

import os
import sys
import time

_START = time.perf_counter()  # Before the imports, which take seconds.

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from experiments.processes import signals

if __name__ == '__main__':
  signals.exit_on_interrupt()  # Before the imports that take seconds.

import functools
import pathlib
from typing import Any

import jax
from absl import flags

from experiments import launch
from experiments.builders import scene_loader
from experiments.configs import schema
from experiments.outputs import run_dir, scoring, videos
from experiments.processes import multihost
from experiments.trainer import dry_run, run
from experiments.viewer import viewer_flags
from nerf_haiku import errors

_SEED = flags.DEFINE_integer(
  'seed', 0, 'Random seed.', lower_bound=0, upper_bound=2**31 - 1
)
_INIT_FROM = flags.DEFINE_string(
  'init_from', None, 'Folder of a run whose parameters this run starts from.'
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run',
  False,
  'Load the data, time a few steps, print what the run would be, and exit.',
)
_PROFILE = flags.DEFINE_bool(
  'profile', False, 'Profile five steps, for TensorBoard or Perfetto.'
)
_VIEW = flags.DEFINE_bool(
  'view',
  False,
  'Serve a page in the browser that shows the scene as it is '
  'learned, see view.py.',
)


def main() -> None:
  """Trains as the flags say, and prints where the results are."""
  config, data_dir = launch.CONFIG.value, launch.DATA_DIR.value
  devices = 1 if config.get('render_only') else jax.device_count()
  schema.check(config, devices)
  config = scene_loader.resolve(config, data_dir)
  if _DRY_RUN.value:
    is_capture = config.dataset_type in schema.CAPTURE_TYPES
    folder = _model_dir() if is_capture and multihost.is_main() else None
    print(dry_run.describe_run(config, data_dir, _SEED.value, folder))
    return
  model_dir = _model_dir()
  if config.render_only:
    videos.render_only(config, data_dir, model_dir)
    return
  results = run.train(
    config,
    data_dir=data_dir,
    model_dir=model_dir,
    seed=_SEED.value,
    start=_START,
    init_from=_INIT_FROM.value,
    profiled=_PROFILE.value,
    watch=_open_viewer() if _VIEW.value else None,
  )
  print(_summary(results, model_dir))


def _open_viewer() -> run.WatchFn:
  """Returns what opens the viewer, and prints where it is.

  Raises:
    UserError: if there are several processes.
  """
  from experiments.viewer import live  # Its libraries may not be there.

  if multihost.is_multihost():
    raise errors.UserError(
      '--view: a run of several processes has no viewer: use view.py beside it.'
    )
  print(viewer_flags.describe())
  return functools.partial(
    live.watch, host=viewer_flags.HOST.value, port=viewer_flags.PORT.value
  )


def _model_dir() -> pathlib.Path:
  """Returns the folder of the run: by default it is named as the config.

  Raises:
    UserError: if the config is that of another run, whose folder is not named.
  """
  if launch.MODEL_DIR.value is not None:
    return launch.model_dir()
  path = launch.config_path()
  if path.resolve() == (launch.CONFIGS / 'saved.py').resolve():
    raise errors.UserError(
      '--model_dir is required with --config=saved.py: the folder of the run '
      'to resume, or of a new one.'
    )
  return pathlib.Path('runs', path.stem)


def _summary(results: dict[str, Any], model_dir: pathlib.Path) -> str:
  """Returns the last line of the program."""
  seconds = f'process: {results["train_seconds"]:.0f} s'
  if 'step_seconds' in results:  # Older runs did not measure them.
    seconds += f', steps: {results["step_seconds"]:.0f} s'
  return (
    f'{scoring.describe_scores(results)} ({seconds}). Results: '
    f'{model_dir / run_dir.RESULTS}, picture: '
    f'{model_dir / run_dir.VIEWS / "overview.png"}'
  )


if __name__ == '__main__':
  launch.run(main, launch.quickstart_config)

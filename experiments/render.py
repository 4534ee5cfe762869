"""Renders a video and the test views of a trained run.

  python experiments/render.py --model_dir=runs/lego

The config and the data folder are those of the run; flags override them:

  python experiments/render.py --model_dir=runs/lego \
      --config.render_factor=2 --config.num_poses=120 --render_video_set=test
"""

import os
import sys

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from experiments.processes import signals

if __name__ == '__main__':
  signals.exit_on_interrupt()  # Before the imports that take seconds.

import pathlib

from absl import flags

from experiments import launch
from experiments.outputs import run_dir, trained_run, video_cameras, videos
from experiments.processes import multihost
from nerf_haiku import cameras
from nerf_haiku.io import safe_reading

_SAVE_DIR = flags.DEFINE_string(
  'save_dir',
  None,
  'Output folder of frames and videos; default: a folder in --model_dir that '
  'is named after the step and the cameras.',
)
_SET = flags.DEFINE_enum(
  'render_video_set',
  'render',
  video_cameras.SETS,
  "Cameras of the video: the scene's own path (render or poses), or the "
  'cameras of a split.',
)
_PATH = flags.DEFINE_enum(
  'path',
  'given',
  video_cameras.PATHS,
  'Path of the video: the cameras as given, or a path of config.num_poses '
  'frames through, around or among them.',
)
_CAMERAS = flags.DEFINE_string(
  'cameras', None, 'JSON file with cameras, instead of --render_video_set.'
)
_SAVE_PATH = flags.DEFINE_string(
  'save_path', None, 'JSON file to write the cameras of the video to.'
)
_VIDEO = flags.DEFINE_bool('render_video', True, 'Whether to render a video.')
_TESTSET = flags.DEFINE_bool(
  'render_testset',
  True,
  'Whether to render and score the test views, at full size.',
)
_STEP = flags.DEFINE_integer(
  'step', None, 'Checkpoint step; default: the latest.'
)
_FPS = flags.DEFINE_integer(
  'fps', videos.FPS, 'Frames per second.', lower_bound=1, upper_bound=1000
)


def main() -> None:
  """Renders what the flags ask for, and prints where it is."""
  own_path = _SET.value in ('render', 'poses') and not _CAMERAS.value
  run = launch.load_trained_run(
    _STEP.value,
    images=_TESTSET.value,
    path=_VIDEO.value and own_path and _PATH.value in ('given', 'interpolate'),
  )
  path = video_cameras.choose_cameras(
    run.scene,
    video_set=_SET.value,
    path=_PATH.value,
    num_poses=run.config.num_poses,
    render_factor=run.config.render_factor,
    camera_file=_CAMERAS.value,
  )
  multihost.run_on_main(lambda: _render(run, path), run.variables)


def _render(run: trained_run.TrainedRun, path: cameras.Cameras) -> None:
  if _SAVE_PATH.value:
    video_cameras.save_cameras(_SAVE_PATH.value, path)
  save_dir = launch.model_dir() / _default_name(run.checkpoint.step)
  if _SAVE_DIR.value:
    save_dir = safe_reading.expand_user(_SAVE_DIR.value)
  # Before hours are spent on the video: what the end needs.
  if _VIDEO.value:
    run_dir.prepare_output_dir(save_dir, run.identity(path))
  if _TESTSET.value:
    videos.prepare_test_views(run, save_dir / 'test')
  if _VIDEO.value:
    videos.render_video(run, path, save_dir, fps=_FPS.value, say=print)
  if _TESTSET.value:
    print(videos.score_test_views(run, save_dir / 'test')[1])


def _default_name(step: int) -> str:
  """Returns the name of a folder that no other video of the run has."""
  source = _SET.value
  if _CAMERAS.value:
    source = pathlib.Path(_CAMERAS.value).stem
  path = '' if _PATH.value == 'given' else f'_{_PATH.value}'
  return f'render_{step:07}_{source}{path}'


if __name__ == '__main__':
  launch.run(main, launch.saved_config)

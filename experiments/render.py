"""Draws videos and test views of a trained run.

  python experiments/render.py --model_dir=runs/lego

The config, and where the data lie, are those of the run; flags override them:

  python experiments/render.py --model_dir=runs/lego \
      --config.render_factor=2 --config.num_poses=120 --render_video_set=test
"""

import pathlib
import sys

from absl import flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from experiments import launch
from experiments.outputs import trained_run, video_cameras, videos
from experiments.processes import multihost
from nerf_haiku import cameras

_SAVE_DIR = flags.DEFINE_string(
  'save_dir',
  None,
  'Where frames and videos go; default: in --model_dir, by what they show.',
)
_SET = flags.DEFINE_enum(
  'render_video_set',
  'render',
  video_cameras.SETS,
  "Cameras of the video: the scene's own path, or those of a split.",
)
_PATH = flags.DEFINE_enum(
  'path',
  'given',
  video_cameras.PATHS,
  'How the video goes along these cameras, in config.num_poses frames if it '
  'is not as given.',
)
_CAMERAS = flags.DEFINE_string(
  'cameras', None, 'JSON file of cameras, instead of --render_video_set.'
)
_SAVE_PATH = flags.DEFINE_string(
  'save_path', None, "Write the video's cameras to this JSON file."
)
_VIDEO = flags.DEFINE_bool('render_video', True, 'Draw a video.')
_TESTSET = flags.DEFINE_bool(
  'render_testset', True, 'Draw and score the test views, at full size.'
)
_STEP = flags.DEFINE_integer(
  'step', None, 'Of the kept state; default: the newest.'
)
_FPS = flags.DEFINE_integer(
  'fps', videos.FPS, 'Frames per second.', lower_bound=1, upper_bound=1000
)


def main() -> None:
  """Does what the flags ask for, and says where it lies."""
  run = launch.load_trained_run(_STEP.value)
  taken = video_cameras.choose_cameras(
    run.scene,
    video_set=_SET.value,
    path=_PATH.value,
    num_poses=run.config.num_poses,
    render_factor=run.config.render_factor,
    camera_file=_CAMERAS.value,
  )
  multihost.run_on_main(lambda: _draw(run, taken), run.learnt)


def _draw(run: trained_run.TrainedRun, taken: cameras.Cameras) -> None:
  if _SAVE_PATH.value:
    video_cameras.save_cameras(_SAVE_PATH.value, taken)
  save_dir = launch.model_dir() / _name(run.kept.step)
  if _SAVE_DIR.value:
    save_dir = pathlib.Path(_SAVE_DIR.value).expanduser()
  if _VIDEO.value:
    videos.render_video(run, taken, save_dir, fps=_FPS.value, say=print)
  if _TESTSET.value:
    print(videos.score_test_views(run, save_dir / 'test')[1])


def _name(step: int) -> str:
  """A folder for each step and each video."""
  what = _SET.value
  if _CAMERAS.value:
    what = pathlib.Path(_CAMERAS.value).stem
  along = '' if _PATH.value == 'given' else f'_{_PATH.value}'
  return f'render_{step:07}_{what}{along}'


if __name__ == '__main__':
  launch.run(main, launch.of_the_run)

"""Videos and scored test views of a trained run."""

import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections

from experiments.outputs import (
  frames,
  json_files,
  run_dir,
  scoring,
  trained_run,
  video_cameras,
)
from experiments.processes import multihost
from nerf_haiku import cameras, scene_bounds

FPS = 30


def render_video(
  run: trained_run.TrainedRun,
  path: cameras.Cameras,
  save_dir: pathlib.Path,
  *,
  fps: int,
  say: Callable[[str], None],
  replace: bool = False,
) -> None:
  """Renders the frames of a video that are missing, and encodes it.

  Args:
    run: the run to render.
    path: the cameras of the frames.
    save_dir: folder of the frames and the video.
    fps: frames per second.
    say: reports to the user.
    replace: see `run_dir.prepare_output_dir`.

  Raises:
    UserError: if the folder cannot be used.
  """
  run_dir.prepare_output_dir(save_dir, run.identity(path), replace=replace)
  for note in frames.video_notices(path):
    say(note)
  same_size = len(frames.image_sizes(path)) == 1
  rendered = frames.render_frames(
    save_dir,
    path,
    run.render,
    near=run.scene.near,
    far=run.scene.far,
    even_to=scene_bounds.even_depth(run.scene),
    still=run.config.use_viewdirs and len(path.sizes) > 1 and same_size,
    fps=fps,
  )
  files = ', '.join(file.name for file in rendered.files) or 'no video'
  existing = '' if rendered.new else ', all rendered before'
  what = video_cameras.describe_cameras(path)
  say(f'{what}{existing}: {save_dir} ({files})')
  if rendered.empty:
    say(
      'All frames are empty: nothing is where their rays go, from near='
      f'{run.scene.near:g} to far={run.scene.far:g}. Choose other cameras '
      '(--path, --render_video_set, --cameras, config.video_path).'
    )


def prepare_test_views(
  run: trained_run.TrainedRun, save_dir: pathlib.Path, *, replace: bool = False
) -> None:
  """Makes the folder of `score_test_views`, and loads what that measures with.

  Raises:
    UserError: if the folder cannot be used, or the weights of a metric.
  """
  identity = run.identity(run.scene.test.cameras)
  identity['images'] = run.scene.test.digest
  run_dir.prepare_output_dir(
    save_dir,
    identity,
    replace=replace,
    # Older versions took the images of a path as one.
    older={'images': run.settings['data_dir']},
  )
  scoring.available_metrics()


def score_test_views(
  run: trained_run.TrainedRun, save_dir: pathlib.Path, *, replace: bool = False
) -> tuple[dict[str, Any], str]:
  """Renders and scores the test views, unless that was done before.

  Args:
    run: the run to score.
    save_dir: folder of the views and scores.
    replace: see `run_dir.prepare_output_dir`.

  Returns:
    The content of `results.json`, and a sentence about it.

  Raises:
    UserError: if the folder cannot be used.
  """
  prepare_test_views(run, save_dir, replace=replace)
  path = save_dir / run_dir.RESULTS
  before = ''
  content: dict[str, Any] = {}
  if path.exists():
    content = json_files.read_json(path, 'psnr', 'views', option='--save_dir')
    before = ' (scored before)'
  if not scoring.available_metrics().keys() <= content.keys():
    content, before = scoring.score_run(run, save_dir), ''
    json_files.write_json(path, content)
  return content, f'{scoring.describe_scores(content)}{before}: {path}'


def render_only(
  config: ml_collections.ConfigDict,
  data_dir: str | None,
  model_dir: pathlib.Path,
) -> None:
  """Renders what `config.render_only` asks for into the run's folder.

  Raises:
    UserError: if there is no such run, or it had another config.
  """
  run = trained_run.load(
    config, data_dir=data_dir, model_dir=model_dir, images=config.render_test
  )
  multihost.run_on_main(lambda: _render(run, model_dir), run.variables)


def _render(run: trained_run.TrainedRun, model_dir: pathlib.Path) -> None:
  config = run.config
  run_dir.check_run_dir(model_dir, run.settings)
  if config.render_test:
    views_dir = model_dir / f'{run_dir.VIEWS}_{run.checkpoint.step:07}'
    print(score_test_views(run, views_dir)[1])
  else:
    render_path_video(run, model_dir, say=print)


def render_path_video(
  run: trained_run.TrainedRun,
  model_dir: pathlib.Path,
  *,
  say: Callable[[str], None],
  replace: bool = False,
) -> None:
  """Renders the scene's own path into the run's folder, see `render_video`."""
  path = video_cameras.choose_cameras(
    run.scene,
    video_set='render',
    path='given',
    num_poses=run.config.num_poses,
    render_factor=run.config.render_factor,
  )
  save_dir = model_dir / f'{run_dir.VIDEO}_{run.checkpoint.step:07}'
  render_video(run, path, save_dir, fps=FPS, say=say, replace=replace)

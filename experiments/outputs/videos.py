"""Videos and test views of a run."""

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
  view_scores,
)
from experiments.processes import multihost
from nerf_haiku import cameras

FPS = 30


def render_video(
  run: trained_run.TrainedRun,
  taken: cameras.Cameras,
  save_dir: pathlib.Path,
  *,
  fps: int,
  say: Callable[[str], None],
  replace: bool = False,
) -> None:
  """Draws a video, or what is missing of it, and says what is there.

  Args:
    run: what is drawn.
    taken: the cameras of the frames.
    save_dir: the folder for them.
    fps: frames per second.
    say: tells the user.
    replace: see `folder.claim_output`.

  Raises:
    ValueError: if the folder can not be used.
  """
  run_dir.prepare_output_dir(save_dir, run.identity(taken), replace=replace)
  for note in frames.video_notices(taken):
    say(note)
  alike = len(frames.image_sizes(taken)) == 1
  drawn = frames.render_frames(
    save_dir,
    taken,
    lambda x, i, looks=None: run.render(run.learnt, x, i, looks),
    near=run.scene.near,
    far=run.scene.far,
    still=run.config.use_viewdirs and len(taken.sizes) > 1 and alike,
    fps=fps,
  )
  what = video_cameras.describe_cameras(taken)
  made = ', '.join(path.name for path in drawn.files) or 'no video'
  old = ', all there' if not drawn.new else ''
  say(f'{what}{old}: {save_dir} ({made})')


def score_test_views(
  run: trained_run.TrainedRun, save_dir: pathlib.Path, *, replace: bool = False
) -> tuple[dict[str, Any], str]:
  """Draws and scores the test views, unless that was done.

  Args:
    run: what is scored.
    save_dir: the folder for views and scores.
    replace: see `folder.claim_output`.

  Returns:
    What `results.json` holds, and a sentence of it.

  Raises:
    ValueError: if the folder can not be used.
  """
  identity = run.identity(run.scene.test.cameras)
  identity['images'] = run.settings['data_dir']
  run_dir.prepare_output_dir(save_dir, identity, replace=replace)
  path = save_dir / run_dir.RESULTS
  before = ''
  content: dict[str, Any] = {}
  if path.exists():
    content = json_files.read_json(path, 'psnr', 'views', option='--save_dir')
    before = ' (scored before)'
  if not view_scores.available_metrics().keys() <= content.keys():
    content, before = scoring.score_run(run, save_dir), ''
    json_files.write_json(path, content)
  return content, f'{scoring.describe_scores(content)}{before}: {path}'


def render_only(
  config: ml_collections.ConfigDict,
  data_dir: str | None,
  model_dir: pathlib.Path,
) -> None:
  """Does what `config.render_only` asks for, in the run's folder.

  Raises:
    ValueError: if there is no such run, or it had another config.
  """
  run = trained_run.load(config, data_dir=data_dir, model_dir=model_dir)
  multihost.run_on_main(lambda: _draw(run, model_dir), run.learnt)


def _draw(run: trained_run.TrainedRun, model_dir: pathlib.Path) -> None:
  config = run.config
  run_dir.check_run_dir(model_dir, run.settings)
  if config.render_test:
    views_dir = model_dir / f'{run_dir.VIEWS}_{run.kept.step:07}'
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
  taken = video_cameras.choose_cameras(
    run.scene,
    video_set='render',
    path='given',
    num_poses=run.config.num_poses,
    render_factor=run.config.render_factor,
  )
  where = model_dir / f'{run_dir.VIDEO}_{run.kept.step:07}'
  render_video(run, taken, where, fps=FPS, say=say, replace=replace)

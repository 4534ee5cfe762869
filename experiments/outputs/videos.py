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


def film(
  run: trained_run.Run,
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
  run_dir.claim_output(save_dir, run.identity(taken), replace=replace)
  for note in frames.notes(taken):
    say(note)
  alike = len(frames.sizes(taken)) == 1
  drawn = frames.draw(
    save_dir,
    taken,
    lambda x, i, looks=None: run.render(run.learnt, x, i, looks),
    near=run.scene.near,
    far=run.scene.far,
    still=run.config.use_viewdirs and len(taken.sizes) > 1 and alike,
    fps=fps,
  )
  what = video_cameras.describe(taken)
  made = ', '.join(path.name for path in drawn.files) or 'no video'
  old = ', all there' if not drawn.new else ''
  say(f'{what}{old}: {save_dir} ({made})')


def score(
  run: trained_run.Run, save_dir: pathlib.Path, *, replace: bool = False
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
  run_dir.claim_output(save_dir, identity, replace=replace)
  path = save_dir / run_dir.RESULTS
  before = ''
  content: dict[str, Any] = {}
  if path.exists():
    content = json_files.read_json(path, 'psnr', 'views', option='--save_dir')
    before = ' (scored before)'
  if not view_scores.measures_there().keys() <= content.keys():
    content, before = scoring.evaluate(run, save_dir), ''
    json_files.write_json(path, content)
  return content, f'{scoring.describe(content)}{before}: {path}'


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
  multihost.once(lambda: _draw(run, model_dir), run.learnt)


def _draw(run: trained_run.Run, model_dir: pathlib.Path) -> None:
  config = run.config
  run_dir.check(model_dir, run.settings)
  if config.render_test:
    views_dir = model_dir / f'{run_dir.VIEWS}_{run.kept.step:07}'
    print(score(run, views_dir)[1])
  else:
    film_path(run, model_dir, say=print)


def film_path(
  run: trained_run.Run,
  model_dir: pathlib.Path,
  *,
  say: Callable[[str], None],
  replace: bool = False,
) -> None:
  """Draws the scene's own path into the folder of the run, see `film`."""
  taken = video_cameras.choose(
    run.scene,
    video_set='render',
    path='given',
    num_poses=run.config.num_poses,
    render_factor=run.config.render_factor,
  )
  where = model_dir / f'{run_dir.VIDEO}_{run.kept.step:07}'
  film(run, taken, where, fps=FPS, say=say, replace=replace)

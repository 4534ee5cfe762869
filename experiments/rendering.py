"""Videos and test views of a run."""

import pathlib
from collections.abc import Callable

import ml_collections

from experiments import folder, frames, results, runs, scoring, views
from nerf_haiku import cameras

FPS = 30


def film(
  run: runs.Run,
  taken: cameras.Cameras,
  save_dir: pathlib.Path,
  *,
  fps: int,
  say: Callable[[str], None],
) -> None:
  """Draws a video, or what is missing of it, and says what is there.

  Args:
    run: what is drawn.
    taken: the cameras of the frames.
    save_dir: the folder for them.
    fps: frames per second.
    say: tells the user.

  Raises:
    ValueError: if the folder can not be used.
  """
  frames.claim(save_dir, run.identity(), taken)
  for note in frames.notes(taken):
    say(note)
  drawn = frames.draw(
    save_dir,
    taken,
    lambda x, i, looks=None: run.render(run.params, x, i, looks),
    near=run.scene.near,
    far=run.scene.far,
    still=run.config.use_viewdirs and len(taken.sizes) > 1,
    fps=fps,
  )
  what = views.describe(taken, run.config.render_factor)
  made = ', '.join(path.name for path in drawn.files) or 'no video'
  old = ', all there' if not drawn.new else ''
  say(f'{what}{old}: {save_dir} ({made})')


def score(run: runs.Run, save_dir: pathlib.Path) -> str:
  """Draws and scores the test views, unless that was done; says how good.

  Raises:
    ValueError: if the folder can not be used.
  """
  frames.claim(save_dir, run.identity(), run.scene.test.cameras)
  path = save_dir / folder.RESULTS
  if path.exists():
    content = folder.read_json(path, 'psnr', 'views', option='--save_dir')
  else:
    content = scoring.evaluate(
      run.config, run.scene, run.render, run.params, run.kept, save_dir
    )
    results.write_json(path, content | run.settings)
  return f'{scoring.describe(content)}: {path}'


def render_only(
  config: ml_collections.ConfigDict,
  data_dir: str | None,
  model_dir: pathlib.Path,
) -> None:
  """Does what `config.render_only` asks for, in the run's folder."""
  run = runs.load(config, data_dir=data_dir, model_dir=model_dir)
  if config.render_test:
    print(score(run, model_dir / f'{folder.VIEWS}_{run.kept.step:07}'))
  else:
    film_path(run, model_dir, print)


def film_path(
  run: runs.Run, model_dir: pathlib.Path, say: Callable[[str], None]
) -> None:
  """Draws the scene's own path into the folder of the run, see `film`."""
  taken = views.choose(
    run.scene,
    video_set='render',
    path='given',
    num_poses=run.config.num_poses,
    render_factor=run.config.render_factor,
  )
  where = model_dir / f'{folder.VIDEO}_{run.kept.step:07}'
  film(run, taken, where, fps=FPS, say=say)

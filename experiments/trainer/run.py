"""A run: from a config to checkpoints, images and scores."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections

from experiments.builders import model, scene_loader
from experiments.configs import schema
from experiments.outputs import (
  json_files,
  run_dir,
  scoring,
  trained_run,
  video_cameras,
  videos,
  view_scores,
)
from experiments.processes import multihost
from experiments.trainer import (
  profiling,
  progress,
  steps,
  tensorboard,
  validation,
)
from nerf_haiku import checkpoints, devices, errors, scenes
from nerf_haiku.renderers import hierarchical


def train(
  config: ml_collections.ConfigDict,
  *,
  data_dir: str | None,
  model_dir: pathlib.Path,
  seed: int,
  start: float,
  init_from: str | None = None,
  profiled: bool = False,
) -> dict[str, Any]:
  """Trains, evaluates and writes a run, or goes on with one.

  Args:
    config: one that `config.check` has passed.
    data_dir: root of the data set's layout; the built-in scene needs none.
    model_dir: where the run is kept.
    seed: of everything that is random.
    start: `time.perf_counter()` when the process began.
    init_from: folder of a run whose weights this one begins with.
    profiled: whether five steps are profiled.

  Returns:
    What `results.json` holds.

  Raises:
    ValueError: if the data cannot be used, the folder holds another run, or a
      loss or gradient is no finite number.
    signals.StoppedError: if a signal stopped it.
  """
  settings = run_dir.run_settings(
    config, seed=seed, data_dir=data_dir, init_from=init_from
  )
  content = multihost.run_on_main(
    lambda: _look_there(config, model_dir, settings)
  )
  if content is not None:
    return content
  scene = scene_loader.load_scene(config, data_dir)
  renderer = model.make_renderer(config, scene)
  weights = multihost.run_on_main(lambda: _weights(renderer, init_from))
  first = multihost.is_main()
  log = progress.Log(model_dir / run_dir.LOG if first else None)
  with contextlib.ExitStack() as held:
    # Of process 0, which tells the others if it can not.
    claimed = run_dir.prepare_run_dir(model_dir, settings)
    multihost.run_on_main(lambda: held.enter_context(claimed))
    log.say('\n'.join([describe_scene(scene), *schema.notices(config)]))
    kept = held.enter_context(
      checkpoints.Checkpoints(model_dir / run_dir.CHECKPOINTS, log.say)
    )
    board = held.enter_context(
      tensorboard.SummaryWriter(
        model_dir / run_dir.TENSORBOARD if first else None, log.say
      )
    )
    where = model_dir / run_dir.TENSORBOARD if profiled and first else None
    render = model.make_render_view(config, scene, renderer)
    validate = validation.make_validate(
      config, scene, renderer, render, board, log
    )

    def run_at(
      state: checkpoints.CheckpointInfo, learnt: Any
    ) -> trained_run.TrainedRun:
      return trained_run.TrainedRun(
        config, scene, learnt, render, state, settings
      )

    outputs = steps.Outputs(
      kept,
      log,
      board,
      profiling.Profile(where, log),
      validate,
      *_make_shows(run_at, model_dir, log, board),
    )
    state, about = steps.fit(
      config, scene, renderer, outputs, seed=seed, start=start, weights=weights
    )
    known = checkpoints.CheckpointInfo(
      int(state.step), int(state.skipped), about
    )
    run = run_at(known, devices.replicate(state.learnt()))

    def score() -> dict[str, Any]:
      content = scoring.score_run(run, model_dir / run_dir.VIEWS)
      json_files.write_json(model_dir / run_dir.RESULTS, content)
      fields = dict(schema.flatten(config)) | {'seed': seed}
      board.hyperparameters(fields, scoring.mean_scores(content))
      log.note(f'test PSNR {content["psnr"]} dB over {content["views"]} views')
      return content

    return multihost.run_on_main(score, run.learnt)


def _look_there(
  config: ml_collections.ConfigDict,
  model_dir: pathlib.Path,
  settings: dict[str, Any],
) -> dict[str, Any] | None:
  """Checks the folder of a run; gives the results if it is finished."""
  run_dir.check_run_dir(model_dir, settings)
  content = run_dir.read_finished(model_dir, config.num_steps)
  if content is not None:
    print(
      f'{model_dir} holds this run, finished after {content["steps"]} steps: '
      'nothing is left to do.'
    )
    return content
  run_dir.check_not_locked(model_dir)
  # Damaged weights are noticed before hours are spent.
  view_scores.available_metrics()
  return None


def _make_shows(
  run_at: Callable[[checkpoints.CheckpointInfo, Any], trained_run.TrainedRun],
  model_dir: pathlib.Path,
  log: progress.Log,
  board: tensorboard.SummaryWriter,
) -> tuple[steps.Show, steps.Show]:
  """What draws a run on its way: its test views, and its video."""

  def test(state: checkpoints.CheckpointInfo, learnt: Any) -> None:
    where = model_dir / f'{run_dir.VIEWS}_{state.step:07}'
    scores, text = videos.score_test_views(
      run_at(state, learnt), where, replace=True
    )
    known = {f'test/{x}': y for x, y in scoring.mean_scores(scores).items()}
    board.scalars(state.step, known)
    log.say(f'step {state.step}  test {text}')

  def film(state: checkpoints.CheckpointInfo, learnt: Any) -> None:
    videos.render_path_video(
      run_at(state, learnt),
      model_dir,
      say=lambda text: log.say(f'step {state.step}  {text}'),
      replace=True,
    )

  return test, film


def _weights(
  renderer: hierarchical.Renderer, init_from: str | None
) -> hierarchical.Params | None:
  """The weights that a run begins with.

  Raises:
    ValueError: if there are none, or of other networks.
  """
  if init_from is None:
    return None
  try:
    return trained_run.read_variables(
      renderer, pathlib.Path(init_from).expanduser()
    )[0].params
  except errors.UserError as error:
    raise errors.UserError(
      f'--init_from: {error} Name the --model_dir of a run with such networks.'
    ) from error


def describe_scene(scene: scenes.Scene) -> str:
  """Splits and sizes, and what was done to the files, for the user."""
  lines = []
  for name in ('train', 'val', 'test'):
    split = getattr(scene, name)
    sizes = video_cameras.describe_sizes(split.cameras)
    lines.append(f'{len(split.images)} {name} views of {sizes}')
  return '\n'.join(['; '.join(lines), *scene.notices])

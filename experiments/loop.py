"""A run: from a config to checkpoints, images and scores."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections

from experiments import (
  build,
  fit,
  folder,
  json_files,
  processes,
  profiling,
  progress,
  rendering,
  results,
  runs,
  scenes,
  scoring,
  summaries,
  validation,
  views,
)
from experiments import config as config_lib
from nerf_haiku import checkpoints, devices, renderers
from nerf_haiku.datasets import base


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
  settings = folder.describe(
    config, seed=seed, data_dir=data_dir, init_from=init_from
  )
  content = processes.once(lambda: _look_there(config, model_dir, settings))
  if content is not None:
    return content
  scene = scenes.load(config, data_dir)
  renderer = build.renderer(config, scene)
  weights = processes.once(lambda: _weights(renderer, init_from))
  first = processes.first()
  log = progress.Log(model_dir / folder.LOG if first else None)
  with contextlib.ExitStack() as held:
    # Of process 0, which tells the others if it can not.
    claimed = folder.claimed(model_dir, settings)
    processes.once(lambda: held.enter_context(claimed))
    log.say(describe_scene(scene))
    kept = held.enter_context(
      checkpoints.Checkpoints(model_dir / folder.CHECKPOINTS, log.say)
    )
    board = held.enter_context(
      summaries.Summaries(
        model_dir / folder.TENSORBOARD if first else None, log.say
      )
    )
    where = model_dir / folder.TENSORBOARD if profiled and first else None
    render = build.render_view(config, scene, renderer)
    validate = validation.make(config, scene, renderer, render, board, log)

    def run_at(state: checkpoints.Kept, learnt: Any) -> runs.Run:
      return runs.Run(config, scene, learnt, render, state, settings)

    outputs = fit.Outputs(
      kept, log, board, profiling.Profile(where, log), validate,
      *_make_shows(run_at, model_dir, log, board),
    )  # fmt: skip
    state, about = fit.fit(
      config, scene, renderer, outputs, seed=seed, start=start, weights=weights
    )
    known = checkpoints.Kept(int(state.step), int(state.skipped), about)
    run = run_at(known, devices.replicate(state.learnt()))

    def score() -> dict[str, Any]:
      content = scoring.evaluate(run, model_dir / folder.VIEWS)
      json_files.write_json(model_dir / folder.RESULTS, content)
      fields = dict(config_lib.flatten(config)) | {'seed': seed}
      board.hyperparameters(fields, scoring.means(content))
      log.note(f'test PSNR {content["psnr"]} dB over {content["views"]} views')
      return content

    return processes.once(score, run.learnt)


def _look_there(
  config: ml_collections.ConfigDict,
  model_dir: pathlib.Path,
  settings: dict[str, Any],
) -> dict[str, Any] | None:
  """Checks the folder of a run; gives the results if it is finished."""
  folder.check(model_dir, settings)
  content = folder.finished(model_dir, config.num_steps)
  if content is not None:
    print(
      f'{model_dir} holds this run, finished after {content["steps"]} steps: '
      'nothing is left to do.'
    )
    return content
  folder.check_unused(model_dir)
  results.measures_there()  # A damaged one is noticed before hours are spent.
  return None


def _make_shows(
  run_at: Callable[[checkpoints.Kept, Any], runs.Run],
  model_dir: pathlib.Path,
  log: progress.Log,
  board: summaries.Summaries,
) -> tuple[fit.Show, fit.Show]:
  """What draws a run on its way: its test views, and its video."""

  def test(state: checkpoints.Kept, learnt: Any) -> None:
    where = model_dir / f'{folder.VIEWS}_{state.step:07}'
    scores, text = rendering.score(run_at(state, learnt), where, replace=True)
    known = {f'test/{x}': y for x, y in scoring.means(scores).items()}
    board.scalars(state.step, known)
    log.say(f'step {state.step}  test {text}')

  def film(state: checkpoints.Kept, learnt: Any) -> None:
    rendering.film_path(
      run_at(state, learnt),
      model_dir,
      say=lambda text: log.say(f'step {state.step}  {text}'),
      replace=True,
    )

  return test, film


def _weights(
  renderer: renderers.Renderer, init_from: str | None
) -> renderers.Params | None:
  """The weights that a run begins with.

  Raises:
    ValueError: if there are none, or of other networks.
  """
  if init_from is None:
    return None
  try:
    return runs.read_learnt(renderer, pathlib.Path(init_from).expanduser())[
      0
    ].params
  except ValueError as error:
    raise ValueError(
      f'--init_from: {error} Name the --model_dir of a run with such networks.'
    ) from error


def describe_scene(scene: base.Scene) -> str:
  """Splits and sizes, and what was done to the files, for the user."""
  lines = []
  for name in ('train', 'val', 'test'):
    split = getattr(scene, name)
    sizes = views.describe_sizes(split.cameras)
    lines.append(f'{len(split.images)} {name} views of {sizes}')
  return '\n'.join(['; '.join(lines), *scene.notices])

"""A run: from a config to checkpoints, images and scores."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections

from experiments.builders import bounds, inputs, refinement, scene_loader
from experiments.builders import experiment as experiment_lib
from experiments.configs import schema
from experiments.outputs import (
  json_files,
  run_dir,
  scoring,
  stored_scene,
  trained_run,
  video_cameras,
  videos,
)
from experiments.processes import multihost, signals
from experiments.trainer import progress, steps, tensorboard, validation
from nerf_haiku import (
  backgrounds,
  camera_files,
  camera_refinement,
  checkpoints,
  devices,
  errors,
  scenes,
)
from nerf_haiku.io import safe_reading
from nerf_haiku.renderers import base

_MAX_PHOTOS = 100  # Whose borders are looked at.

WatchFn = Callable[
  [experiment_lib.Experiment], contextlib.AbstractContextManager[steps.Watch]
]


def train(
  config: ml_collections.ConfigDict,
  *,
  data_dir: str | None,
  model_dir: pathlib.Path,
  seed: int,
  start: float,
  init_from: str | None = None,
  profiled: bool = False,
  watch: WatchFn | None = None,
) -> dict[str, Any]:
  """Trains, scores and writes a run, or resumes one.

  Args:
    config: one that `schema.check` has passed.
    data_dir: root of the data set's layout; the built-in scene needs none.
    model_dir: folder of the run.
    seed: random seed.
    start: `time.perf_counter()` when the process began.
    init_from: folder of a run whose parameters this one begins with.
    profiled: whether five steps are profiled.
    watch: opens what looks at the run while it trains, as the viewer does.

  Returns:
    The content of `results.json`.

  Raises:
    UserError: if the data cannot be used, the folder holds another run, or a
      loss or gradient is not finite.
    signals.StoppedError: if a signal stopped the run.
  """
  settings = run_dir.run_settings(
    config, seed=seed, data_dir=data_dir, init_from=init_from
  )
  results = multihost.run_on_main(
    lambda: _finished_results(config, model_dir, settings)
  )
  if results is not None:
    return results
  scene = scene_loader.load_scene(config, data_dir)
  bounds_notices = bounds.check(scene)
  drawn_on = multihost.run_on_main(
    lambda: run_dir.drawn_on(model_dir) or inputs.choose(config, scene)
  )
  experiment = experiment_lib.make_experiment(config, scene, drawn_on=drawn_on)
  settings[run_dir.DRAWN_ON] = drawn_on
  settings[run_dir.DIGEST] = scene.train.digest
  multihost.run_on_main(lambda: run_dir.check_data(model_dir, settings))
  init_params = multihost.run_on_main(
    lambda: _read_params(experiment, init_from)
  )
  log = progress.Log(model_dir / run_dir.LOG if multihost.is_main() else None)
  with contextlib.ExitStack() as stack:
    # The main process tells the others if it cannot write there.
    folder = run_dir.prepare_run_dir(model_dir, settings)
    multihost.run_on_main(lambda: stack.enter_context(folder))
    multihost.run_on_main(lambda: stored_scene.write(model_dir, config, scene))
    lines = [describe_scene(config, scene), experiment.inputs.describe()]
    log.info('\n'.join([*lines, *bounds_notices]))
    run = _Run(experiment, model_dir, settings, log, seed)
    watcher = stack.enter_context(watch(experiment)) if watch else None
    outputs = run.open_outputs(stack, profiled=profiled, watch=watcher)
    signals.raise_if_interrupted()  # An import may have caught Ctrl-C.
    state, metadata = steps.fit(
      experiment, outputs, seed=seed, start=start, init_params=init_params
    )
    info = checkpoints.CheckpointInfo(
      step=int(state.step), skipped=int(state.skipped), metadata=metadata
    )
    if config.refine_cameras:
      refined = refinement.refined_cameras(
        config, scene, state.params[camera_refinement.NAME]
      )
      path = model_dir / run_dir.REFINED
      multihost.run_on_main(lambda: camera_files.write(path, refined))
    trained = run.at(info, devices.replicate(state.variables()))
    return multihost.run_on_main(
      lambda: run.score(trained, outputs.writer), trained.variables
    )


def _finished_results(
  config: ml_collections.ConfigDict,
  model_dir: pathlib.Path,
  settings: dict[str, Any],
) -> dict[str, Any] | None:
  """Checks the folder of a run; returns the results if it is finished."""
  run_dir.check_run_dir(model_dir, settings)
  results = run_dir.read_finished(model_dir, config.num_steps)
  if results is not None:
    print(
      f'{model_dir} holds this run, finished after {results["steps"]} steps: '
      'there is nothing left to do.'
    )
    return results
  run_dir.check_not_locked(model_dir)
  # Damaged weights of a metric are noticed before hours are spent.
  scoring.available_metrics()
  return None


def _read_params(
  experiment: experiment_lib.Experiment, init_from: str | None
) -> base.Params | None:
  """Reads the parameters that a run begins with.

  Raises:
    UserError: if there are none, or they are of other networks.
  """
  if init_from is None:
    return None
  path = safe_reading.expand_user(init_from)
  try:
    return trained_run.read_variables(experiment.renderer, path)[0].params
  except errors.UserError as error:
    raise errors.UserError(
      f'--init_from: {error} Name the --model_dir of a run with such networks.'
    ) from error


class _Run(NamedTuple):
  """A run that trains, and its folder."""

  experiment: experiment_lib.Experiment
  model_dir: pathlib.Path
  settings: dict[str, Any]
  log: progress.Log
  seed: int

  def open_outputs(
    self,
    stack: contextlib.ExitStack,
    *,
    profiled: bool,
    watch: steps.Watch | None,
  ) -> steps.Outputs:
    """Opens the outputs; on other processes than the main one they are mute."""
    existing = stack.enter_context(
      checkpoints.Checkpoints(
        self.model_dir / run_dir.CHECKPOINTS, self.log.info
      )
    )
    folder = None
    if multihost.is_main():
      folder = self.model_dir / run_dir.TENSORBOARD
    writer = stack.enter_context(
      tensorboard.SummaryWriter(folder, self.log.info)
    )

    def render_test(
      info: checkpoints.CheckpointInfo, variables: base.Variables
    ) -> None:
      self._render_test(self.at(info, variables), writer)

    def render_video(
      info: checkpoints.CheckpointInfo, variables: base.Variables
    ) -> None:
      videos.render_path_video(
        self.at(info, variables),
        self.model_dir,
        say=lambda text: self.log.info(f'step {info.step}  {text}'),
        replace=True,
      )

    return steps.Outputs(
      checkpoints=existing,
      log=self.log,
      writer=writer,
      profile=progress.Profile(folder if profiled else None, self.log),
      validate=validation.make_validate(self.experiment, writer, self.log),
      render_test=render_test,
      render_video=render_video,
      watch=watch,
    )

  def at(
    self, info: checkpoints.CheckpointInfo, variables: base.Variables
  ) -> trained_run.TrainedRun:
    """Returns the run as it is at some step."""
    return trained_run.TrainedRun(
      experiment=self.experiment,
      variables=variables,
      checkpoint=info,
      settings=self.settings,
    )

  def _render_test(
    self, run: trained_run.TrainedRun, writer: tensorboard.SummaryWriter
  ) -> None:
    step = run.checkpoint.step
    folder = self.model_dir / f'{run_dir.VIEWS}_{step:07}'
    results, text = videos.score_test_views(run, folder, replace=True)
    means = scoring.mean_scores(results)
    writer.scalars(step, {f'test/{x}': y for x, y in means.items()})
    self.log.info(f'step {step}  test {text}')

  def score(
    self, run: trained_run.TrainedRun, writer: tensorboard.SummaryWriter
  ) -> dict[str, Any]:
    """Scores the test views of the finished run, and writes the results."""
    results = scoring.score_run(run, self.model_dir / run_dir.VIEWS)
    json_files.write_json(self.model_dir / run_dir.RESULTS, results)
    fields = dict(schema.flatten(run.config)) | {'seed': self.seed}
    writer.hyperparameters(fields, scoring.mean_scores(results))
    self.log.write(
      f'test PSNR {results["psnr"]} dB over {results["views"]} views'
    )
    return results


def describe_scene(
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> str:
  """Returns the splits with their sizes, and the notices before a run."""
  parts = []
  for name in ('train', 'val', 'test'):
    split = getattr(scene, name)
    sizes = video_cameras.describe_sizes(split.cameras)
    parts.append(f'{len(split.images)} {name} views of {sizes}')
  notices = schema.notices(config, _shown_background(scene))
  return '\n'.join(['; '.join(parts), *scene.notices, *notices])


def _shown_background(scene: scenes.Scene) -> backgrounds.Color | None:
  """Returns the constant background of most training photos, if any."""
  if scene.ndc is not None:
    return None  # What faces the cameras has no background.
  images = scene.train.images
  step = -(-len(images) // _MAX_PHOTOS)
  return backgrounds.of_photos(images[i] for i in range(0, len(images), step))

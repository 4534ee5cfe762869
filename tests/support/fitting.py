"""The training loop by itself: without scores, videos and a run's folder."""

import contextlib
import io
import pathlib
import time
from typing import NamedTuple

import ml_collections

from experiments.builders import experiment as experiment_lib
from experiments.builders import scene_loader
from experiments.trainer import progress, steps, tensorboard
from nerf_haiku import checkpoints, training


class Fitted(NamedTuple):
  """A model after its last step."""

  experiment: experiment_lib.Experiment
  state: training.TrainState
  metadata: steps.RunMetadata
  printed: str


def fit(
  config: ml_collections.ConfigDict,
  folder: pathlib.Path,
  *,
  seed: int = 0,
  validate=lambda variables, step: 0.0,
  render_video=lambda info, variables: None,
) -> Fitted:
  """Trains a config, with its checkpoints and its log in a folder."""
  log, printed = progress.Log(folder / 'log.txt'), io.StringIO()
  scene = scene_loader.load_scene(config, None)
  experiment = experiment_lib.make_experiment(config, scene)
  with (
    contextlib.redirect_stdout(printed),
    checkpoints.Checkpoints(folder / 'checkpoints') as existing,
    tensorboard.SummaryWriter(folder / 'tensorboard') as writer,
  ):
    outputs = steps.Outputs(
      checkpoints=existing,
      log=log,
      writer=writer,
      profile=progress.Profile(None, log),
      validate=validate,
      render_test=lambda info, variables: None,
      render_video=render_video,
    )
    state, metadata = steps.fit(
      experiment, outputs, seed=seed, start=time.perf_counter()
    )
  return Fitted(experiment, state, metadata, printed.getvalue())

"""A trained run, ready to render images from any camera."""

import hashlib
import os
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from experiments.builders import experiment as experiment_lib
from experiments.builders import inputs, model, scene_loader
from experiments.outputs import json_files, run_dir, stored_scene
from experiments.processes import multihost, signals
from nerf_haiku import (
  cameras,
  checkpoints,
  devices,
  errors,
  image_rendering,
  scenes,
  similarity,
)
from nerf_haiku.renderers import base


class TrainedRun(NamedTuple):
  """An experiment, and the variables of one of its checkpoints."""

  experiment: experiment_lib.Experiment
  variables: base.Variables  # replicated `[D, ...]`.
  checkpoint: checkpoints.CheckpointInfo
  settings: dict[str, Any]  # see `run_dir.run_settings`.

  @property
  def config(self) -> ml_collections.ConfigDict:
    """Returns the config in use."""
    return self.experiment.config

  @property
  def scene(self) -> scenes.Scene:
    """Returns the scene."""
    return self.experiment.scene

  def render(
    self,
    cameras_: cameras.Cameras,
    index: int,
    viewdir_camera: cameras.Cameras | None = None,
  ) -> image_rendering.RenderedImage:
    """Renders an image, see `image_rendering.make_render_image`."""
    signals.raise_if_interrupted()
    return self.experiment.render_image(
      self.variables, cameras_, index, viewdir_camera
    )

  def identity(self, path: cameras.Cameras) -> dict[str, Any]:
    """Returns what its images depend on, see `run_dir.prepare_output_dir`."""
    return json_files.to_json_types(
      {
        'steps': self.checkpoint.step,
        'seed_in_use': self.checkpoint.metadata['seed'],
        'init_from': self.settings['init_from'],
        'bounds': (self.scene.near, self.scene.far),
        'cameras': camera_fingerprint(
          similarity.move_cameras(self.scene.similarity, path)
        ),
        'config': self.settings['config'],
      }
    )


def load(
  config: ml_collections.ConfigDict,
  *,
  data_dir: str | None,
  model_dir: pathlib.Path,
  step: int | None = None,
  images: bool = True,
  path: bool = True,
) -> TrainedRun:
  """Reads a checkpoint of a run, and its scene.

  Without `images` and `data_dir` the scene is that kept with the run, if the
  config has not changed it; the data set need not be there.

  Args:
    config: one that `schema.check` has passed: that of the run, or one with
      other settings of rendering.
    data_dir: root of the data set's layout; None: that of the run.
    model_dir: the folder of the run.
    step: of the checkpoint; None: the newest.
    images: whether the photographs are needed.
    path: whether the scene's own path is needed.

  Raises:
    UserError: if there is no such run or checkpoint, it is of other networks,
      or the data cannot be used.
  """
  existing = multihost.run_on_main(lambda: _read_settings(model_dir))
  is_given = data_dir is not None
  data_dir = data_dir or existing['data_dir']
  config = scene_loader.resolve(config, data_dir)
  settings = run_dir.run_settings(
    config,
    seed=existing['seed'],
    data_dir=data_dir,
    init_from=existing['init_from'],
  )
  scene = None
  is_stored = stored_scene.fits(config, existing['config'], path=path)
  if is_stored and not (images or is_given or multihost.is_multihost()):
    scene = stored_scene.read(model_dir)
  if scene is None:
    scene = _load_scene(config, data_dir, existing['data_dir'])
  settings[run_dir.DIGEST] = scene.train.digest
  settings[run_dir.DRAWN_ON] = existing.get(run_dir.DRAWN_ON, inputs.HOST)
  # Nothing is drawn: the photographs may not have been read.
  experiment = experiment_lib.make_experiment(
    config, scene, drawn_on=inputs.HOST
  )
  renderer = experiment.renderer
  variables, checkpoint = multihost.run_on_main(
    lambda: read_variables(renderer, model_dir, step),
    like=(_variable_shapes(renderer), checkpoints.CheckpointInfo),
  )
  return TrainedRun(
    experiment=experiment,
    variables=devices.replicate(variables),
    checkpoint=checkpoint,
    settings=settings,
  )


def _load_scene(
  config: ml_collections.ConfigDict, data_dir: str | None, stored: str | None
) -> scenes.Scene:
  """Loads the scene; an error says whose folder it is that is not there."""
  try:
    return scene_loader.load_scene(config, data_dir)
  except errors.DataError as error:
    if data_dir != stored or os.path.exists(data_dir or ''):
      raise
    raise errors.UserError(
      f'{error} The run was trained with this folder: if the data are '
      'elsewhere now, name the place with --data_dir.'
    ) from error


def _read_settings(model_dir: pathlib.Path) -> dict[str, Any]:
  if not os.path.exists(model_dir / run_dir.CONFIG):
    raise errors.UserError(
      f'--model_dir: {model_dir} holds no run: it has no {run_dir.CONFIG}.'
    )
  return json_files.read_json(
    model_dir / run_dir.CONFIG, 'seed', 'data_dir', 'init_from', 'config'
  )


def read_variables(
  renderer: model.Renderer, model_dir: pathlib.Path, step: int | None = None
) -> tuple[base.Variables, checkpoints.CheckpointInfo]:
  """Reads the variables of a checkpoint of a run, host arrays.

  Raises:
    UserError: if there are none, or they are of other networks.
  """
  template = _variable_shapes(renderer)
  path = model_dir / run_dir.CHECKPOINTS
  try:
    with checkpoints.Checkpoints(path, _warn) as existing:
      return existing.read(template, step)
  except FileNotFoundError as error:
    raise errors.UserError(str(error)) from error


def _variable_shapes(renderer: model.Renderer) -> base.Variables:
  return jax.eval_shape(renderer.init, jax.random.key(0))


def _warn(text: str) -> None:
  print(text, file=sys.stderr)


def camera_fingerprint(cameras_: cameras.Cameras) -> str:
  """Returns a hash that differs between cameras."""
  digest = hashlib.sha256()
  pose = np.asarray(cameras_.camera_to_world, np.float32)
  for array in jax.tree.leaves(cameras_._replace(camera_to_world=pose)):
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()[:16]

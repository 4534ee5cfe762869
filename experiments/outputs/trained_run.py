"""A trained run, ready to draw from any camera."""

import hashlib
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from experiments.builders import model, scene_loader
from experiments.outputs import json_files, run_dir
from experiments.processes import multihost
from nerf_haiku import (
  cameras,
  checkpoints,
  devices,
  errors,
  image_rendering,
  scenes,
)
from nerf_haiku.renderers import hierarchical


class TrainedRun(NamedTuple):
  """A scene, and what was learnt of it after some steps."""

  config: ml_collections.ConfigDict
  scene: scenes.Scene
  learnt: Any  # `renderers.Learnt`, replicated `[D, ...]`.
  render: Callable[
    ..., image_rendering.RenderedImage
  ]  # see `build.render_view`.
  kept: checkpoints.CheckpointInfo  # step, and what is known of it.
  settings: dict[str, Any]  # in use, see `folder.describe`.

  def identity(self, taken: cameras.Cameras) -> dict[str, Any]:
    """What its pictures depend on, see `folder.claim_output`."""
    return json_files.to_json_types(
      {
        'steps': self.kept.step,
        'seed_in_use': self.kept.about['seed'],
        'init_from': self.settings['init_from'],
        'bounds': (self.scene.near, self.scene.far),
        'cameras': camera_fingerprint(taken),
        'config': self.settings['config'],
      }
    )


def load(
  config: ml_collections.ConfigDict,
  *,
  data_dir: str | None,
  model_dir: pathlib.Path,
  step: int | None = None,
) -> TrainedRun:
  """Reads a kept state of a run, and its scene.

  Args:
    config: one that `config.check` has passed; that of the run, or with changes
      of what is rendered.
    data_dir: root of the data set's layout; None: where the run had it.
    model_dir: the folder of the run.
    step: of the state; None: the newest.

  Raises:
    ValueError: if there is no such run or state, it is of other networks, or
      the data cannot be used.
  """
  there = multihost.run_on_main(lambda: _read_settings(model_dir))
  data_dir = data_dir or there['data_dir']
  settings = run_dir.run_settings(
    config, seed=there['seed'], data_dir=data_dir, init_from=there['init_from']
  )
  scene = scene_loader.load_scene(config, data_dir)
  renderer = model.make_renderer(config, scene)
  learnt, kept = multihost.run_on_main(
    lambda: read_variables(renderer, model_dir, step),
    like=(_variable_shapes(renderer), checkpoints.CheckpointInfo),
  )
  render = model.make_render_view(config, scene, renderer)
  return TrainedRun(
    config, scene, devices.replicate(learnt), render, kept, settings
  )


def _read_settings(model_dir: pathlib.Path) -> dict[str, Any]:
  if not (model_dir / run_dir.CONFIG).exists():
    raise errors.UserError(
      f'--model_dir: {model_dir} holds no run: there is no {run_dir.CONFIG}.'
    )
  return json_files.read_json(
    model_dir / run_dir.CONFIG, 'seed', 'data_dir', 'init_from'
  )


def read_variables(
  renderer: hierarchical.Renderer,
  model_dir: pathlib.Path,
  step: int | None = None,
) -> tuple[hierarchical.Learnt, checkpoints.CheckpointInfo]:
  """Reads what a run has learnt, host arrays.

  Raises:
    ValueError: if there are none, or of other networks.
  """
  template = _variable_shapes(renderer)
  try:
    path = model_dir / run_dir.CHECKPOINTS
    with checkpoints.Checkpoints(path, _warn) as kept:
      return kept.read(template, step)
  except FileNotFoundError as error:
    raise errors.UserError(str(error)) from error


def _variable_shapes(renderer: hierarchical.Renderer) -> hierarchical.Learnt:
  return jax.eval_shape(
    lambda key: hierarchical.Learnt(renderer.init(key), renderer.remember()),
    jax.random.key(0),
  )


def _warn(text: str) -> None:
  print(text, file=sys.stderr)


def camera_fingerprint(taken: cameras.Cameras) -> str:
  """Tells cameras from others."""
  digest = hashlib.sha256()
  for array in taken:
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()[:16]

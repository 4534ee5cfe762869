"""A trained run, ready to draw from any camera."""

import hashlib
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from experiments import build, folder, json_files, processes, scenes
from nerf_haiku import cameras, checkpoints, devices, evaluation, renderers
from nerf_haiku.datasets import base


class Run(NamedTuple):
  """A scene, and what was learnt of it after some steps."""

  config: ml_collections.ConfigDict
  scene: base.Scene
  learnt: Any  # `renderers.Learnt`, replicated `[D, ...]`.
  render: Callable[..., evaluation.View]  # see `build.render_view`.
  kept: checkpoints.Kept  # step, and what is known of it.
  settings: dict[str, Any]  # in use, see `folder.describe`.

  def identity(self, taken: cameras.Cameras) -> dict[str, Any]:
    """What its pictures depend on, see `folder.claim_output`."""
    return json_files.plain({
      'steps': self.kept.step,
      'seed_in_use': self.kept.about['seed'],
      'init_from': self.settings['init_from'],
      'bounds': (self.scene.near, self.scene.far),
      'cameras': fingerprint(taken),
      'config': self.settings['config'],
    })  # fmt: skip


def load(
  config: ml_collections.ConfigDict,
  *,
  data_dir: str | None,
  model_dir: pathlib.Path,
  step: int | None = None,
) -> Run:
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
  there = processes.once(lambda: _read_settings(model_dir))
  data_dir = data_dir or there['data_dir']
  settings = folder.describe(
    config, seed=there['seed'], data_dir=data_dir, init_from=there['init_from']
  )
  scene = scenes.load(config, data_dir)
  renderer = build.renderer(config, scene)
  learnt, kept = processes.once(lambda: read_learnt(renderer, model_dir, step))
  render = build.render_view(config, scene, renderer)
  return Run(config, scene, devices.replicate(learnt), render, kept, settings)


def _read_settings(model_dir: pathlib.Path) -> dict[str, Any]:
  if not (model_dir / folder.CONFIG).exists():
    raise ValueError(
      f'--model_dir: {model_dir} holds no run: there is no {folder.CONFIG}.'
    )
  return json_files.read_json(
    model_dir / folder.CONFIG, 'seed', 'data_dir', 'init_from'
  )


def read_learnt(
  renderer: renderers.Renderer, model_dir: pathlib.Path, step: int | None = None
) -> tuple[renderers.Learnt, checkpoints.Kept]:
  """Reads what a run has learnt, host arrays.

  Raises:
    ValueError: if there are none, or of other networks.
  """
  template = jax.eval_shape(
    lambda key: renderers.Learnt(renderer.init(key), renderer.remember()),
    jax.random.key(0),
  )
  try:
    path = model_dir / folder.CHECKPOINTS
    with checkpoints.Checkpoints(path, _warn) as kept:
      return kept.read(template, step)
  except FileNotFoundError as error:
    raise ValueError(str(error)) from error


def _warn(text: str) -> None:
  print(text, file=sys.stderr)


def fingerprint(taken: cameras.Cameras) -> str:
  """Tells cameras from others."""
  digest = hashlib.sha256()
  for array in taken:
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()[:16]

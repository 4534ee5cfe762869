"""Builds what refines cameras, where a config asks for it."""

import dataclasses
from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from experiments.builders import model
from nerf_haiku import (
  camera_refinement,
  cameras,
  pose_alignment,
  scenes,
  similarity,
  training,
)
from nerf_haiku.renderers import base, occupancy

# Of the alignment of a test view.
_NUM_STEPS, _NUM_RAYS, _LEARNING_RATE = 200, 512, 1e-3
_MAX_SAMPLES = 8192  # Of these rays together.


def init_params(
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> hk.Params:
  """Returns the parameters of the training cameras before the first step."""
  count = len(scene.train.cameras.sizes)
  return camera_refinement.init(count, focal=config.refinement.focal)


def make_optimizer(
  config: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """Returns the optimizer of these parameters.

  Args:
    config: the config.
    schedule: a learning rate that begins with `refinement.learning_rate`; here
      it rises from 0, as at first there is nothing to compare photos with.
  """
  steps = max(config.refinement.warmup_steps, 1)

  def delayed(step: jax.typing.ArrayLike) -> jax.Array:
    return schedule(step) * jnp.minimum(1.0, step / steps) ** 2

  # The more cameras share a batch, the smaller is the gradient of each.
  return optax.adam(delayed, eps=1e-15)


def make_cast_fn(
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> training.RefinedCastFn:
  """Returns what casts training rays of the world from corrected cameras."""
  cast_fn = model.make_cast_fn(config, scene)
  cams = model.cameras_of_training(config, scene)
  correct = _make_correct(config, scene)

  def cast(
    params: hk.Params, camera: jax.Array, pixel: jax.Array
  ) -> cameras.Rays:
    return cast_fn(correct(cams, params), camera, pixel)

  return cast


def refined_cameras(
  config: ml_collections.ConfigDict, scene: scenes.Scene, params: hk.Params
) -> cameras.Cameras:
  """Returns the corrected training cameras of the scene."""
  corrected = _make_correct(config, scene)(scene.train.cameras, params)
  return cameras.Cameras(*jax.tree.map(np.asarray, corrected))


def _make_correct(
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> Callable[[cameras.Cameras, hk.Params], cameras.Cameras]:
  """Returns what corrects training cameras, moved to the field's or not."""
  factors = _preconditioners(config, scene, scene.train.cameras)
  gauge = camera_refinement.make_gauge(scene.train.cameras, factors)

  def correct(cams: cameras.Cameras, params: hk.Params) -> cameras.Cameras:
    fixed = camera_refinement.fix_gauge(params, gauge)
    return camera_refinement.correct(cams, factors, fixed)

  return correct


def make_align(
  config: ml_collections.ConfigDict,
  scene: scenes.Scene,
  renderer: model.Renderer,
) -> Callable[..., cameras.Cameras]:
  """Builds a function that fits the pose of a test view to its photograph.

  Returns:
    A function of variables (of one device), the view's index, its colors
    `[H, W, 3]` in [0, 1], and which pixels `[H, W]` count (None: all). It
    returns the view's camera, corrected.
  """
  align = pose_alignment.make_align(
    _with_few_samples(renderer),
    model.make_cast_fn(config, scene),
    ndc=scene.ndc,
    num_steps=_NUM_STEPS,
    num_rays=_NUM_RAYS,
    learning_rate=_LEARNING_RATE,
  )
  factors = _preconditioners(config, scene, scene.test.cameras)

  def align_test_view(
    variables: base.Variables,
    index: int,
    rgb: np.ndarray,
    mask: np.ndarray | None = None,
  ) -> cameras.Cameras:
    one = slice(index, index + 1)
    camera = cameras.take(scene.test.cameras, one)
    view = pose_alignment.View(
      camera=similarity.move_cameras(scene.similarity, camera),
      preconditioners=factors[one],
      rgb=rgb.astype(np.float32),
      mask=mask,
    )
    params = align(variables, view, jax.random.key(index))
    corrected = camera_refinement.correct(camera, factors[one], params)
    return cameras.Cameras(*jax.tree.map(np.asarray, corrected))

  return align_test_view


def _with_few_samples(renderer: model.Renderer) -> model.Renderer:
  """Returns a renderer whose queries have the size that few rays need."""
  if not isinstance(renderer, occupancy.OccupancyRenderer):
    return renderer
  settings = renderer.settings
  least = max(_MAX_SAMPLES, settings.num_positions())
  settings = settings._replace(max_samples=min(settings.max_samples, least))
  return dataclasses.replace(renderer, settings=settings)


def _preconditioners(
  config: ml_collections.ConfigDict, scene: scenes.Scene, cams: cameras.Cameras
) -> np.ndarray:
  # One camera alone has no target.
  together = cameras.concatenate([scene.train.cameras, cams])
  depths = camera_refinement.typical_depths(together, scene.near, scene.far)
  return camera_refinement.make_preconditioners(
    cams, depths[-len(cams.sizes) :], focal=config.refinement.focal
  )

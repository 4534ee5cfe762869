"""Builds the optimizer and the update of a config."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from experiments.builders import model, refinement
from experiments.configs import schema
from nerf_haiku import (
  camera_refinement,
  cameras,
  devices,
  exposure,
  models,
  records,
  scenes,
  training,
)
from nerf_haiku.renderers import base

# (state, data, key) -> (state, scalars), see `training.make_update`.
Update = Callable[..., Any]

# A step of the paper's network takes 2.66 GB for 1024 rays of 192 samples, 256
# activations wide, as compiled for an H100; in bfloat16 half of it.
_BYTES_PER_ACTIVATION = 56
_ASSUMED_BYTES = 8 << 30  # Of a device that does not say what it has.

_NETWORKS = 'networks'  # Their parameters, for the optimizer.


def make_schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
  """Returns the learning rate of the networks as a function of the step."""
  return _schedule(config, config.learning_rate)


def _schedule(config: ml_collections.ConfigDict, peak: float) -> optax.Schedule:
  is_cosine = config.lr_schedule == 'cosine'
  is_constant = config.lr_schedule == 'constant'
  return training.learning_rate_schedule(
    peak,
    decay_factor=1.0 if is_constant else config.decay_factor,
    decay_steps=config.num_steps if is_cosine else config.lr_decay * 1000,
    warmup_steps=config.lr_warmup,
    cosine=is_cosine,
  )


def make_optimizer(
  config: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """Returns Adam, after gradient clipping where the config asks for it.

  Parameters of the training images have an Adam of their own.

  Args:
    config: the config.
    schedule: the learning rate of the networks.
  """
  networks = optax.adam(schedule, b2=config.adam_b2, eps=config.adam_eps)
  if config.grad_max_norm:
    clip = optax.clip_by_global_norm(config.grad_max_norm)
    networks = optax.chain(clip, networks)
  others = {}
  if config.exposure:
    rate = _schedule(config, config.exposure_learning_rate)
    others[exposure.NAME] = optax.adam(rate)
  if config.refine_cameras:
    rate = _schedule(config, config.refinement.learning_rate)
    others[camera_refinement.NAME] = refinement.make_optimizer(config, rate)
  if not others:
    return networks
  return optax.partition(
    {_NETWORKS: networks, **others},
    lambda params: {
      name: name if name in training.IMAGE_PARAMS else _NETWORKS
      for name in params
    },
  )


def init_image_params(
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> base.Params:
  """Returns the first parameters of the training images, by their names."""
  params = {}
  if config.exposure:
    params[exposure.NAME] = exposure.init(len(scene.train.images))
  if config.refine_cameras:
    params[camera_refinement.NAME] = refinement.init_params(config, scene)
  return params


def make_update(
  config: ml_collections.ConfigDict,
  scene: scenes.Scene,
  renderer: model.Renderer,
  optimizer: optax.GradientTransformation,
  *,
  feed: training.Feed,
  num_steps: int = 1,
) -> Update:
  """Makes the pmapped update, see `training.make_update`.

  Args:
    config: the config.
    scene: of the cameras.
    renderer: of the config.
    optimizer: of all parameters.
    feed: makes batches of data.
    num_steps: steps of a call.
  """
  train_cameras = jax.tree.map(
    np.asarray, model.cameras_of_training(config, scene)
  )
  cast_fn = model.make_cast_fn(config, scene)

  def convert(rays: cameras.Rays) -> cameras.Rays:
    return rays if scene.ndc is None else cameras.to_ndc(rays, scene.ndc)

  def cast_training(camera: jax.Array, pixel: jax.Array) -> cameras.Rays:
    return convert(cast_fn(train_cameras, camera, pixel))

  cast_refined = None
  if config.refine_cameras:
    refined_cast_fn = refinement.make_cast_fn(config, scene)

    def cast_refined(*args: Any) -> cameras.Rays:
      return convert(refined_cast_fn(*args))

  microbatch = config.microbatch
  # A renderer with a budget of samples bounds its activations by itself.
  if not microbatch and renderer.max_samples is None:
    microbatch = records.rays_that_fit(
      model.make_record(config, scene), _activations_that_fit()
    )
  return training.make_update(
    renderer,
    optimizer,
    cast_training,
    feed=feed,
    num_steps=num_steps,
    microbatch=microbatch,
    skip_nonfinite=config.skip_nonfinite,
    batch_warmup_steps=config.batch_warmup_steps,
    random_background=config.random_background,
    background=schema.background(config),
    distortion_weight=config.distortion_loss_weight,
    refined_cast_fn=cast_refined,
    interlevel_weight=config.proposal.loss_weight,
    rays_per_side=config.train_rays_per_side,
  )


def _activations_that_fit() -> int:
  """Returns the activations of a layer that a piece of a step may have."""
  if devices.are_cpus():
    return models.CACHED_ACTIVATIONS
  memory = devices.memory()
  limit = memory.limit if memory else _ASSUMED_BYTES
  return limit // (2 * _BYTES_PER_ACTIVATION)


def compile_ahead(
  update: Any, state: training.TrainState, data: Any
) -> concurrent.futures.Future[Update]:
  """Compiles an update in a thread of its own.

  Args:
    update: as from `make_update`.
    state: the shapes of one replica.
    data: the shapes of what it reads, see `inputs.shapes`.

  Returns:
    The future of a function of the same arguments.
  """
  count = jax.local_device_count()
  replicated = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), state
  )

  def compile_update() -> Update:
    if jax.process_count() > 1:
      return update  # Of several processes pmap compiles at its first call.
    return update.lower(replicated, data, jax.random.key(0)).compile()

  pool = concurrent.futures.ThreadPoolExecutor(1)
  future = pool.submit(compile_update)
  pool.shutdown(wait=False)
  return future

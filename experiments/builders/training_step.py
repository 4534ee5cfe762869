"""Builds the optimizer, the update and the batches of a config."""

import concurrent.futures
from collections.abc import Callable, Iterator
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
  similarity,
  training,
)
from nerf_haiku.datasets import batches
from nerf_haiku.renderers import base

# (state, batch, key) -> (state, scalars), see `training.make_update`.
Update = Callable[..., Any]

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
) -> Update:
  """Makes the pmapped update step, see `training.make_update`."""
  train_cameras = jax.tree.map(
    np.asarray, similarity.move_cameras(scene.similarity, scene.train.cameras)
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
  if not microbatch and devices.are_cpus() and renderer.max_samples is None:
    microbatch = records.rays_that_fit(
      model.make_record(config, scene), models.CACHED_ACTIVATIONS
    )
  return training.make_update(
    renderer,
    optimizer,
    cast_training,
    microbatch=microbatch,
    skip_nonfinite=config.skip_nonfinite,
    batch_warmup_steps=config.batch_warmup_steps,
    random_background=config.random_background,
    background=schema.background(config),
    distortion_weight=config.distortion_loss_weight,
    refined_cast_fn=cast_refined,
    interlevel_weight=config.proposal.loss_weight,
  )


def make_batches(
  config: ml_collections.ConfigDict,
  scene: scenes.Scene,
  *,
  seed: int,
  start_step: int,
  num_steps: int,
) -> Iterator[scenes.Batch]:
  """Yields this process's batches of some steps, see `batches.make_batches`."""
  return batches.make_batches(
    scene.train.images,
    seed=seed,
    start_step=start_step,
    num_steps=num_steps,
    num_rays=config.num_rand,
    batching=config.batching,
    precrop_iters=config.precrop_iters,
    precrop_frac=config.precrop_frac,
    background=schema.background(config),
    process=jax.process_index(),
    num_processes=jax.process_count(),
    with_alpha=config.random_background,
    masks=scene.train.masks,
  )


def compile_ahead(
  update: Any, state: training.TrainState, *, num_rays: int, with_alpha: bool
) -> concurrent.futures.Future[Update]:
  """Compiles an update in a thread of its own.

  Args:
    update: as from `make_update`.
    state: the shapes of one replica.
    num_rays: rays of a batch, on all devices together.
    with_alpha: whether batches have the true opacity.

  Returns:
    The future of a function of the same arguments.
  """
  count = jax.local_device_count()
  rays = (count, num_rays // jax.device_count())
  shapes: dict[str, Any] = {
    'camera': jax.ShapeDtypeStruct(rays, np.int32),
    'pixel': jax.ShapeDtypeStruct((*rays, 2), np.int32),
    'rgb': jax.ShapeDtypeStruct((*rays, 3), np.float32),
  }
  if with_alpha:
    shapes['alpha'] = jax.ShapeDtypeStruct(rays, np.float32)
  batch = scenes.Batch(**shapes)
  replicated = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), state
  )

  def compile_update() -> Update:
    if jax.process_count() > 1:
      return update  # Of several processes pmap compiles at its first call.
    return update.lower(replicated, batch, jax.random.key(0)).compile()

  pool = concurrent.futures.ThreadPoolExecutor(1)
  future = pool.submit(compile_update)
  pool.shutdown(wait=False)
  return future

"""From a config to the optimizer, the update and its batches."""

import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from experiments.builders import model
from nerf_haiku import cameras, scenes, training
from nerf_haiku.datasets import batches as batches_lib
from nerf_haiku.renderers import hierarchical


def make_schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
  """The learning rate of each step."""
  constant = config.lr_schedule == 'constant'
  cosine = config.lr_schedule == 'cosine'
  return training.learning_rate_schedule(
    config.learning_rate,
    decay_factor=1.0 if constant else config.decay_factor,
    decay_steps=config.num_steps if cosine else config.lr_decay * 1000,
    warmup_steps=config.lr_warmup,
    cosine=cosine,
  )


def make_optimizer(
  config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """Adam at the config's learning rate, with clipped gradients if it says."""
  adam = optax.adam(
    make_schedule(config), b2=config.adam_b2, eps=config.adam_eps
  )
  if not config.grad_max_norm:
    return adam
  return optax.chain(optax.clip_by_global_norm(config.grad_max_norm), adam)


def make_update(
  config: ml_collections.ConfigDict,
  scene_: scenes.Scene,
  renderer_: hierarchical.Renderer,
) -> Callable[..., Any]:
  """The pmapped update step, see `training.make_update`."""
  views = jax.tree.map(np.asarray, scene_.train.cameras)
  cast = model.make_cast_fn(config, scene_)

  def cast_training(camera, pixel):
    rays = cast(views, camera, pixel)
    return rays if scene_.ndc is None else cameras.to_ndc(rays, scene_.ndc)

  auto = 0
  if (
    model.on_cpu() and config.renderer != 'occupancy'
  ):  # That has its own budget.
    auto = model.rays_that_fit(config, model.CACHED_ACTIVATIONS)
  return training.make_update(
    renderer_,
    make_optimizer(config),
    cast_training,
    microbatch=config.microbatch or auto,
    skip_nonfinite=config.skip_nonfinite,
    batch_growth=config.batch_growth,
    random_background=config.random_background,
    white_background=config.white_bkgd,
    distortion=config.distortion,
  )


def make_batches(
  config: ml_collections.ConfigDict,
  scene_: scenes.Scene,
  *,
  seed: int,
  start_step: int,
  num_steps: int,
) -> Iterator[scenes.Batch]:
  """The batches of some steps, see `batches.batches`."""
  return batches_lib.make_batches(
    scene_.train.images,
    seed=seed,
    start_step=start_step,
    num_steps=num_steps,
    num_rays=config.num_rand,
    batching=config.batching,
    precrop_iters=config.precrop_iters,
    precrop_frac=config.precrop_frac,
    white_background=config.white_bkgd,
    process=jax.process_index(),
    num_processes=jax.process_count(),
    with_alpha=config.random_background,
  )


def compile_ahead(
  update_: Any, config: ml_collections.ConfigDict, state: training.TrainState
) -> concurrent.futures.Future:
  """Compiles an update in a thread of its own.

  Args:
    update_: as from `make_update`.
    config: of the run.
    state: the shapes of one replica.

  Returns:
    The future of a function of the same arguments.
  """
  count = jax.local_device_count()

  def on_devices(x):
    return jax.ShapeDtypeStruct((count, *x.shape), x.dtype)

  rays = (count, config.num_rand // jax.device_count())
  shape: Any = jax.ShapeDtypeStruct  # In place of the arrays.
  batch = scenes.Batch(
    shape(rays, np.int32),
    shape((*rays, 2), np.int32),
    shape((*rays, 3), np.float32),
    shape(rays, np.float32) if config.random_background else None,
  )
  shapes = jax.tree.map(on_devices, state), batch, jax.random.key(0)
  pool = concurrent.futures.ThreadPoolExecutor(1)

  def compiled():
    # Of many processes, pmap compiles no shapes: at the first step then.
    alone = jax.process_count() == 1
    return update_.lower(*shapes).compile() if alone else update_

  future = pool.submit(compiled)
  pool.shutdown(wait=False)
  return future

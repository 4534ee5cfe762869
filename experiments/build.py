"""From a config to the library's objects."""

import concurrent.futures
import functools
from collections.abc import Callable, Iterator
from typing import Any

import haiku as hk
import jax
import ml_collections
import numpy as np
import optax

from experiments import processes
from nerf_haiku import (
  cameras,
  encodings,
  evaluation,
  extent,
  fields,
  marching,
  renderers,
  training,
)
from nerf_haiku.datasets import base
from nerf_haiku.datasets import batches as batches_lib

# Activations of a layer that stay in a CPU's cache: a sweep over pieces had
# its best near this for networks 64 to 256 wide.
_CACHED_ACTIVATIONS = 3 << 18
# Activations of a layer when an accelerator renders: 0.5 GB.
_RENDERED_ACTIVATIONS = 1 << 27
# Cells of the occupancy grid along a side: the fewest and the most.
_GRID_SIDES = (32, 128)


def renderer(
  config: ml_collections.ConfigDict, scene_: base.Scene
) -> renderers.Renderer:
  """The fields of a config, and the way they are rendered.

  Raises:
    ValueError: if a ray may have more samples than the budget.
  """
  settings = {
    'perturb': config.perturb,
    'raw_noise_std': config.raw_noise_std,
    'density_activation': config.density_activation,
    'infinite_end': config.last_interval == 'infinite',
    'white_background': config.white_bkgd,
  }
  if config.renderer == 'occupancy':
    return marching.make_occupancy(
      _field(config, config.model, scene_), march(config, scene_), **settings
    )
  fine = None
  if config.num_importance:
    fine = _field(config, config.model_fine, scene_)
  return renderers.make_hierarchical(
    _field(config, config.model, scene_),
    fine,
    num_samples=config.num_samples,
    num_importance=config.num_importance,
    lindisp=config.llff.lindisp,
    **settings,
  )


def _field(
  config: ml_collections.ConfigDict,
  model: ml_collections.ConfigDict,
  scene_: base.Scene,
) -> hk.Transformed:
  """A field; `model` has the layers of the paper's network."""
  shared = {'use_viewdirs': config.use_viewdirs, 'dtype': config.dtype}
  if config.field == 'hash':
    span = extent.of_scene(scene_)
    sections = dict(config.hash)
    sections['finest'] = config.hash.finest or _finest(config, span)
    return fields.make_hash(
      box=span.box, remat=config.remat, **shared, **sections
    )
  return fields.make_mlp(
    encode_position=encoding(config, config.emb.multires),
    encode_direction=encoding(config, config.emb.multires_views),
    remat=config.remat,
    **shared,
    **model,
  )


def _finest(config: ml_collections.ConfigDict, span: extent.Extent) -> int:
  """Cells along a side of the box that are as wide as a pixel."""
  cells = float(np.max(span.box[1] - span.box[0])) / span.pixel
  return max(config.hash.coarsest, round(cells))


def march(
  config: ml_collections.ConfigDict, scene_: base.Scene
) -> marching.Settings:
  """How the occupancy renderer marches: as the config says, or the data.

  Raises:
    ValueError: if a ray may have more samples than the budget.
  """
  span, section = extent.of_scene(scene_), config.occupancy
  step = section.step or span.pixel
  side = float(np.max(span.box[1] - span.box[0]))
  low, high = _GRID_SIDES
  cells = min(max(round(side / step / 2 / low) * low, low), high)
  settings = marching.Settings(
    span.box,
    section.resolution or cells,
    step,
    section.budget,
    section.threshold,
    section.decay,
    section.every,
    section.warmup,
  )
  if settings.num_positions() > settings.budget:
    raise ValueError(
      f'config.occupancy.budget: got {settings.budget}; allowed: '
      f'{settings.num_positions()} or more, the positions of the longest ray '
      f'through the box in steps of {step:.4g} (config.occupancy.step).'
    )
  return settings


def encoding(
  config: ml_collections.ConfigDict, num_octaves: int
) -> fields.Encoding:
  """How a position or direction is encoded, with so many octaves."""
  if not config.emb.use_embed:
    return lambda x: x
  return functools.partial(
    encodings.positional,
    num_octaves=num_octaves,
    periodic_fns=config.emb.periodic_fns,
    log_sampling=config.emb.log_sampling,
    include_input=config.emb.include_input,
  )


def learning_rate(config: ml_collections.ConfigDict) -> optax.Schedule:
  """The learning rate of each step."""
  constant = config.lr_schedule == 'constant'
  cosine = config.lr_schedule == 'cosine'
  return training.learning_rate(
    config.learning_rate,
    decay_factor=1.0 if constant else config.decay_factor,
    decay_steps=config.num_steps if cosine else config.lr_decay * 1000,
    warmup_steps=config.lr_warmup,
    cosine=cosine,
  )


def optimizer(
  config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """Adam at the config's learning rate, with clipped gradients if it says."""
  adam = optax.adam(
    learning_rate(config), b2=config.adam_b2, eps=config.adam_eps
  )
  if not config.grad_max_norm:
    return adam
  return optax.chain(optax.clip_by_global_norm(config.grad_max_norm), adam)


def cast_fn(
  config: ml_collections.ConfigDict, scene_: base.Scene
) -> Callable[..., cameras.Rays]:
  """`cast_fn(cameras, camera, pixel)`, rays of the world of a scene."""
  return functools.partial(
    cameras.cast,
    near=scene_.near,
    far=scene_.far,
    box=scene_.box,
    pixel_center=config.pixel_center,
  )


def update(
  config: ml_collections.ConfigDict,
  scene_: base.Scene,
  renderer_: renderers.Renderer,
) -> Callable[..., Any]:
  """The pmapped update step, see `training.make_update`."""
  views = jax.tree.map(np.asarray, scene_.train.cameras)
  cast = cast_fn(config, scene_)

  def cast_training(camera, pixel):
    rays = cast(views, camera, pixel)
    return rays if scene_.ndc is None else cameras.to_ndc(rays, scene_.ndc)

  auto = 0
  if _on_cpu() and config.renderer != 'occupancy':  # That has its own budget.
    auto = _rays(config, _CACHED_ACTIVATIONS)
  return training.make_update(
    renderer_,
    optimizer(config),
    cast_training,
    microbatch=config.microbatch or auto,
    skip_nonfinite=config.skip_nonfinite,
    batch_growth=config.batch_growth,
    random_background=config.random_background,
    white_background=config.white_bkgd,
    distortion=config.distortion,
  )


def batches(
  config: ml_collections.ConfigDict,
  scene_: base.Scene,
  *,
  seed: int,
  start_step: int,
  num_steps: int,
) -> Iterator[training.Batch]:
  """The batches of some steps, see `batches.batches`."""
  return batches_lib.batches(
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
    update_: as from `update`.
    config: of the run.
    state: the shapes of one replica.

  Returns:
    The future of a function of the same arguments.
  """
  count = jax.local_device_count()

  def on_devices(x):
    return jax.ShapeDtypeStruct((count, *x.shape), x.dtype)

  rays = (count, config.num_rand // jax.device_count())
  batch = training.Batch(
    jax.ShapeDtypeStruct(rays, np.int32),
    jax.ShapeDtypeStruct((*rays, 2), np.int32),
    jax.ShapeDtypeStruct((*rays, 3), np.float32),
    jax.ShapeDtypeStruct(rays, np.float32)
    if config.random_background else None,
  )  # fmt: skip
  shapes = jax.tree.map(on_devices, state), batch, jax.random.key(0)
  pool = concurrent.futures.ThreadPoolExecutor(1)

  def compiled():
    # Of many processes, pmap compiles no shapes: at the first step then.
    alone = jax.process_count() == 1
    return update_.lower(*shapes).compile() if alone else update_

  future = pool.submit(compiled)
  pool.shutdown(wait=False)
  return future


def render_view(
  config: ml_collections.ConfigDict,
  scene_: base.Scene,
  renderer_: renderers.Renderer,
  *,
  network: int = -1,
) -> Callable[..., evaluation.View]:
  """Renders whole images, see `evaluation.make_render_view`.

  With many processes it is called on process 0, in `processes.once`.
  """
  kept = _CACHED_ACTIVATIONS if _on_cpu() else _RENDERED_ACTIVATIONS
  render = evaluation.make_render_view(
    renderer_,
    cast_fn(config, scene_),
    chunk=config.chunk,
    piece=config.microbatch or _rays(config, kept),
    ndc=scene_.ndc,
    network=network,
  )
  return processes.shared(render)


def _on_cpu() -> bool:
  return jax.default_backend() == 'cpu'


def _rays(config: ml_collections.ConfigDict, activations: int) -> int:
  """Rays whose activations of one layer are so many."""
  if config.renderer == 'occupancy':
    return max(1, config.occupancy.budget // 2)
  width = config.model.net_width
  if config.num_importance:
    width = max(width, config.model_fine.net_width)
  if config.field == 'hash':
    width = config.hash.colour_width
  samples = config.num_samples + config.num_importance
  return max(1, activations // (width * samples))

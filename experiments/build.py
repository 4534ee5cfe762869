"""From a config to the library's objects."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import haiku as hk
import jax
import ml_collections
import numpy as np
import optax

from nerf_haiku import (
  cameras,
  encodings,
  evaluation,
  fields,
  renderers,
  training,
)
from nerf_haiku.datasets import (
  base,
  blender,
  deepvoxels,
  llff,
  procedural,
  tiny,
)
from nerf_haiku.datasets import batches as batches_lib

# Activations of a layer that stay in a CPU's cache: a sweep over pieces had
# its best near this for networks 64 to 256 wide.
_CACHED_ACTIVATIONS = 3 << 18
# Activations of a layer when an accelerator renders: 0.5 GB.
_RENDERED_ACTIVATIONS = 1 << 27
# Near and far of the NeRF-synthetic scenes, and of the built-in one.
_BOUNDS = (2.0, 6.0)


def scene(
  config: ml_collections.ConfigDict, data_dir: str | None
) -> base.Scene:
  """Loads the scene of a config.

  Raises:
    ValueError: if the data, or the way to them, cannot be used.
  """
  if config.dataset_type == 'procedural' and data_dir is not None:
    raise ValueError(
      f'--data_dir: got {data_dir!r}, but the config draws the built-in '
      'scene; choose another --config, or leave --data_dir out.'
    )
  if config.dataset_type != 'procedural' and data_dir is None:
    raise ValueError('--data_dir: say where the data set lies.')
  return _READERS[config.dataset_type](config, data_dir)


def _procedural(config: ml_collections.ConfigDict, _: str | None) -> base.Scene:
  near, far = _bounds(config)
  made = procedural.make_scene(
    near=near, far=far, num_poses=config.num_poses, **config.procedural
  )
  box = _box(config)
  return made if box is None else made._replace(box=box)


def _blender(config: ml_collections.ConfigDict, data_dir: str) -> base.Scene:
  near, far = _bounds(config)
  return blender.load(
    data_dir,
    config.shape,
    testskip=config.testskip,
    down_factor=config.down_factor,
    num_poses=config.num_poses,
    near=near,
    far=far,
    box=_box(config),
  )


def _llff(config: ml_collections.ConfigDict, data_dir: str) -> base.Scene:
  return llff.load(
    data_dir,
    config.shape,
    down_factor=config.down_factor,
    hold=config.llff.hold,
    spherify=config.llff.spherify,
    num_poses=config.num_poses,
    near=config.near or None,
    far=config.far or None,
    box=_box(config),
  )


def _deepvoxels(config: ml_collections.ConfigDict, data_dir: str) -> base.Scene:
  return deepvoxels.load(
    data_dir,
    config.shape,
    testskip=config.testskip,
    down_factor=config.down_factor,
    near=config.near or None,
    far=config.far or None,
    box=_box(config),
  )


def _tiny(config: ml_collections.ConfigDict, data_dir: str) -> base.Scene:
  near, far = _bounds(config)
  return tiny.load(
    data_dir,
    config.shape,
    num_train=config.tiny.num_train,
    testskip=config.testskip,
    down_factor=config.down_factor,
    num_poses=config.num_poses,
    near=near,
    far=far,
    box=_box(config),
  )


_READERS: dict[str, Callable[..., base.Scene]] = {
  'blender': _blender,
  'llff': _llff,
  'deepvoxels': _deepvoxels,
  'tiny': _tiny,
  'procedural': _procedural,
}


def _bounds(config: ml_collections.ConfigDict) -> tuple[float, float]:
  """Near and far where the data do not say."""
  near, far = config.near or _BOUNDS[0], config.far or _BOUNDS[1]
  if near >= far:
    raise ValueError(
      f'config.near: got {near}; allowed: under config.far={far}.'
    )
  return near, far


def _box(config: ml_collections.ConfigDict) -> np.ndarray | None:
  if not config.box:
    return None
  return np.reshape(np.asarray(config.box, np.float32), (2, 3))


def renderer(config: ml_collections.ConfigDict) -> renderers.Renderer:
  """The networks of a config, and the way they are rendered."""
  fine = _field(config, config.model_fine) if config.num_importance else None
  return renderers.make_hierarchical(
    _field(config, config.model),
    fine,
    num_samples=config.num_samples,
    num_importance=config.num_importance,
    perturb=config.perturb,
    lindisp=config.llff.lindisp,
    raw_noise_std=config.raw_noise_std,
    density_activation=config.density_activation,
    infinite_end=config.last_interval == 'infinite',
    white_background=config.white_bkgd,
  )


def _field(
  config: ml_collections.ConfigDict, model: ml_collections.ConfigDict
) -> hk.Transformed:
  return fields.make_mlp(
    encode_position=encoding(config, config.emb.multires),
    encode_direction=encoding(config, config.emb.multires_views),
    use_viewdirs=config.use_viewdirs,
    dtype=config.dtype,
    remat=config.remat,
    **model,
  )


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
  return training.learning_rate(
    config.learning_rate,
    decay_factor=1.0 if constant else config.decay_factor,
    decay_steps=config.lr_decay * 1000,
    warmup_steps=config.lr_warmup,
  )


def optimizer(
  config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """Adam at the config's learning rate, with clipped gradients if it says."""
  adam = optax.adam(learning_rate(config))
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

  auto = _rays(config, _CACHED_ACTIVATIONS) if _on_cpu() else 0
  return training.make_update(
    renderer_,
    optimizer(config),
    cast_training,
    microbatch=config.microbatch or auto,
    skip_nonfinite=config.skip_nonfinite,
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
  )


def render_view(
  config: ml_collections.ConfigDict,
  scene_: base.Scene,
  renderer_: renderers.Renderer,
  *,
  network: int = -1,
) -> Callable[..., evaluation.View]:
  """Renders whole images, see `evaluation.make_render_view`."""
  kept = _CACHED_ACTIVATIONS if _on_cpu() else _RENDERED_ACTIVATIONS
  return evaluation.make_render_view(
    renderer_,
    cast_fn(config, scene_),
    chunk=config.chunk,
    piece=config.microbatch or _rays(config, kept),
    ndc=scene_.ndc,
    network=network,
  )


def _on_cpu() -> bool:
  return jax.default_backend() == 'cpu'


def _rays(config: ml_collections.ConfigDict, activations: int) -> int:
  """Rays whose activations of one layer are so many."""
  width = config.model.net_width
  if config.num_importance:
    width = max(width, config.model_fine.net_width)
  samples = config.num_samples + config.num_importance
  return max(1, activations // (width * samples))

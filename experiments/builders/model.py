"""From a config to the library's objects."""

import functools
from collections.abc import Callable

import haiku as hk
import jax
import ml_collections
import numpy as np

from experiments.processes import multihost
from nerf_haiku import (
  cameras,
  encodings,
  fields,
  image_rendering,
  scene_bounds,
  scenes,
)
from nerf_haiku.renderers import hierarchical, occupancy

# Activations of a layer that stay in a CPU's cache: a sweep over pieces had
# its best near this for networks 64 to 256 wide.
CACHED_ACTIVATIONS = 3 << 18
# Activations of a layer when an accelerator renders: 0.5 GB.
_RENDERED_ACTIVATIONS = 1 << 27
# Cells of the occupancy grid along a side: the fewest and the most.
_GRID_SIDES = (32, 128)


def make_renderer(
  config: ml_collections.ConfigDict, scene_: scenes.Scene
) -> hierarchical.Renderer:
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
    return occupancy.make_occupancy(
      _field(config, config.model, scene_),
      march_settings(config, scene_),
      **settings,
    )
  fine = None
  if config.num_importance:
    fine = _field(config, config.model_fine, scene_)
  return hierarchical.make_hierarchical(
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
  scene_: scenes.Scene,
) -> hk.Transformed:
  """A field; `model` has the layers of the paper's network."""
  shared = {'use_viewdirs': config.use_viewdirs, 'dtype': config.dtype}
  if config.field == 'hash':
    span = _bounds(scene_)
    sections = dict(config.hash)
    sections['finest'] = config.hash.finest or _finest(config, span)
    return fields.make_hash(
      box=span.box, remat=config.remat, **shared, **sections
    )
  return fields.make_mlp(
    encode_position=make_encoding(config, config.emb.multires),
    encode_direction=make_encoding(config, config.emb.multires_views),
    remat=config.remat,
    **shared,
    **model,
  )


def _bounds(scene_: scenes.Scene) -> scene_bounds.SceneBounds:
  return scene_bounds.scene_bounds(
    scene_.train.cameras, scene_.near, scene_.far, scene_.box, scene_.ndc
  )


def _finest(
  config: ml_collections.ConfigDict, span: scene_bounds.SceneBounds
) -> int:
  """Cells along a side of the box that are as wide as a pixel."""
  cells = float(np.max(span.box[1] - span.box[0])) / span.pixel_width
  return max(config.hash.coarsest, round(cells))


def march_settings(
  config: ml_collections.ConfigDict, scene_: scenes.Scene
) -> occupancy.Settings:
  """How the occupancy renderer marches: as the config says, or the data.

  Raises:
    ValueError: if a ray may have more samples than the budget.
  """
  span, section = _bounds(scene_), config.occupancy
  step = section.step or span.pixel_width
  side = float(np.max(span.box[1] - span.box[0]))
  low, high = _GRID_SIDES
  cells = min(max(round(side / step / 2 / low) * low, low), high)
  settings = occupancy.Settings(
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


def make_encoding(
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


def make_cast_fn(
  config: ml_collections.ConfigDict, scene_: scenes.Scene
) -> Callable[..., cameras.Rays]:
  """`cast_fn(cameras, camera, pixel)`, rays of the world of a scene."""
  return functools.partial(
    cameras.cast,
    near=scene_.near,
    far=scene_.far,
    box=scene_.box,
    pixel_center=config.pixel_center,
  )


def make_render_view(
  config: ml_collections.ConfigDict,
  scene_: scenes.Scene,
  renderer_: hierarchical.Renderer,
  *,
  network: int = -1,
) -> Callable[..., image_rendering.RenderedImage]:
  """Renders whole images, see `evaluation.make_render_view`.

  With many processes it is called on process 0, in `processes.once`.
  """
  kept = CACHED_ACTIVATIONS if on_cpu() else _RENDERED_ACTIVATIONS
  render = image_rendering.make_render_view(
    renderer_,
    make_cast_fn(config, scene_),
    chunk=config.chunk,
    piece=config.microbatch or rays_that_fit(config, kept),
    ndc=scene_.ndc,
    network=network,
  )
  return multihost.collective(render)


def on_cpu() -> bool:
  """Whether this process computes on a CPU."""
  return jax.default_backend() == 'cpu'


def rays_that_fit(config: ml_collections.ConfigDict, activations: int) -> int:
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

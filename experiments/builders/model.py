"""Builds the field and the renderer of a config, and what renders images."""

import functools

import haiku as hk
import jax
import ml_collections
import numpy as np

from experiments.configs import schema
from experiments.processes import multihost
from nerf_haiku import (
  cameras,
  contraction,
  encodings,
  errors,
  fields,
  image_rendering,
  scene_bounds,
  scenes,
  similarity,
)
from nerf_haiku.renderers import base, hierarchical, occupancy, proposal

# Activations of a layer that stay in a CPU's cache: a sweep over microbatches
# had its best near this for networks 64 to 256 wide.
CACHED_ACTIVATIONS = 3 << 18
# Activations of a layer when an accelerator renders: 0.5 GB.
_RENDERED_ACTIVATIONS = 1 << 27
# The smallest and the largest occupancy grid, cells along a side.
_MIN_RESOLUTION, _MAX_RESOLUTION = 32, 128

Renderer = (
  hierarchical.HierarchicalRenderer
  | occupancy.OccupancyRenderer
  | proposal.ProposalRenderer
)


def make_renderer(
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> Renderer:
  """Makes the renderer of a config, with its fields.

  Raises:
    UserError: if a ray may have more samples than the budget.
  """
  bounds = make_bounds(scene)
  settings = {
    'perturb': config.perturb,
    'raw_noise_std': config.raw_noise_std,
    'density_activation': config.density_activation,
    'infinite_end': config.last_interval == 'infinite',
    'background': schema.background(config),
    'gradient_radius': config.gradient_scaling,
  }
  make_field = functools.partial(_make_field, config, scene, bounds)
  field = make_field(config.model)
  if config.renderer == 'occupancy':
    march = make_march_settings(config, bounds, contracted=scene.contracted)
    return occupancy.make_occupancy(field, march, **settings)
  if config.renderer == 'proposal':
    return proposal.make_proposal(
      field,
      [make_field(None) for _ in config.proposal.num_samples],
      num_samples=(*config.proposal.num_samples, config.num_samples),
      contracted=scene.contracted,
      **settings,
    )
  fine = None
  if config.num_importance:
    fine = make_field(config.model_fine)
  return hierarchical.make_hierarchical(
    field,
    fine,
    num_samples=config.num_samples,
    num_importance=config.num_importance,
    lindisp=config.llff.lindisp,
    contracted=scene.contracted,
    **settings,
  )


def make_bounds(scene: scenes.Scene) -> scene_bounds.SceneBounds:
  """Returns the box that is modelled, and the width of a pixel in it.

  In contracted space the box holds all of it, and the pixel is one at a
  distance of 1, where nothing is contracted.
  """
  if scene.contracted:
    focal = np.median(scene.train.cameras.intrinsics[:, 0])
    return scene_bounds.SceneBounds(contraction.BOX, 1.0 / float(focal))
  cams = similarity.move_rigidly(scene.similarity, scene.train.cameras)
  scale = similarity.field_units(scene.similarity)
  return scene_bounds.scene_bounds(
    cams, scale * scene.near, scale * scene.far, scene.box, scene.ndc
  )


def _make_field(
  config: ml_collections.ConfigDict,
  scene: scenes.Scene,
  bounds: scene_bounds.SceneBounds,
  layers: ml_collections.ConfigDict | None,
) -> hk.Transformed:
  """Makes a field.

  Args:
    config: the config.
    scene: whether it is contracted.
    bounds: of the space that is modelled.
    layers: those of the paper's network; None makes a proposal.
  """
  if layers is None:
    field = _make_proposal_field(config, bounds)
  else:
    field = _make_plain_field(config, bounds, layers)
  return contraction.contract_field(field) if scene.contracted else field


def _make_proposal_field(
  config: ml_collections.ConfigDict, bounds: scene_bounds.SceneBounds
) -> hk.Transformed:
  """Makes a small field of densities alone."""
  section = config.proposal
  return fields.make_hash_grid(
    box=bounds.box,
    num_levels=section.num_levels,
    features_per_level=section.features_per_level,
    hashmap_size=section.hashmap_size,
    base_resolution=section.base_resolution,
    max_resolution=section.max_resolution,
    density_width=section.density_width,
    has_color=False,
    dtype=config.dtype,
    remat=config.remat,
  )


def _make_plain_field(
  config: ml_collections.ConfigDict,
  bounds: scene_bounds.SceneBounds,
  layers: ml_collections.ConfigDict,
) -> hk.Transformed:
  """Makes a field of the space that is in the box."""
  shared = {
    'use_viewdirs': config.use_viewdirs,
    'dtype': config.dtype,
    'remat': config.remat,
  }
  if config.field == 'hash':
    grid = dict(config.hash)
    grid['max_resolution'] = grid['max_resolution'] or max(
      config.hash.base_resolution, _pixels_along(bounds)
    )
    return fields.make_hash_grid(box=bounds.box, **grid, **shared)
  return fields.make_mlp(
    encode_position=make_encoding(config, config.emb.multires),
    encode_direction=make_encoding(config, config.emb.multires_views),
    **shared,
    **layers,
  )


def _pixels_along(bounds: scene_bounds.SceneBounds) -> int:
  """Returns the number of pixels along the longest side of the box."""
  side = float(np.max(bounds.box[1] - bounds.box[0]))
  return round(side / bounds.pixel_width)


def make_march_settings(
  config: ml_collections.ConfigDict,
  bounds: scene_bounds.SceneBounds,
  *,
  contracted: bool = False,
) -> occupancy.Settings:
  """Returns the occupancy renderer's settings; 0 is chosen by the cameras.

  Raises:
    UserError: if a ray may have more samples than the budget.
  """
  section = dict(config.occupancy)
  section['step_size'] = section['step_size'] or bounds.pixel_width
  if not section['resolution']:
    # Cells of two steps, by multiples of the smallest grid.
    side = float(np.max(bounds.box[1] - bounds.box[0]))
    cells = side / section['step_size'] / 2
    cells = round(cells / _MIN_RESOLUTION) * _MIN_RESOLUTION
    section['resolution'] = min(max(cells, _MIN_RESOLUTION), _MAX_RESOLUTION)
  settings = occupancy.Settings(
    box=bounds.box, contracted=contracted, **section
  )
  positions = settings.num_positions()
  if positions > settings.max_samples:
    raise errors.UserError(
      f'config.occupancy.max_samples: got {settings.max_samples}; must be at '
      f'least {positions}, the positions of the longest ray through the box in '
      f'steps of {settings.step_size:.4g} (config.occupancy.step_size).'
    )
  return settings


def make_encoding(
  config: ml_collections.ConfigDict, num_octaves: int
) -> fields.Encoding:
  """Returns the encoding of a position or direction with `num_octaves`."""
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
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> image_rendering.CastFn:
  """Returns a function of cameras, indices and pixels that casts rays."""
  return functools.partial(
    cameras.cast,
    near=scene.near,
    far=scene.far,
    box=scene.box,
    pixel_center=config.pixel_center,
  )


def make_render_image(
  config: ml_collections.ConfigDict,
  scene: scenes.Scene,
  renderer: Renderer,
  *,
  network: int = -1,
) -> image_rendering.RenderImage:
  """Makes what renders images, see `image_rendering.make_render_image`.

  `config.microbatch` bounds the rays of a chunk too. In a multi-host run
  process 0 calls it, within `multihost.run_on_main`.
  """
  activations = CACHED_ACTIVATIONS if is_on_cpu() else _RENDERED_ACTIVATIONS
  render = image_rendering.make_render_image(
    renderer,
    make_cast_fn(config, scene),
    rays_per_call=config.chunk,
    chunk=config.microbatch or rays_that_fit(config, activations),
    ndc=scene.ndc,
    network=network,
  )
  move = functools.partial(similarity.move_cameras, scene.similarity)

  def render_moved(
    variables: base.Variables,
    cams: cameras.Cameras,
    index: int,
    viewdir_camera: cameras.Cameras | None = None,
  ) -> image_rendering.RenderedImage:
    # Only this one: a path may have thousands.
    camera = move(cameras.take(cams, [index]))
    viewdirs = None if viewdir_camera is None else move(viewdir_camera)
    return render(variables, camera, 0, viewdirs)

  return multihost.collective(
    render_moved, arg_types=(cameras.Cameras, int, cameras.Cameras)
  )


def is_on_cpu() -> bool:
  """Returns whether this process computes on a CPU."""
  return jax.default_backend() == 'cpu'


def rays_that_fit(config: ml_collections.ConfigDict, activations: int) -> int:
  """Returns the number of rays with this many activations in a layer."""
  if config.renderer == 'occupancy':
    return max(1, config.occupancy.max_samples // 2)
  width = config.model.net_width
  if config.num_importance:
    width = max(width, config.model_fine.net_width)
  if config.field == 'hash':
    width = config.hash.color_width
  samples = config.num_samples
  if config.renderer == 'hierarchical':
    samples += config.num_importance
  return max(1, activations // (width * samples))

"""Builds the field and the renderer of a config, and what renders images."""

import ml_collections
import numpy as np

from experiments.configs import schema
from experiments.processes import multihost
from nerf_haiku import (
  cameras,
  errors,
  image_rendering,
  models,
  records,
  scene_bounds,
  scenes,
  similarity,
)
from nerf_haiku.renderers import occupancy

# The smallest and the largest occupancy grid, cells along a side.
_MIN_RESOLUTION, _MAX_RESOLUTION = 32, 128

Renderer = records.Renderer


def make_renderer(
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> Renderer:
  """Makes the renderer of a config, see `make_record`."""
  return records.make_renderer(make_record(config, scene))


def make_record(
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> records.Record:
  """Returns the record of a config's fields and renderer.

  Raises:
    UserError: if a ray may have more samples than the budget.
  """
  bounds = scene_bounds.modelled_bounds(scene)
  settings = {
    'kind': config.renderer,
    'contracted': scene.contracted,
    'perturb': config.perturb,
    'raw_noise_std': config.raw_noise_std,
    'density_activation': config.density_activation,
    'infinite_end': config.last_interval == 'infinite',
    'background': list(schema.background(config)),
    'gradient_radius': config.gradient_scaling,
    'cones': config.cones,
  }
  field = _field_record(config, bounds, config.model)
  if config.renderer == 'occupancy':
    settings['march'] = _march_record(config, bounds, scene.contracted)
    fields = {'field': field}
  elif config.renderer == 'proposal':
    rounds = list(config.proposal.num_samples)
    settings['num_samples'] = [*rounds, config.num_samples]
    small = _proposal_record(config, bounds)
    fields = {f'proposal_{i}': small for i in range(len(rounds))}
    fields['field'] = field
  else:
    settings['num_samples'] = config.num_samples
    settings['num_importance'] = config.num_importance
    settings['lindisp'] = config.llff.lindisp
    fields = {'coarse': field}
    if config.num_importance:
      fields['fine'] = _field_record(config, bounds, config.model_fine)
  return {
    'renderer': settings,
    'fields': fields,
    'pixel_center': config.pixel_center,
  }


def _proposal_record(
  config: ml_collections.ConfigDict, bounds: scene_bounds.SceneBounds
) -> records.Record:
  """Returns the record of a small field of densities alone."""
  section = config.proposal
  return {
    'kind': 'hash',
    'box': bounds.box.tolist(),
    'num_levels': section.num_levels,
    'features_per_level': section.features_per_level,
    'hashmap_size': section.hashmap_size,
    'base_resolution': section.base_resolution,
    'max_resolution': section.max_resolution,
    'density_width': section.density_width,
    'has_color': False,
    'dtype': config.dtype,
    'remat': config.remat,
  }


def _field_record(
  config: ml_collections.ConfigDict,
  bounds: scene_bounds.SceneBounds,
  layers: ml_collections.ConfigDict,
) -> records.Record:
  """Returns the record of a field of the space that is in the box.

  Args:
    config: the config.
    bounds: of the space that is modelled.
    layers: those of the paper's network.
  """
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
    return {'kind': 'hash', 'box': bounds.box.tolist(), **grid, **shared}
  network = dict(layers)
  network['skips'] = list(layers.skips)
  return {
    'kind': 'mlp',
    'encode_position': _encoding_record(config, config.emb.multires),
    'encode_direction': _encoding_record(config, config.emb.multires_views),
    **shared,
    **network,
  }


def _pixels_along(bounds: scene_bounds.SceneBounds) -> int:
  """Returns the number of pixels along the longest side of the box."""
  side = float(np.max(bounds.box[1] - bounds.box[0]))
  return round(side / bounds.pixel_width)


def _march_record(
  config: ml_collections.ConfigDict,
  bounds: scene_bounds.SceneBounds,
  contracted: bool,
) -> records.Record:
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
  positions = occupancy.Settings(
    box=bounds.box, contracted=contracted, **section
  ).num_positions()
  # The rays of a pixel are taken together.
  least = positions * config.train_rays_per_side**2
  if least > section['max_samples']:
    raise errors.UserError(
      f'config.occupancy.max_samples: got {section["max_samples"]}; must be at '
      f'least {least}, the positions of the longest ray through the box in '
      f'steps of {section["step_size"]:.4g} (config.occupancy.step_size), for '
      'each ray of a pixel (config.train_rays_per_side).'
    )
  return {'box': bounds.box.tolist(), **section}


def _encoding_record(
  config: ml_collections.ConfigDict, num_octaves: int
) -> records.Record | None:
  """Returns the record of an encoding with `num_octaves`."""
  if not config.emb.use_embed:
    return None
  return {
    'num_octaves': num_octaves,
    'periodic_fns': list(config.emb.periodic_fns),
    'log_sampling': config.emb.log_sampling,
    'include_input': config.emb.include_input,
  }


def cameras_of_training(
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> cameras.Cameras:
  """Returns the moved training cameras, with a pixel for each ray of training.

  With `n * n` rays through each pixel their images are `n` times as large.
  """
  cams = similarity.move_cameras(scene.similarity, scene.train.cameras)
  return cameras.enlarge(cams, config.train_rays_per_side)


def make_cast_fn(
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> image_rendering.CastFn:
  """Returns a function of cameras, indices and pixels that casts rays."""
  return models.make_cast_fn(scene, pixel_center=config.pixel_center)


def make_render_image(
  config: ml_collections.ConfigDict,
  scene: scenes.Scene,
  renderer: Renderer,
  *,
  network: int = -1,
) -> image_rendering.RenderImage:
  """Makes what renders images, see `models.make_render_strips`.

  `config.microbatch` bounds the rays of a chunk too. In a multi-host run
  process 0 calls it, within `multihost.run_on_main`.
  """
  strips = models.make_render_strips(
    make_record(config, scene),
    scene,
    renderer,
    rays_per_call=config.chunk,
    chunk=config.microbatch,
    network=network,
  )

  def rays_per_side(cams: cameras.Cameras, index: int) -> int:
    if config.rays_per_side:
      return int(config.rays_per_side)
    ratio = scene_bounds.pixel_ratio(cams, index, scene.train.cameras)
    return max(1, round(ratio))

  return multihost.collective(
    image_rendering.average_rays(
      image_rendering.assemble_strips(strips), rays_per_side
    ),
    arg_types=(cameras.Cameras, int, cameras.Cameras),
  )

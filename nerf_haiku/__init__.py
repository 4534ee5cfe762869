"""Neural radiance fields in JAX and Haiku.

A scene is read, its rays are rendered from a field, and an update fits the
field to the photographs: see `docs/minimal.py` for all of it in 60 lines.

The modules below are public. Names that begin with an underscore are not, and
neither is anything that a module imports.
"""

from nerf_haiku import (
  backgrounds,
  camera_checks,
  camera_files,
  camera_paths,
  camera_refinement,
  cameras,
  checkpoints,
  collapse,
  contraction,
  datasets,
  devices,
  encodings,
  errors,
  exposure,
  fields,
  hash_grid,
  image_rendering,
  io,
  lenses,
  metrics,
  occupancy_grid,
  ops,
  placement,
  pose_alignment,
  poses,
  ray_marching,
  renderers,
  sampling,
  scene_bounds,
  scenes,
  similarity,
  training,
  volume,
)

__version__ = '0.2.0.dev0'

__all__ = (
  'backgrounds',
  'camera_checks',
  'camera_files',
  'camera_paths',
  'camera_refinement',
  'cameras',
  'checkpoints',
  'collapse',
  'contraction',
  'datasets',
  'devices',
  'encodings',
  'errors',
  'exposure',
  'fields',
  'hash_grid',
  'image_rendering',
  'io',
  'lenses',
  'metrics',
  'occupancy_grid',
  'ops',
  'placement',
  'pose_alignment',
  'poses',
  'ray_marching',
  'renderers',
  'sampling',
  'scene_bounds',
  'scenes',
  'similarity',
  'training',
  'volume',
)

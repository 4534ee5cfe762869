"""Exports a trained run: its surfaces, points and cameras.

  python experiments/export.py --model_dir=runs/lego --mesh
  python experiments/export.py --model_dir=runs/lego --points --cameras

Everything is in the coordinates and units of the data, in MODEL_DIR/export.
"""

import os
import sys

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from experiments.processes import signals

if __name__ == '__main__':
  signals.exit_on_interrupt()  # Before the imports that take seconds.

import pathlib
from collections.abc import Iterator

import numpy as np
from absl import flags

from experiments import launch
from experiments.outputs import exports
from nerf_haiku import errors, models
from nerf_haiku.io import safe_reading, surface_files

_MESH = flags.DEFINE_bool('mesh', False, 'Whether to write the surfaces.')
_POINTS = flags.DEFINE_bool(
  'points', False, 'Whether to write points that the training cameras see.'
)
_CAMERAS = flags.DEFINE_bool(
  'cameras',
  False,
  'Whether to write the training cameras, refined if they were: '
  'transforms.json, and a COLMAP model of text files.',
)
_OUT = flags.DEFINE_string(
  'out', None, 'Folder of the files; default: MODEL_DIR/export.'
)
_STEP = flags.DEFINE_integer(
  'step', None, 'Checkpoint step; default: the latest.'
)
_FORMATS = flags.DEFINE_list(
  'formats', ['ply', 'glb'], 'Formats of the mesh: ply, obj, glb.'
)
_FROM = flags.DEFINE_enum(
  'mesh_from',
  exports.FROM_DEPTH,
  [exports.FROM_DEPTH, exports.FROM_DENSITY],
  'What the mesh is the surface of: the depths of the training views, fused; '
  'or the density, where a training view sees it.',
)
_RESOLUTION = flags.DEFINE_integer(
  'resolution',
  256,
  "Points of the mesh's grid along its longest side. Training views are "
  'rendered no finer than half of its cells, for --points too.',
  lower_bound=8,
  upper_bound=1024,
)
_BOX = flags.DEFINE_list(
  'box',
  None,
  'Lower and upper corner of the box that the mesh is cut to, six numbers in '
  "the data's coordinates; the grid fills it. Default: all that is modelled.",
)
_OPACITY = flags.DEFINE_float(
  'opacity',
  0.5,
  'With --mesh_from=density: the opacity of a cell at the surface.',
  lower_bound=0.001,
  upper_bound=0.999,
)
_FACES = flags.DEFINE_integer(
  'faces', 0, 'Most faces of the mesh; 0: any number.', lower_bound=0
)
_MIN_OPACITY = flags.DEFINE_float(
  'min_opacity',
  0.9,
  'With --points: pixels that are less opaque have no point.',
  lower_bound=0.01,
  upper_bound=1.0,
)
_SPACING = flags.DEFINE_float(
  'spacing',
  0.0,
  'With --points: distance of points, scene units; 0: by the extent of the '
  'scene.',
  lower_bound=0.0,
)


def main() -> None:
  """Writes what the flags ask for, and prints where it is."""
  if not (_MESH.value or _POINTS.value or _CAMERAS.value):
    raise errors.UserError('Name what to write: --mesh, --points, --cameras.')
  unknown = set(_FORMATS.value) - set(surface_files.MESH_SUFFIXES)
  if unknown or not _FORMATS.value:
    raise errors.UserError(
      f'--formats: got {",".join(_FORMATS.value)}; must be some of '
      f'{", ".join(surface_files.MESH_SUFFIXES)}.'
    )
  settings = exports.MeshSettings(
    source=_FROM.value,
    resolution=_RESOLUTION.value,
    box=_parse_box(_BOX.value),
    opacity=_OPACITY.value,
    num_faces=_FACES.value,
  )
  if _MESH.value or _POINTS.value:
    surface_files.check_installed()
  model_dir = launch.model_dir()
  model = models.open_run(model_dir, _STEP.value)
  folder = safe_reading.expand_user(_OUT.value or model_dir / 'export')
  exports.open_folder(folder, model_dir)
  for line in _export(folder, model, settings):
    print(line)


def _export(
  folder: pathlib.Path, model: models.Model, settings: exports.MeshSettings
) -> Iterator[str]:
  """Writes what the flags ask for; yields a line about each file."""
  cloud = None
  if _MESH.value or _POINTS.value:
    views = exports.render_training_views(model, settings)
  if _POINTS.value:
    cloud, spacing = exports.make_points(
      model, views, min_opacity=_MIN_OPACITY.value, spacing=_SPACING.value
    )
    yield exports.write_points(folder, model, cloud, spacing)
  if _CAMERAS.value:
    yield from exports.write_cameras(folder, model, launch.model_dir(), cloud)
  if _MESH.value:
    mesh = exports.make_mesh(model, views, settings)
    yield from exports.write_mesh(
      folder, model, views, mesh, _FORMATS.value, settings
    )


def _parse_box(values: list[str] | None) -> np.ndarray | None:
  """Returns the corners `[2, 3]` that a flag names."""
  if values is None:
    return None
  try:
    box = np.array([float(x) for x in values]).reshape(2, 3)
  except ValueError:
    box = np.zeros((2, 3))
  if not (np.all(np.isfinite(box)) and np.all(box[0] < box[1])):
    raise errors.UserError(
      f'--box: got {",".join(values)}; must be six numbers, the lower corner '
      'before the upper one.'
    )
  return box


if __name__ == '__main__':
  launch.run(main, launch.saved_config)

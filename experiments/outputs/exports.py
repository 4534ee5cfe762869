"""Meshes, points and cameras of a trained run, as files of other programs."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tqdm

from experiments.outputs import json_files, run_dir
from nerf_haiku import (
  arrays,
  camera_files,
  cameras,
  contraction,
  errors,
  image_rendering,
  meshing,
  models,
  point_clouds,
  scene_bounds,
  scenes,
  similarity,
)
from nerf_haiku.datasets import camera_writers
from nerf_haiku.io import media, surface_files

INDEX = 'export.json'
FROM_DEPTH, FROM_DENSITY = 'depth', 'density'

# Connected parts of fewer faces are noise.
_MIN_FACES = 100
# Cells in which distances are fused, at least, and widths of a pixel.
_TRUNCATION_CELLS, _TRUNCATION_PIXELS = 4.0, 3.0
# Views that must say something of a place, if there are so many.
_MIN_VIEWS = 3
# Widths of a pixel, in cells, below which views are rendered smaller.
_MIN_PIXEL = 0.5
# Points along a side of a given box that are moved to the field's own space.
_LATTICE = 17
# A vertex is seen if it lies within so many cells of what a camera sees.
_SEEN = 3.0


class MeshSettings(NamedTuple):
  """Settings of a mesh."""

  source: str  # FROM_DEPTH or FROM_DENSITY.
  resolution: int  # points along the longest side of the grid.
  box: np.ndarray | None  # [2, 3] in the data's coordinates; None: all.
  opacity: float  # of a step through a cell, where the surface is.
  num_faces: int  # at most; 0: any number.


class Views(NamedTuple):
  """What the training cameras see, of a size that fits the grid."""

  grid: meshing.Grid  # in the field's own space.
  cameras: cameras.Cameras  # in the data's coordinates.
  images: list[image_rendering.RenderedImage]
  depths: list[meshing.DepthView]  # in moved coordinates, see `_depth_views`.


def open_folder(folder: pathlib.Path, model_dir: pathlib.Path) -> None:
  """Makes a folder for exports of a run, or checks that it is that folder.

  Raises:
    UserError: if it cannot be written, or holds something else.
  """
  identity = _identity(model_dir)
  path = folder / INDEX
  if path.exists():
    existing = json_files.read_json(path, 'run', option='--out')
    if existing['run'] != identity:
      raise errors.UserError(
        f'--out: {folder} holds exports of another run. Choose another folder, '
        'or delete it.'
      )
    return
  content = {'run': identity, 'files': {}}
  run_dir.claim_folder(
    folder, INDEX, content, option='--out', what='exports of a run'
  )


def _identity(model_dir: pathlib.Path) -> str:
  """Returns a hash of a run: of its model, its scene and its settings.

  Longer training of the same run changes nothing.
  """
  digest = hashlib.sha256()
  for name in (models.RECORD, models.SCENE):
    digest.update((model_dir / name).read_bytes())
  settings = json_files.read_json(model_dir / run_dir.CONFIG, 'config')
  kept = {
    name: value
    for name, value in (settings | settings['config']).items()
    if name not in (*run_dir.MAY_CHANGE, 'config')
  }
  digest.update(json.dumps(kept, sort_keys=True).encode())
  return digest.hexdigest()


def register(
  folder: pathlib.Path, name: str, step: int, settings: dict[str, Any]
) -> str:
  """Notes a file that is complete, and returns a line that describes it."""
  index = json_files.read_json(folder / INDEX, 'files', option='--out')
  index['files'][name] = {'step': step} | settings
  json_files.write_json(folder / INDEX, index)
  size = os.stat(folder / name).st_size
  facts = ', '.join(
    f'{key} {value:,}' if isinstance(value, int) else f'{key} {value}'
    for key, value in settings.items()
  )
  text = f'{size / 1e6:.1f} MB' if size >= 1e5 else f'{size / 1e3:.1f} kB'
  return f'{folder / name}: {text}, {facts}'


def render_training_views(model: models.Model, settings: MeshSettings) -> Views:
  """Renders all training cameras, with a progress bar.

  Pixels that are narrower than half a cell of the grid tell it nothing: images
  of more pixels are rendered smaller.
  """
  grid = meshing.make_grid(
    _box(model, settings), settings.resolution, _space(model)
  )
  factor = min(1.0, pixel_width(model) / (_MIN_PIXEL * cell_width(grid)))
  cams = model.scene.train.cameras
  sizes = np.maximum(np.rint(factor * np.asarray(cams.sizes)), 2)
  cams = cameras.scale(cams, sizes)
  count = range(len(cams.sizes))
  bar = tqdm.tqdm(count, 'training views', disable=None, leave=False)
  images = [model.render(cameras.take(cams, [i])) for i in bar]
  return Views(grid, cams, images, _depth_views(model, cams, images))


def make_mesh(
  model: models.Model, views: Views, settings: MeshSettings
) -> meshing.Mesh:
  """Returns the mesh of a model, in the coordinates of the data.

  Args:
    model: the model.
    views: of its training cameras, rendered with these settings.
    settings: of the mesh.

  Raises:
    UserError: if there is no surface.
  """
  grid = views.grid
  if settings.source == FROM_DEPTH:
    widths = model.scene.train.cameras.sizes / views.cameras.sizes
    pixel = float(np.median(widths)) * pixel_width(model)
    pixels = pixel / cell_width(grid)
    volume = meshing.fuse_depths(
      views.depths,
      grid,
      truncation=max(_TRUNCATION_CELLS, _TRUNCATION_PIXELS * pixels),
      min_views=min(_MIN_VIEWS, len(views.depths)),
    )
    mesh = meshing.extract(volume, 0.0)
  else:
    mesh = _density_surface(model, grid, settings.opacity)
    vertices, cell = grid.to_world(mesh.vertices)
    is_seen = meshing.count_views(views.depths, vertices, _SEEN * cell) > 0
    mesh = meshing.keep_faces(mesh, np.all(is_seen[mesh.faces], axis=1))
  mesh = mesh._replace(
    vertices=np.asarray(model.from_field(mesh.vertices), np.float64)
  )
  if settings.box is not None:
    is_inside = np.all(
      (mesh.vertices >= settings.box[0]) & (mesh.vertices <= settings.box[1]),
      axis=-1,
    )
    mesh = meshing.keep_faces(mesh, np.all(is_inside[mesh.faces], axis=1))
  mesh = meshing.drop_specks(mesh, _MIN_FACES)
  if settings.num_faces:
    mesh = meshing.simplify(mesh, settings.num_faces)
  if not len(mesh.faces):
    raise errors.UserError(
      'There is no surface of 100 faces or more: set a larger --box, a higher '
      '--resolution, or train for longer.'
    )
  if model.scene.ndc is not None:  # In which z is the other way round.
    mesh = mesh._replace(faces=mesh.faces[:, ::-1])
  return mesh


def _box(model: models.Model, settings: MeshSettings) -> np.ndarray:
  """Returns the box `[2, 3]` of the grid, in the field's own space.

  Raises:
    UserError: if nothing of the given one is modelled.
  """
  whole = np.asarray(model.field_box, np.float64)
  if settings.box is None:
    return whole
  fraction = np.indices((_LATTICE,) * 3).reshape(3, -1).T / (_LATTICE - 1)
  points = settings.box[0] + fraction * (settings.box[1] - settings.box[0])
  if model.scene.ndc is not None:  # Nothing else is in front of the cameras.
    points[:, 2] = np.minimum(points[:, 2], -model.scene.ndc.near)
  points = np.asarray(model.to_field(points), np.float64)
  lower, upper = points.min(axis=0), points.max(axis=0)
  margin = (upper - lower) / _LATTICE
  box = np.stack([lower - margin, upper + margin])
  box = np.stack([np.maximum(box[0], whole[0]), np.minimum(box[1], whole[1])])
  if not np.all(box[0] < box[1]):
    corners = model.from_field(whole) if not _is_curved(model) else whole
    raise errors.UserError(
      f'--box: {_numbers(settings.box)} has nothing of what is modelled, '
      f'{_numbers(corners)}'
      + (" in the field's own space." if _is_curved(model) else '.')
    )
  return box


def _is_curved(model: models.Model) -> bool:
  """Returns whether a box of the data is none in the field's own space."""
  moved = model.scene.similarity
  is_turned = moved is not None and not np.allclose(moved.rotation, np.eye(3))
  return model.scene.contracted or model.scene.ndc is not None or is_turned


def _numbers(box: np.ndarray) -> str:
  return ','.join(f'{x:g}' for x in np.ravel(box))


def cell_width(grid: meshing.Grid) -> float:
  """Returns the width of a grid's cells along its longest side."""
  return float(np.max(grid.box[1] - grid.box[0])) / (max(grid.shape) - 1)


def pixel_width(model: models.Model) -> float:
  """Returns the width of a pixel, in the field's own space."""
  return scene_bounds.modelled_bounds(model.scene).pixel_width


def _density_surface(
  model: models.Model, grid: meshing.Grid, opacity: float
) -> meshing.Mesh:
  """Returns the surface of a density by which a cell has an opacity."""
  viewdir = np.array([0.0, 0.0, -1.0])
  volume = meshing.sample_volume(
    grid, lambda points: model.query_field(points, viewdir)[0], model.occupied
  )
  cell = float(np.max(grid.cell()))
  return meshing.extract(volume, -np.log1p(-opacity) / cell)


def _depth_views(
  model: models.Model,
  cams: cameras.Cameras,
  images: list[image_rendering.RenderedImage],
) -> list[meshing.DepthView]:
  """Returns what training cameras see, in moved coordinates.

  These are the data's as the scene's similarity moves them, so that large
  coordinates lose nothing in float32.
  """
  scene = model.scene
  cams = similarity.move_rigidly(scene.similarity, cams)
  scale = similarity.field_units(scene.similarity)
  shift = 0.0 if model.record['pixel_center'] else 0.5
  cams = cams._replace(
    camera_to_world=np.asarray(cams.camera_to_world, np.float32),
    intrinsics=cams.intrinsics + np.array([0, 0, shift, shift], np.float32),
  )
  return [
    meshing.DepthView(
      cameras.take(cams, [i]),
      scale * image.expected_depth(),
      np.asarray(image.opacity),
    )
    for i, image in enumerate(images)
  ]


def _space(model: models.Model) -> meshing.Space:
  """Returns the field's own space, as maps to moved coordinates and back."""
  if model.scene.contracted:
    return meshing.Space(
      _double(contraction.expand), _double(contraction.contract)
    )
  ndc = model.scene.ndc
  if ndc is not None:
    return meshing.Space(
      _double(lambda points: cameras.points_from_ndc(points, ndc)),
      _double(lambda points: cameras.points_to_ndc(points, ndc)),
    )
  return meshing.WORLD


def _double(move: Callable[[np.ndarray], arrays.Array]) -> meshing.Move:
  """Returns a function whose results are float64."""
  return lambda points: np.asarray(move(points), np.float64)


def surface_colors(
  model: models.Model, views: Views, mesh: meshing.Mesh
) -> np.ndarray:
  """Returns the colors `[V, 3]` uint8 of a mesh's vertices.

  They are those of the field, seen from the training camera that sees the
  vertex from nearest to its normal: no color was learned for other directions.
  Where none does, they are seen along the normal.
  """
  normals = meshing.vertex_normals(mesh)
  moved = model.scene.similarity
  points, turned = mesh.vertices, normals
  if moved is not None:
    points = similarity.move_points(moved, points)
    turned = normals @ moved.rotation.T
  field_points = np.asarray(model.to_field(mesh.vertices), np.float64)
  cell = views.grid.cell_sizes(field_points)
  best = meshing.most_frontal_view(views.depths, points, turned, _SEEN * cell)
  center = np.asarray(views.cameras.camera_to_world, np.float64)[best, :, 3]
  directions = mesh.vertices - center
  directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
  is_seen = best[:, None] >= 0
  _, rgb = model.query(mesh.vertices, np.where(is_seen, directions, -normals))
  return media.to_uint8(rgb)


def write_mesh(
  folder: pathlib.Path,
  model: models.Model,
  views: Views,
  mesh: meshing.Mesh,
  suffixes: list[str],
  settings: MeshSettings,
) -> Iterator[str]:
  """Writes a mesh in several formats, and yields a line about each file."""
  # Those of the field's gradient are further from the truth, see
  # experiments/benchmarks/mesh.py.
  normals = meshing.vertex_normals(mesh)
  colors = surface_colors(model, views, mesh)
  for suffix in suffixes:
    name = f'mesh.{suffix}'
    surface_files.write_mesh(
      folder / name,
      mesh.vertices,
      mesh.faces,
      normals,
      colors,
      up=up_direction(model.scene),
    )
    facts = {
      'vertices': len(mesh.vertices),
      'faces': len(mesh.faces),
      'extent': _extent(mesh.vertices),
      'from': settings.source,
      'resolution': settings.resolution,
    }
    yield register(folder, name, model.step, facts)


def make_points(
  model: models.Model, views: Views, *, min_opacity: float, spacing: float
) -> tuple[point_clouds.PointCloud, float]:
  """Returns the points that training cameras see, and their spacing.

  Args:
    model: the model.
    views: of its training cameras.
    min_opacity: pixels that are less opaque have no point.
    spacing: of points, scene units; 0: half a percent of the radius in which
      half of them are.

  Raises:
    UserError: if no pixel is so opaque.
  """
  cloud = point_clouds.from_views(
    (
      (cameras.take(views.cameras, [i]), image)
      for i, image in enumerate(views.images)
    ),
    min_opacity=min_opacity,
    pixel_center=model.record['pixel_center'],
  )
  if not len(cloud.points):
    raise errors.UserError(
      f'--min_opacity: no surface in a training view has {min_opacity:g}. '
      'Choose a lower one, or train for longer.'
    )
  if not spacing:
    middle = np.median(cloud.points, axis=0)
    distance = np.linalg.norm(cloud.points - middle, axis=-1)
    spacing = 0.005 * float(np.median(distance))
  return point_clouds.thin(cloud, spacing), spacing


def write_points(
  folder: pathlib.Path,
  model: models.Model,
  cloud: point_clouds.PointCloud,
  spacing: float,
) -> str:
  """Writes points, and returns a line about the file."""
  surface_files.write_points(
    folder / 'points.ply', cloud.points, cloud.normals, cloud.colors
  )
  facts = {
    'points': len(cloud.points),
    'spacing': f'{spacing:.3g}',
    'extent': _extent(cloud.points),
  }
  return register(folder, 'points.ply', model.step, facts)


def _extent(points: np.ndarray) -> str:
  """Returns the sides of the box around points, scene units."""
  return ' x '.join(f'{side:.3g}' for side in np.ptp(points, axis=0))


def up_direction(scene: scenes.Scene) -> np.ndarray:
  """Returns what is up in the data's coordinates, a unit vector.

  Where cameras face one way it is y; it is z where a capture is placed, and in
  the other data sets.
  """
  if scene.ndc is not None:
    return np.array([0.0, 1.0, 0.0])
  up = np.array([0.0, 0.0, 1.0])
  if scene.similarity is None:
    return up
  return np.asarray(scene.similarity.rotation, np.float64).T @ up


def write_cameras(
  folder: pathlib.Path,
  model: models.Model,
  model_dir: pathlib.Path,
  cloud: point_clouds.PointCloud | None = None,
) -> Iterator[str]:
  """Writes the training cameras, those that were refined if there are any.

  Args:
    folder: of exports.
    model: the model.
    model_dir: the folder of its run.
    cloud: points of the COLMAP model, with which some programs begin.

  Yields:
    A line about each file.
  """
  train = model.scene.train
  cams, what = train.cameras, 'as they were given'
  if (model_dir / run_dir.REFINED).exists():
    cams, what = camera_files.read(model_dir / run_dir.REFINED), 'refined'
  names = train.names or [f'train_{i:04}.png' for i in range(len(cams.sizes))]
  pixel_center = model.record['pixel_center']
  camera_writers.write_transforms(
    folder / 'transforms.json', cams, names, pixel_center=pixel_center
  )
  facts = {'cameras': len(names), 'poses': what}
  yield register(folder, 'transforms.json', model.step, facts)
  (folder / 'sparse' / '0').mkdir(parents=True, exist_ok=True)
  camera_writers.write_colmap(
    folder / 'sparse' / '0',
    cams,
    names,
    pixel_center=pixel_center,
    points=None if cloud is None else cloud.points,
    colors=None if cloud is None else cloud.colors,
  )
  facts['points'] = 0 if cloud is None else len(cloud.points)
  yield register(folder, 'sparse/0/images.txt', model.step, facts)

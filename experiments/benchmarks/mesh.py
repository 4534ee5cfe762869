"""How near the mesh of a run on the built-in scene is to the true surfaces.

  python experiments/train.py --model_dir=runs/quickstart
  python experiments/benchmarks/mesh.py --model_dir=runs/quickstart

For each way to make a mesh: distances of true points to the mesh (of those that
at least two training cameras see), the fraction of them that have mesh within
three pixels' widths, distances of the mesh to true points, both of these
together in thousandths of a scene unit and in cells of the grid, and errors of
the normals and colors of vertices. Pairs of numbers are the median and the 95th
percentile. Widths of a pixel are those at the cameras' median distance.
`--picture=FILE` draws the last mesh from depth: a photograph of the solids, the
colors and the normals of the mesh, from a test camera.
"""

import pathlib
import sys
import time
from typing import NamedTuple

import numpy as np
from absl import flags
from scipy import spatial

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments import launch
from experiments.benchmarks import machine
from experiments.outputs import exports
from nerf_haiku import backgrounds, cameras, errors, meshing, models, scenes
from nerf_haiku.datasets.procedural import photographs, solids, still_life
from nerf_haiku.io import media

_RESOLUTION = flags.DEFINE_list(
  'resolution', ['128', '256'], 'Points along the longest side of the grid.'
)
_OPACITIES = flags.DEFINE_list(
  'opacities', ['0.3', '0.7'], 'Levels of the meshes of the density.'
)
_PICTURE = flags.DEFINE_string(
  'picture', None, 'PNG file to draw the last mesh from depth to.'
)
_SIDE = 400  # Pixels of each of its panels.
# Rays of each training view along a row, for true points.
_RAYS = 120
_SAMPLES = 2_000_000  # Points on a mesh.
_CHOSEN = 100_000  # Points whose distances are measured.


class Truth(NamedTuple):
  """`N` points of surfaces that training cameras see."""

  points: np.ndarray  # [N, 3] scene units.
  normals: np.ndarray  # [N, 3]
  rgb: np.ndarray  # [N, 3] in [0, 1], as the camera sees it.
  seen: np.ndarray  # [M, 3] some points, those that two cameras see.


def true_surface(cams: cameras.Cameras, seed: int) -> Truth:
  """Traces rays of all cameras to the solids of the built-in scene."""
  items = still_life.make_items(seed)
  points, normals, rgb = [], [], []
  places = (np.indices((_RAYS, _RAYS)).reshape(2, -1).T + 0.5) / _RAYS
  for i, size in enumerate(np.asarray(cams.sizes)):
    origins, directions = photographs.camera_rays(
      np.asarray(cams.camera_to_world[i]),
      np.asarray(cams.intrinsics[i]),
      places * size,
    )
    hit = photographs.trace(items, origins, directions)
    found = hit.item >= 0
    points.append(origins[found] + hit.t[found, None] * directions[found])
    normals.append(hit.normal[found])
    rgb.append(hit.rgb[found])
  all_points = np.concatenate(points)
  rng = np.random.default_rng(0)
  chosen = all_points[rng.permutation(len(all_points))[:_CHOSEN]]
  pieces = [item.solid for item in items]
  count = np.zeros(len(chosen), int)
  for i in range(len(cams.sizes)):
    count += _sees(cams, i, pieces, chosen)
  return Truth(
    all_points, np.concatenate(normals), np.concatenate(rgb), chosen[count >= 2]
  )


def _sees(
  cams: cameras.Cameras,
  index: int,
  pieces: list[solids.Solid],
  points: np.ndarray,
) -> np.ndarray:
  """Returns which points a camera sees."""
  position, depth = cameras.project(
    cams, np.full(len(points), index, np.int32), points.astype(np.float32)
  )
  place = np.asarray(position)
  inside = np.all((place >= 0) & (place < cams.sizes[index]), axis=-1)
  center = np.asarray(cams.camera_to_world[index, :, 3], np.float64)
  directions = points - center
  t, _ = solids.nearest(
    pieces, np.broadcast_to(center, points.shape), directions
  )
  return inside & (np.asarray(depth) > 0) & (t > 1 - 1e-4)


def sample_mesh(mesh: meshing.Mesh, count: int) -> np.ndarray:
  """Returns points spread evenly over a mesh.

  Its vertices may have more than three columns, which are interpolated too.
  """
  a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
  area = np.linalg.norm(np.cross((b - a)[:, :3], (c - a)[:, :3]), axis=-1)
  rng = np.random.default_rng(0)
  face = rng.choice(len(area), count, p=area / area.sum())
  u, v = np.sort(rng.uniform(size=(2, count)), axis=0)
  return (
    u[:, None] * a[face]
    + (v - u)[:, None] * b[face]
    + (1 - v)[:, None] * c[face]
  )


def draw(
  camera: cameras.Cameras, mesh: meshing.Mesh, values: np.ndarray
) -> np.ndarray:
  """Draws a mesh as points that are so many that they cover it.

  Args:
    camera: one camera.
    mesh: the mesh.
    values: `[V, 3]` of its vertices, in [0, 1].

  Returns:
    `[H, W, 3]`, white where there is no mesh.
  """
  height, width = map(int, camera.sizes[0])
  both = meshing.Mesh(np.concatenate([mesh.vertices, values], 1), mesh.faces)
  points, colors = np.split(sample_mesh(both, 4 * _SAMPLES), 2, axis=1)
  position, depth = (
    np.asarray(x)
    for x in cameras.project(
      camera, np.zeros(len(points), np.int32), points.astype(np.float32)
    )
  )
  inside = np.all((position >= 0) & (position < [height, width]), axis=-1)
  kept = np.flatnonzero(inside & (depth > 0))
  kept = kept[np.argsort(-depth[kept])]  # The nearest is drawn last.
  row, column = position[kept].astype(int).T
  image = np.ones((height, width, 3))
  image[row, column] = colors[kept]
  return image


def draw_panels(
  model: models.Model, mesh: meshing.Mesh, colors: np.ndarray, seed: int
) -> np.ndarray:
  """Returns the solids, and colors and normals of a mesh, side by side."""
  camera = cameras.take(model.scene.test.cameras, [2])
  camera = cameras.scale(camera, np.array([[_SIDE, _SIDE]]))
  rgba = photographs.render(still_life.make_items(seed), camera, 0)
  normals = meshing.vertex_normals(mesh)
  panels = [
    scenes.to_float(rgba, background=backgrounds.WHITE),
    draw(camera, mesh, colors / 255),
    draw(camera, mesh, 0.5 + 0.5 * normals),
  ]
  return np.concatenate(panels, axis=1)


def measure(
  model: models.Model,
  views: exports.Views,
  truth: Truth,
  settings: exports.MeshSettings,
) -> list[str]:
  """Returns a row of the table."""
  start = time.perf_counter()
  mesh = exports.make_mesh(model, views, settings)
  seconds = time.perf_counter() - start
  pixel, cell = exports.pixel_width(model), exports.cell_width(views.grid)
  sampled = sample_mesh(mesh, _SAMPLES)
  tree = spatial.KDTree(truth.points)
  to_mesh, _ = spatial.KDTree(sampled).query(truth.seen, workers=-1)
  to_truth, _ = tree.query(sampled[:_CHOSEN], workers=-1)
  both = np.concatenate([to_mesh, to_truth])
  _, nearest = tree.query(mesh.vertices, workers=-1)
  of_faces = meshing.vertex_normals(mesh)
  angles = [
    np.degrees(np.arccos(np.clip(np.sum(x * true, axis=-1), -1, 1)))
    for true in [truth.normals[nearest]]
    for x in (of_faces, model.normals(mesh.vertices))
  ]
  colors = exports.surface_colors(model, views, mesh)
  error = np.abs(colors - 255.0 * truth.rgb[nearest])
  level = f', {settings.opacity:g}' if settings.source != 'depth' else ''
  return [
    settings.source + level,
    str(settings.resolution),
    f'{len(mesh.faces):,}',
    _pair(to_mesh / pixel),
    f'{np.mean(to_mesh < 3 * pixel):.2%}',
    _pair(to_truth / pixel),
    _pair(1e3 * both),
    _pair(both / cell),
    f'{np.median(angles[0]):.1f}',
    f'{np.median(angles[1]):.1f}',
    _pair(error),
    f'{seconds:.1f}',
  ]


def _pair(values: np.ndarray) -> str:
  """Returns the median and the 95th percentile."""
  return f'{np.median(values):.2f}, {np.percentile(values, 95):.2f}'


def main() -> None:
  """Measures, and prints the table."""
  model = models.open_run(launch.model_dir())
  config = launch.CONFIG.value
  if config.dataset_type != 'procedural' or config.procedural.unbounded:
    raise errors.UserError('--model_dir: must be a run on the built-in scene.')
  truth = true_surface(model.scene.train.cameras, config.procedural.seed)
  rows = []
  for resolution in map(int, _RESOLUTION.value):
    settings = exports.MeshSettings(
      exports.FROM_DEPTH, resolution, None, 0.5, 0
    )
    views = exports.render_training_views(model, settings)
    rows.append(measure(model, views, truth, settings))
    for level in map(float, _OPACITIES.value):
      other = settings._replace(source=exports.FROM_DENSITY, opacity=level)
      rows.append(measure(model, views, truth, other))
  machine.print_table(
    (
      'from',
      'grid',
      'faces',
      'to mesh, px',
      'within 3 px',
      'to truth, px',
      'both, 0.001 units',
      'both, cells',
      'normals, degrees',
      "field's",
      'colors of 255',
      's',
    ),
    rows,
  )
  if _PICTURE.value:
    settings = settings._replace(source=exports.FROM_DEPTH)
    mesh = exports.make_mesh(model, views, settings)
    colors = exports.surface_colors(model, views, mesh)
    panels = draw_panels(model, mesh, colors, config.procedural.seed)
    media.write_png(_PICTURE.value, media.to_uint8(panels))
  print(f'A pixel is {exports.pixel_width(model):.4g} scene units wide.')


if __name__ == '__main__':
  launch.run(main, launch.saved_config)

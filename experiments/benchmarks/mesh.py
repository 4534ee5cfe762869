"""How near the mesh of a run on the built-in scene is to the true surfaces.

  python experiments/train.py --model_dir=runs/quickstart
  python experiments/benchmarks/mesh.py --model_dir=runs/quickstart

For each way to make a mesh: distances of true points to the mesh (of those that
at least two training cameras see), the fraction of them that have mesh within
three pixels' widths, distances of the mesh to true points, and errors of the
colors and normals of vertices. Widths of a pixel are those at the median depth.
"""

import pathlib
import sys
import time

import numpy as np
from absl import flags
from scipy import spatial

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments import launch
from experiments.benchmarks import machine
from experiments.outputs import exports
from nerf_haiku import cameras, errors, image_rendering, meshing, models
from nerf_haiku.datasets.procedural import solids, still_life

_RESOLUTION = flags.DEFINE_list(
  'resolution', ['128', '256'], 'Points along the longest side of the grid.'
)
_OPACITIES = flags.DEFINE_list(
  'opacities', ['0.3', '0.7'], 'Levels of the meshes of the density.'
)
# Rays of each training view along a row, for true points.
_RAYS = 200
_SAMPLES = 2_000_000  # Points on a mesh.


def true_surface(
  cams: cameras.Cameras, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns points, normals and the number of cameras that see each."""
  pieces = [item.solid for item in still_life.make_items(seed)]
  points, normals = [], []
  for i, (height, width) in enumerate(np.asarray(cams.sizes)):
    rows, columns = np.meshgrid(
      np.linspace(0, height, _RAYS + 1)[1:] - 0.5 * height / _RAYS,
      np.linspace(0, width, _RAYS + 1)[1:] - 0.5 * width / _RAYS,
      indexing='ij',
    )
    position = np.stack([rows.ravel(), columns.ravel()], axis=-1)
    pose = np.asarray(cams.camera_to_world[i], np.float64)
    plane = cameras.image_plane(cams, np.full(len(position), i), position)
    directions = plane @ pose[:, :3].T
    origins = np.broadcast_to(pose[:, 3], directions.shape)
    t, index = solids.nearest(pieces, origins, directions)
    hit = np.isfinite(t)
    found = origins[hit] + t[hit, None] * directions[hit]
    normal = np.zeros_like(found)
    for k, piece in enumerate(pieces):
      of_piece = index[hit] == k
      normal[of_piece] = solids.normals(piece, found[of_piece])
    points.append(found)
    normals.append(normal)
  all_points, all_normals = np.concatenate(points), np.concatenate(normals)
  kept = np.random.default_rng(0).permutation(len(all_points))[:100_000]
  chosen = all_points[kept]
  count = np.zeros(len(chosen), int)
  for i in range(len(cams.sizes)):
    count += _sees(cams, i, pieces, chosen)
  return all_points, all_normals, np.stack([kept, count])


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
  inside = np.all((position >= 0) & (position < cams.sizes[index]), axis=-1)
  center = np.asarray(cams.camera_to_world[index, :, 3], np.float64)
  directions = points - center
  t, _ = solids.nearest(
    pieces, np.broadcast_to(center, points.shape), directions
  )
  return np.asarray(inside & (np.asarray(depth) > 0)) & (t > 1 - 1e-4)


def sample_mesh(mesh: meshing.Mesh, count: int) -> np.ndarray:
  """Returns points spread evenly over a mesh."""
  a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
  area = np.linalg.norm(np.cross(b - a, c - a), axis=-1)
  rng = np.random.default_rng(0)
  face = rng.choice(len(area), count, p=area / area.sum())
  u, v = np.sort(rng.uniform(size=(2, count)), axis=0)
  return (
    u[:, None] * a[face]
    + (v - u)[:, None] * b[face]
    + (1 - v)[:, None] * c[face]
  )


def measure(
  model: models.Model,
  images: list[image_rendering.RenderedImage],
  truth: tuple[np.ndarray, np.ndarray, np.ndarray],
  settings: exports.MeshSettings,
) -> list[str]:
  """Returns a row of the table."""
  points, normals, (kept, count) = truth
  start = time.perf_counter()
  mesh = exports.make_mesh(model, images, settings)
  seconds = time.perf_counter() - start
  cams = model.scene.train.cameras
  depth = np.linalg.norm(cams.camera_to_world[:, :, 3], axis=-1)
  pixel = float(np.median(depth / cams.intrinsics[:, 0]))
  sampled = sample_mesh(mesh, _SAMPLES)
  seen = points[kept[count >= 2]]
  to_mesh, _ = spatial.KDTree(sampled).query(seen, workers=-1)
  true_tree = spatial.KDTree(points)
  to_truth, _ = true_tree.query(sampled[:100_000], workers=-1)
  outwards = meshing.vertex_normals(mesh)
  of_field = model.normals(mesh.vertices)
  _, nearest = true_tree.query(mesh.vertices, workers=-1)
  angles = [
    np.median(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    for cosine in (
      np.sum(normals[nearest] * x, axis=-1) for x in (of_field, outwards)
    )
  ]
  return [
    settings.source
    + (f', {settings.opacity:g}' if settings.source != 'depth' else ''),
    str(settings.resolution),
    f'{len(mesh.faces):,}',
    f'{np.median(to_mesh) / pixel:.2f}',
    f'{np.percentile(to_mesh, 95) / pixel:.2f}',
    f'{np.mean(to_mesh < 3 * pixel):.2%}',
    f'{np.median(to_truth) / pixel:.2f}',
    f'{np.percentile(to_truth, 95) / pixel:.2f}',
    f'{angles[0]:.1f}, {angles[1]:.1f}',
    f'{seconds:.1f}',
  ]


def main() -> None:
  """Measures, and prints the table."""
  model = models.open_run(launch.model_dir())
  config = launch.CONFIG.value
  if config.dataset_type != 'procedural' or config.procedural.unbounded:
    raise errors.UserError('--model_dir: must be a run on the built-in scene.')
  images = exports.render_training_views(model)
  truth = true_surface(model.scene.train.cameras, config.procedural.seed)
  rows = []
  for resolution in map(int, _RESOLUTION.value):
    ways = [(exports.FROM_DEPTH, 0.5)]
    ways += [(exports.FROM_DENSITY, float(x)) for x in _OPACITIES.value]
    for source, opacity in ways:
      settings = exports.MeshSettings(source, resolution, None, opacity, 0)
      rows.append(measure(model, images, truth, settings))
  machine.print_table(
    (
      'from',
      'grid',
      'faces',
      'to mesh, px',
      '95 %',
      'within 3 px',
      'to truth, px',
      '95 %',
      'normals: field, faces',
      's',
    ),
    rows,
  )


if __name__ == '__main__':
  launch.run(main, launch.saved_config)

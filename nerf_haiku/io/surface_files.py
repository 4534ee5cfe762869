"""Meshes and points as files of other programs, by `trimesh`.

It needs the extra `export`: `pip install 'nerf_haiku[export]'`.
"""

import pathlib
from typing import Any

import numpy as np

from nerf_haiku import extras
from nerf_haiku.io import files

# Suffixes of files of meshes.
MESH_SUFFIXES = ('ply', 'obj', 'glb')


def check_installed() -> None:
  """Checks, before hours are spent, that the libraries are there.

  Raises:
    UserError: if one is not; it says how to install it.
  """
  for name in ('trimesh', 'skimage.measure', 'fast_simplification'):
    extras.load(name, 'export')


def write_mesh(
  path: pathlib.Path,
  vertices: np.ndarray,
  faces: np.ndarray,
  normals: np.ndarray,
  colors: np.ndarray,
  *,
  up: np.ndarray,
) -> None:
  """Writes a mesh, whole or not at all.

  Args:
    path: a `.ply`, `.obj` or `.glb` file. The first two keep the axes; GLB,
      whose y is up, is turned.
    vertices: `[V, 3]`.
    faces: `[F, 3]` int, counterclockwise from outside.
    normals: `[V, 3]` unit vectors.
    colors: `[V, 3]` uint8.
    up: `[3]` unit vector. Where it is z, (x, y, z) becomes (x, z, -y) in GLB.

  Raises:
    UserError: if trimesh is not installed.
    WriteError: if the file cannot be written.
  """
  suffix = path.suffix.removeprefix('.')
  if suffix == 'glb':
    rotation = _turn_to_y(np.asarray(up, np.float64))
    vertices, normals = vertices @ rotation.T, normals @ rotation.T
  mesh = _trimesh().Trimesh(
    vertices,
    faces,
    vertex_normals=normals,
    vertex_colors=_opaque(colors),
    process=False,
  )
  options: dict[str, Any] = {}
  if suffix != 'glb':
    options['vertex_normal' if suffix == 'ply' else 'include_normals'] = True
  content = mesh.export(file_type=suffix, **options)
  files.write(path, content.encode() if isinstance(content, str) else content)


def write_points(
  path: pathlib.Path,
  points: np.ndarray,
  normals: np.ndarray,
  colors: np.ndarray,
) -> None:
  """Writes points as a PLY file, whole or not at all.

  Args:
    path: a `.ply` file.
    points: `[N, 3]`.
    normals: `[N, 3]` unit vectors.
    colors: `[N, 3]` uint8.

  Raises:
    UserError: if trimesh is not installed.
    WriteError: if the file cannot be written.
  """
  # A point cloud of trimesh has no normals, but the vertices of a mesh have.
  mesh = _trimesh().Trimesh(
    points,
    np.zeros((0, 3), int),
    vertex_normals=normals,
    vertex_colors=_opaque(colors),
    process=False,
  )
  files.write(path, mesh.export(file_type='ply', vertex_normal=True))


def _turn_to_y(up: np.ndarray) -> np.ndarray:
  """Returns the smallest rotation `[3, 3]` that turns a unit vector to y."""
  if up[1] < -1 + 1e-9:  # Any half turn does: this one is about x.
    return np.diag([1.0, -1.0, -1.0])
  axis = np.cross(up, [0.0, 1.0, 0.0])  # As long as the sine of the angle.
  cross = np.cross(axis, np.eye(3)).T
  rotation: np.ndarray = np.eye(3) + cross + cross @ cross / (1 + up[1])
  return rotation


def _trimesh() -> Any:
  return extras.load('trimesh', 'export')


def _opaque(colors: np.ndarray) -> np.ndarray:
  return np.pad(colors, ((0, 0), (0, 1)), constant_values=255)

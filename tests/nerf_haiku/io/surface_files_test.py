"""Files of meshes and points, read back by trimesh."""

import pathlib
from unittest import mock

import chex
import numpy as np
import trimesh
from absl.testing import parameterized

from nerf_haiku import errors
from nerf_haiku.io import surface_files

_VERTICES = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3.0]])
_FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
_NORMALS = np.eye(4)[:, :3]
_NORMALS[3] = (0.6, 0.0, 0.8)
_COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]])
_COLORS = _COLORS.astype(np.uint8)


class SurfaceFilesTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  @parameterized.parameters('ply', 'obj', 'glb')
  def test_a_mesh_comes_back(self, suffix):
    path = self.folder / f'a.{suffix}'
    surface_files.write_mesh(
      path, _VERTICES, _FACES, _NORMALS, _COLORS, up=np.array([0, 0, 1])
    )
    read = trimesh.load_mesh(path, process=False)
    if isinstance(read, trimesh.Scene):
      read = read.to_geometry()
    expected, normals = _VERTICES, _NORMALS
    if suffix == 'glb':  # z was up, y is.
      expected, normals = (
        x[:, [0, 2, 1]] * (1, 1, -1) for x in (expected, normals)
      )
    np.testing.assert_allclose(read.vertices, expected, atol=1e-6)
    np.testing.assert_array_equal(read.faces, _FACES)
    # Its reader makes normals from faces.
    content = path.read_bytes()
    if suffix == 'obj':
      self.assertIn(b'vn 0.60000000 0.00000000 0.80000000', content)
    else:
      last = np.asarray(normals[3] + 0.0, '<f4').tobytes()  # No -0.
      self.assertIn(last, content)
    np.testing.assert_allclose(
      read.visual.vertex_colors[:, :3], _COLORS, atol=1
    )
    # Counterclockwise from outside, after the axes were turned too.
    self.assertAlmostEqual(read.volume, 1.0, places=5)

  @parameterized.parameters(
    ([0, 1, 0],), ([0, -1, 0],), ([1, 0, 0],), ([0.6, -0.64, 0.48],)
  )
  def test_what_is_up_is_y_in_glb(self, up):
    path = self.folder / 'a.glb'
    up = np.array(up, float)
    surface_files.write_mesh(path, _VERTICES, _FACES, _NORMALS, _COLORS, up=up)
    read = trimesh.load_mesh(path, process=False)
    if isinstance(read, trimesh.Scene):
      read = read.to_geometry()
    np.testing.assert_allclose(read.vertices[:, 1], _VERTICES @ up, atol=1e-6)
    # Turned, not mirrored, and of the same size.
    self.assertAlmostEqual(read.volume, 1.0, places=5)
    np.testing.assert_allclose(
      np.linalg.norm(read.vertices, axis=-1), [0, 1, 2, 3], atol=1e-6
    )

  def test_points_come_back(self):
    path = self.folder / 'points.ply'
    surface_files.write_points(path, _VERTICES, _NORMALS, _COLORS)
    read = trimesh.load(path)
    np.testing.assert_allclose(read.vertices, _VERTICES)
    np.testing.assert_array_equal(read.colors[:, :3], _COLORS)
    header = path.read_bytes().split(b'end_header')[0]
    for name in (b'nx', b'ny', b'nz', b'red', b'element vertex 4'):
      self.assertIn(name, header)
    # Normals are float32 after the position.
    body = path.read_bytes().split(b'end_header\n')[1]
    row = np.frombuffer(body[: len(body) // 4], '<f4', count=6)
    np.testing.assert_array_equal(row[3:], _NORMALS[0])

  def test_what_is_missing_is_named(self):
    message = r'trimesh is not installed: pip install .*\[export\]'
    with (
      mock.patch.dict('sys.modules', {'trimesh': None}),
      self.assertRaisesRegex(errors.UserError, message),
    ):
      surface_files.check_installed()

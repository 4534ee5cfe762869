"""Meshes of a ball, whose distances, normals and depths are known."""

import chex
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import camera_paths, cameras, contraction, meshing

_RADIUS = 0.6
_CONTRACTED = meshing.Space(
  lambda x: np.asarray(contraction.expand(x), float),
  lambda x: np.asarray(contraction.contract(x), float),
)
_BOX = np.array([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def _views(num=12, size=64, radius=_RADIUS, distance=3.0, elevations=(-50, 40)):
  """Views of a ball around the origin, rendered by its equation."""
  views = []
  for elevation in elevations:
    poses = camera_paths.circle(num, elevation=elevation, radius=distance)
    cams = cameras.pinhole(poses, [[size, size]] * num, [1.5 * size] * num)
    for i in range(num):
      camera = cameras.take(cams, [i])
      pixel = cameras.pixels(size, size)
      rays = cameras.cast(
        camera,
        jnp.zeros(len(pixel), int),
        pixel,
        near=0.0,
        far=9.0,
        box=None,
        pixel_center=True,
      )
      origin, direction = (
        np.asarray(x, float) for x in (rays.origins, rays.directions)
      )
      a = np.sum(direction**2, -1)
      b = np.sum(origin * direction, -1)
      c = np.sum(origin**2, -1) - radius**2
      root = b * b - a * c
      hit = root > 0
      depth = np.where(hit, (-b - np.sqrt(np.maximum(root, 0))) / a, 0.0)
      views.append(
        meshing.DepthView(
          camera,
          depth.reshape(size, size).astype(np.float32),
          hit.reshape(size, size).astype(np.float32),
        )
      )
  return views


def _volume_of(mesh):
  a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
  return np.sum(a * np.cross(b, c)) / 6


class ExtractTest(chex.TestCase):
  def _ball(self, shape=(41, 41, 41), box=_BOX):
    return meshing.sample_volume(
      meshing.Grid(box, shape),
      lambda x: _RADIUS - np.linalg.norm(x, axis=-1),
      lambda x: np.ones(len(x), bool),
    )

  def test_a_ball(self):
    mesh = meshing.extract(self._ball(), 0.1)
    distance = np.linalg.norm(mesh.vertices, axis=-1)
    np.testing.assert_allclose(distance, 0.5, atol=3e-3)
    # Positive: faces are counterclockwise from outside.
    self.assertAlmostEqual(_volume_of(mesh), 4 / 3 * np.pi * 0.5**3, delta=5e-3)
    normals = meshing.vertex_normals(mesh)
    outwards = mesh.vertices / distance[:, None]
    self.assertGreater(np.min(np.sum(normals * outwards, -1)), 0.98)

  def test_axes_that_differ(self):
    box = np.array([[-0.7, -0.8, -1.0], [0.9, 0.8, 1.4]])
    shape = meshing.make_grid(box, 61).shape
    self.assertEqual(shape, (41, 41, 61))
    mesh = meshing.extract(self._ball(shape, box), 0.0)
    distance = np.linalg.norm(mesh.vertices, axis=-1)
    np.testing.assert_allclose(distance, _RADIUS, atol=2e-3)

  def test_nothing_where_it_is_unknown(self):
    volume = self._ball()
    known = volume.known.copy()
    known[:20] = False  # x < 0
    mesh = meshing.extract(volume._replace(known=known), 0.0)
    self.assertGreaterEqual(mesh.vertices[:, 0].min(), -1e-6)
    self.assertLess(mesh.vertices[:, 0].min(), 0.051)
    half = _volume_of(meshing.extract(volume, 0.0)) / 2
    # A cone from the origin to an open half ball is half of the whole.
    self.assertAlmostEqual(_volume_of(mesh), half, delta=0.03)

  def test_no_surface(self):
    mesh = meshing.extract(self._ball(), 5.0)
    self.assertEqual(mesh.faces.shape, (0, 3))
    self.assertEqual(meshing.drop_specks(mesh, 3).faces.shape, (0, 3))

  def test_specks_are_dropped(self):
    mesh = meshing.extract(self._ball(), 0.0)
    speck = np.array([[2.0, 2, 2], [2.1, 2, 2], [2, 2.1, 2]])
    both = meshing.Mesh(
      np.concatenate([speck, mesh.vertices]),
      np.concatenate([[[0, 1, 2]], mesh.faces + 3]),
    )
    cleaned = meshing.drop_specks(both, 2)
    self.assertEqual(len(cleaned.faces), len(mesh.faces))
    self.assertAlmostEqual(_volume_of(cleaned), _volume_of(mesh))

  def test_fewer_faces(self):
    mesh = meshing.extract(self._ball(), 0.0)
    far = mesh._replace(vertices=mesh.vertices + np.array([5e6, 0, 0]))
    small = meshing.simplify(far, 500)
    self.assertBetween(len(small.faces), 300, 500)
    distance = np.linalg.norm(small.vertices - (5e6, 0, 0), axis=-1)
    np.testing.assert_allclose(distance, _RADIUS, atol=0.03)
    self.assertIs(meshing.simplify(mesh, 10**6), mesh)


class FusionTest(chex.TestCase):
  def test_the_surface_of_a_ball(self):
    shape = (49, 49, 49)
    volume = meshing.fuse_depths(_views(), meshing.Grid(_BOX, shape))
    mesh = meshing.extract(volume, 0.0)
    distance = np.linalg.norm(mesh.vertices, axis=-1)
    cell = 2 / 48
    self.assertLess(np.percentile(np.abs(distance - _RADIUS), 95), 0.5 * cell)
    self.assertLess(np.max(np.abs(distance - _RADIUS)), 2 * cell)
    self.assertGreater(_volume_of(mesh), 0.8 * 4 / 3 * np.pi * _RADIUS**3)

  def test_values_are_cells_behind_the_surface(self):
    """On the axis of a camera, distances along it are those to the ball."""
    view = _views(num=1, elevations=(0,), size=65)[0]
    pose = np.asarray(view.camera.camera_to_world[0])
    axis = pose[:, 3] / np.linalg.norm(pose[:, 3])
    points = axis * np.array([[1.0], [0.7], [0.6], [0.5], [0.0]])
    value, is_seen = meshing._signed_distance(
      view, points, np.full(5, 0.1), 2.0
    )
    np.testing.assert_allclose(value, [-2, -1, 0, 1, 2], atol=0.02)
    np.testing.assert_array_equal(is_seen, [1, 1, 1, 1, 0])

  def test_what_is_not_seen_is_unknown(self):
    views = [_views(num=4)[1]]  # One camera: half of the ball.
    volume = meshing.fuse_depths(views, meshing.Grid(_BOX, (33, 33, 33)))
    mesh = meshing.extract(volume, 0.0)
    towards = np.asarray(views[0].camera.camera_to_world[0, :, 3])
    towards = towards / np.linalg.norm(towards)
    self.assertGreater(np.min(mesh.vertices @ towards), -0.05)

  def test_what_too_few_views_see_is_unknown(self):
    views = _views(num=4)[:2]  # A quarter turn apart.
    a, b = (
      x / np.linalg.norm(x)
      for x in (np.asarray(v.camera.camera_to_world[0, :, 3]) for v in views)
    )
    for min_views, is_both in ((1, False), (2, True)):
      volume = meshing.fuse_depths(
        views, meshing.Grid(_BOX, (33, 33, 33)), min_views=min_views
      )
      mesh = meshing.extract(volume, 0.0)
      seen = np.stack([mesh.vertices @ a, mesh.vertices @ b]) > -0.05
      self.assertTrue(np.all(np.any(seen, axis=0)))
      self.assertEqual(bool(np.all(seen)), is_both)

  def test_empty_pixels_carve(self):
    """A surface that one camera claims is gone where others see through."""
    views = _views()
    liar = views[0]._replace(
      depth=np.full_like(views[0].depth, 2.2),
      opacity=np.ones_like(views[0].opacity),
    )
    grid = meshing.Grid(_BOX, (33, 33, 33))
    carved = meshing.fuse_depths([liar, *views[1:]], grid)
    alone = meshing.fuse_depths([liar], grid)
    for volume, has_surface in ((alone, True), (carved, False)):
      mesh = meshing.extract(volume, 0.0)
      outside = np.linalg.norm(mesh.vertices, axis=-1) > 0.85
      self.assertEqual(bool(np.any(outside)), has_surface)

  def test_a_grid_in_contracted_space(self):
    """A ball of 3 around the origin, seen from 9: at a radius of 2 - 1/3."""
    views = _views(radius=3.0, distance=9.0, size=96)
    box = np.asarray(contraction.BOX, float)
    volume = meshing.fuse_depths(
      views, meshing.Grid(box, (65, 65, 65), _CONTRACTED)
    )
    mesh = meshing.extract(volume, 0.0)
    radius = np.linalg.norm(mesh.vertices, axis=-1)
    near = np.abs(radius - 5 / 3) < 4 / 64  # A cell.
    self.assertGreater(np.mean(near), 0.9)

  def test_cells_grow_with_the_distance(self):
    box = np.asarray(contraction.BOX, float)
    radius = np.array([0.5, 1.5, 1.8])
    points = np.stack([radius, 0 * radius, 0 * radius], -1)
    sizes = meshing.Grid(box, (401, 401, 401), _CONTRACTED).cell_sizes(points)
    true = 1 / (2 - radius)
    # Lengths grow by r^2 along the radius, and by r over s across it.
    expected = 0.01 * (true**2 * (true / radius) ** 2) ** (1 / 3)
    expected[0] = 0.01
    np.testing.assert_allclose(sizes, expected, rtol=0.05)


class LensTest(chex.TestCase):
  def test_what_a_lens_leads_back_into_the_image_is_not_seen(self):
    """At x / z = 2, x (1 - 0.2 x^2) is 0.4, which is in the image; 0.42 is."""
    camera = cameras.pinhole(np.eye(3, 4)[None], [[40, 40]], [40.0])
    camera = cameras.with_lenses(camera)
    camera.distortion[0, 0] = -0.2
    flat = np.full((40, 40), 2.0, np.float32)
    view = meshing.DepthView(camera, flat, np.ones_like(flat))
    points = np.array([[0.84, 0.0, -2.0], [4.0, 0.0, -2.0], [0.0, 0.0, -2.0]])
    count = meshing.count_views([view], points, np.full(3, 0.1))
    np.testing.assert_array_equal(count, [1, 0, 1])
    box = np.array([[-6.0, -6.0, -3.0], [6.0, 6.0, -1.0]])
    volume = meshing.fuse_depths([view], meshing.make_grid(box, 49))
    mesh = meshing.extract(volume, 0.0)
    # To the corners of the image, and no farther.
    self.assertBetween(np.abs(mesh.vertices[:, :2]).max(), 0.9, 1.5)


class EdgeTest(chex.TestCase):
  def test_what_is_in_front_of_an_edge_is_empty(self):
    """Columns are 2 and 5 away: nothing is known between them at the edge."""
    camera = cameras.pinhole(np.eye(3, 4)[None], [[40, 40]], [40.0])
    depth = np.full((40, 40), 2.0, np.float32)
    depth[:, 20:] = 5.0
    view = meshing.DepthView(camera, depth, np.ones_like(depth))
    points = np.array([[0.0, 0.0, -1.0], [0, 0, -1.9], [0, 0, -3.5]])
    points[:, 0] = 1e-3
    value, is_seen = meshing._signed_distance(
      view, points, np.full(3, 0.1), 4.0
    )
    np.testing.assert_array_equal(is_seen, [1, 0, 0])
    self.assertEqual(value[0], -4)


class CountViewsTest(chex.TestCase):
  def test_occluded_points_are_not_seen(self):
    views = _views(num=6, elevations=(0,))
    on = np.array([[0.0, 0.0, _RADIUS], [0.1, 0.0, 0.0], [0.9, 0.0, 0.0]])
    on[0] = np.asarray(views[0].camera.camera_to_world[0, :, 3]) / 3 * _RADIUS
    count = meshing.count_views(views, on, np.full(3, 0.05))
    self.assertBetween(count[0], 2, 3)  # Those of its side.
    self.assertEqual(count[1], 0)  # Inside.
    self.assertEqual(count[2], 0)  # In the air.


class GridTest(parameterized.TestCase):
  def test_points_include_the_faces(self):
    grid = meshing.make_grid(_BOX * (1, 2, 1), 5)
    self.assertEqual(grid.shape, (3, 5, 3))
    points = grid.points(np.arange(45))
    np.testing.assert_array_equal(points[0], [-1, -2, -1])
    np.testing.assert_array_equal(points[1], [-1, -2, 0])  # z is fastest.
    np.testing.assert_array_equal(points[-1], [1, 2, 1])

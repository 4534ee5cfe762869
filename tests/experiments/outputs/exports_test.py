"""Exports of runs whose field is a ball of a known color."""

import json
import pathlib
from unittest import mock

import chex
import numpy as np
import pycolmap
import trimesh
from absl.testing import parameterized

from experiments.outputs import exports, run_dir
from nerf_haiku import (
  camera_files,
  camera_paths,
  cameras,
  errors,
  image_rendering,
  meshing,
  models,
  records,
  scene_files,
  similarity,
)
from tests.support import trained

_RADIUS = 1.0
_COLOR = (0.8, 0.4, 0.2)
_SETTINGS = exports.MeshSettings(exports.FROM_DEPTH, 48, None, 0.5, 0)


def _orbit(size=48, distance=4.0, num=10):
  """Cameras around the origin, from above and below."""
  poses = np.concatenate(
    [
      camera_paths.circle(num, elevation=x, radius=distance)
      for x in (-70, -20, 25, 75)
    ]
  )
  count = len(poses)
  return cameras.pinhole(poses, [[size, size]] * count, [1.6 * size] * count)


def _render_ball(camera, center=(0.0, 0.0, 0.0), radius=_RADIUS):
  """Renders a ball by its equation; depths as models have them."""
  height, width = map(int, camera.sizes[0])
  pose = np.asarray(camera.camera_to_world[0], float)
  plane = cameras.image_plane(
    camera, np.zeros(height * width, int), cameras.pixels(height, width) + 0.5
  )
  direction = plane @ pose[:, :3].T
  offset = pose[:, 3] - center
  a, b = np.sum(direction**2, -1), direction @ offset
  root = b * b - a * (offset @ offset - radius**2)
  hit = (root > 0).reshape(height, width)
  depth = ((-b - np.sqrt(np.maximum(root, 0))) / a).reshape(height, width)
  opacity = np.where(hit, 0.95, 0.0)
  rgb = opacity[..., None] * _COLOR
  return image_rendering.RenderedImage(
    rgb, depth * opacity, 0 * depth, opacity, np.zeros((height, width, 2))
  )


def _is_ball(mesh, tolerance, center=(0, 0, 0), radius=_RADIUS):
  distance = np.linalg.norm(mesh.vertices - center, axis=-1)
  np.testing.assert_allclose(np.median(distance), radius, atol=tolerance)
  np.testing.assert_allclose(
    np.percentile(distance, [5, 95]), radius, atol=3 * tolerance
  )


def _volume(mesh):
  a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
  return np.sum(a * np.cross(b, c)) / 6


class FolderTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def _run(self, name, **settings):
    folder = self.folder / name
    folder.mkdir()
    (folder / models.RECORD).write_text('{}')
    (folder / models.SCENE).write_text('{}')
    config = {'num_steps': 9, 'llff_hold': 8} | settings
    content = {'seed': config.pop('seed', 0), 'config': config}
    (folder / run_dir.CONFIG).write_text(json.dumps(content))
    return folder

  def test_the_same_run_may_write_again(self):
    run, longer = self._run('a'), self._run('b', num_steps=90)
    exports.open_folder(self.folder / 'out', run)
    (self.folder / 'out' / 'mesh.ply').write_text('x')
    exports.register(self.folder / 'out', 'mesh.ply', 7, {})
    index = (self.folder / 'out' / exports.INDEX).read_text()
    for again in (run, longer):
      exports.open_folder(self.folder / 'out', again)
    self.assertEqual((self.folder / 'out' / exports.INDEX).read_text(), index)

  @parameterized.parameters({'seed': 1}, {'llff_hold': 4})
  def test_another_run_is_refused(self, **settings):
    exports.open_folder(self.folder / 'out', self._run('a'))
    with self.assertRaisesRegex(errors.UserError, '--out: .* another run'):
      exports.open_folder(self.folder / 'out', self._run('b', **settings))

  def test_files_of_something_else_are_refused(self):
    run = self._run('a')
    with self.assertRaisesRegex(errors.UserError, '--out: .* but no export'):
      exports.open_folder(run, run)
    (self.folder / 'file').write_text('')
    with self.assertRaisesRegex(errors.UserError, '--out: .* written'):
      exports.open_folder(self.folder / 'file' / 'out', run)

  def test_what_was_written_is_noted(self):
    run, out = self._run('a'), self.folder / 'out'
    exports.open_folder(out, run)
    (out / 'x.ply').write_bytes(b'0' * 2_500_000)
    line = exports.register(out, 'x.ply', 7, {'faces': 1234, 'from': 'depth'})
    self.assertEqual(line, f'{out}/x.ply: 2.5 MB, faces 1,234, from depth')
    content = json.loads((out / exports.INDEX).read_text())
    self.assertEqual(
      content['files']['x.ply'], {'step': 7, 'faces': 1234, 'from': 'depth'}
    )


class ModelTest(chex.TestCase):
  """A model that renders a ball, whatever its parameters are."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def _model(self, render=_render_ball, orbit=None, kind='hierarchical', **kw):
    views = _orbit() if orbit is None else orbit
    scene = trained.scene()
    split = scene.train._replace(cameras=views)
    scene = scene._replace(train=split, **kw)
    record = trained.record(kind, contracted=scene.contracted)
    model = trained.model(record, scene)
    patch = mock.patch.object(
      models.Model, 'render', lambda self, camera: render(camera)
    )
    patch.start()
    self.addCleanup(patch.stop)
    return model

  def _mesh(self, model, settings=_SETTINGS):
    views = exports.render_training_views(model, settings)
    return exports.make_mesh(model, views, settings)

  def test_a_ball(self):
    mesh = self._mesh(self._model())
    _is_ball(mesh, 0.02)
    # Outside is outside.
    self.assertAlmostEqual(_volume(mesh), 4 / 3 * np.pi, delta=0.2)

  def test_the_data_are_far_away_and_turned(self):
    """Positions are those of the data, where float32 has steps of half."""
    center = np.array([5e6, -3e6, 2e6])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    moved = similarity.Similarity(0.01, rotation, -0.01 * rotation @ center)
    orbit = _orbit(distance=400.0)
    pose = np.asarray(orbit.camera_to_world, np.float64)
    pose[:, :, 3] += center
    model = self._model(
      lambda camera: _render_ball(camera, center, 100.0),
      orbit._replace(camera_to_world=pose),
      similarity=moved,
    )
    mesh = self._mesh(model)
    _is_ball(mesh, 2.0, center, 100.0)
    up = exports.up_direction(model.scene)
    np.testing.assert_allclose(rotation @ up, [0, 0, 1], atol=1e-12)

  def test_contracted_space(self):
    orbit = _orbit(distance=12.0, size=64)
    model = self._model(
      lambda camera: _render_ball(camera, radius=3.0), orbit, contracted=True
    )
    mesh = self._mesh(model, _SETTINGS._replace(resolution=96))
    distance = np.linalg.norm(mesh.vertices, axis=-1)
    # A cell of 4 / 95 is 9 times as long there, along the radius.
    self.assertLess(abs(np.median(distance) - 3.0), 9 * 4 / 95)
    self.assertGreater(_volume(mesh), 0)

  def test_device_coordinates(self):
    """In them z runs the other way, and what is outside must stay outside."""
    x, y = np.meshgrid([-0.4, 0.0, 0.4], [-0.4, 0.0, 0.4])
    pose = np.tile(np.eye(3, 4, dtype=np.float32), (9, 1, 1))
    pose[:, 0, 3], pose[:, 1, 3] = x.ravel(), y.ravel()
    views = cameras.pinhole(pose, [[48, 48]] * 9, [48.0] * 9)
    center = np.array([0.0, 0.0, -4.0])
    model = self._model(
      lambda camera: _render_ball(camera, center), views,
      ndc=cameras.Ndc((2.0, 2.0), 1.0),
    )  # fmt: skip
    box = np.array([[-2.0, -2, -9], [2, 2, 0]])
    mesh = self._mesh(model, _SETTINGS._replace(resolution=96, box=box))
    offset = mesh.vertices - center
    distance = np.linalg.norm(offset, axis=-1)
    np.testing.assert_allclose(np.median(distance), _RADIUS, atol=0.1)
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    outwards = np.sum(np.cross(b - a, c - a) * (a - center), axis=-1)
    self.assertGreater(np.mean(outwards > 0), 0.95)
    np.testing.assert_array_equal(exports.up_direction(model.scene), [0, 1, 0])

  def test_the_density_where_it_is_seen(self):
    """Surfaces in the ball are those of nothing that a camera sees."""

    def query(self, points, viewdirs):
      radius = np.linalg.norm(points, axis=-1)
      dense = (radius < _RADIUS) & (np.abs(radius - 0.5) > 0.2)
      return np.where(dense, 100.0, 0.0), np.zeros_like(points)

    settings = _SETTINGS._replace(source=exports.FROM_DENSITY)
    with mock.patch.object(models.Model, 'query_field', query):
      mesh = self._mesh(self._model(), settings)
    _is_ball(mesh, 0.04)
    self.assertGreater(np.linalg.norm(mesh.vertices, axis=-1).min(), 0.8)

  def test_few_faces(self):
    mesh = self._mesh(self._model(), _SETTINGS._replace(num_faces=300))
    self.assertBetween(len(mesh.faces), 200, 300)
    _is_ball(mesh, 0.03)

  def test_no_surface(self):
    model = self._model(lambda camera: _render_ball(camera, radius=0.0))
    with self.assertRaisesRegex(errors.UserError, 'There is no surface'):
      self._mesh(model)

  @parameterized.parameters(False, True)
  def test_a_box_in_the_data_s_coordinates(self, is_turned):
    turn, center = np.eye(3)[[1, 2, 0]], np.array([7.0, 8.0, 9.0])
    orbit, changes = _orbit(), {}
    if is_turned:
      moved = similarity.Similarity(0.5, turn, -0.5 * turn @ center)
      pose = np.array(orbit.camera_to_world, np.float64)
      pose[:, :, 3] += center
      orbit, changes = (
        orbit._replace(camera_to_world=pose),
        {'similarity': moved},
      )
    else:
      center = np.zeros(3)
    model = self._model(
      lambda camera: _render_ball(camera, center), orbit, **changes
    )
    box = np.array([[-1.2, -1.2, 0.25], [0.5, 1.2, 1.2]])
    mesh = self._mesh(model, _SETTINGS._replace(box=box + center))
    _is_ball(mesh, 0.02, center)
    # Cut where the box ends, to a cell.
    expected = np.array(
      [[-(0.9375**0.5), -(0.9375**0.5), 0.25], [0.5, 0.9375**0.5, 1]]
    )
    found = np.stack([mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)])
    np.testing.assert_allclose(found - center, expected, atol=0.07)
    with self.assertRaisesRegex(errors.UserError, '--box: 100,.* modelled'):
      self._mesh(model, _SETTINGS._replace(box=box + 100 - box[0]))

  def test_views_are_as_fine_as_the_grid(self):
    model = self._model(orbit=_orbit(size=640))
    views = exports.render_training_views(model, _SETTINGS)
    # 4 / 1024 a pixel, and half of a cell of 3 / 47.
    size = 640 * (4 / 1024) / (0.5 * 3 / 47)
    np.testing.assert_allclose(views.cameras.sizes, size, atol=1)
    np.testing.assert_allclose(
      views.cameras.intrinsics[:, 0] / views.cameras.sizes[:, 1], 1.6, rtol=1e-6
    )
    self.assertEqual(views.images[0].depth.shape, tuple(views.cameras.sizes[0]))
    _is_ball(exports.make_mesh(model, views, _SETTINGS), 0.02)

  def _out(self, model):
    run = self.folder / 'run'
    run.mkdir()
    records.write(run / models.RECORD, model.record)
    scene_files.write(run / models.SCENE, model.scene)
    (run / run_dir.CONFIG).write_text('{"seed": 0, "config": {}}')
    out = run / 'export'
    exports.open_folder(out, run)
    return run, out

  def test_points(self):
    model = self._model()
    _, out = self._out(model)
    views = exports.render_training_views(model, _SETTINGS)
    cloud, spacing = exports.make_points(
      model, views, min_opacity=0.9, spacing=0.1
    )
    line = exports.write_points(out, model, cloud, spacing)
    self.assertRegex(line, r'points.ply: .* kB, points [\d,]+, spacing 0.1, ')
    read = trimesh.load(out / 'points.ply')
    np.testing.assert_allclose(
      np.linalg.norm(read.vertices, axis=-1), _RADIUS, atol=1e-5
    )
    cosine = np.sum(cloud.normals * cloud.points, axis=-1)
    self.assertGreater(np.percentile(cosine, 5), 0.98)
    # As models have it: over black, less opaque.
    color = np.rint(255 * 0.95 * np.array(_COLOR))
    difference = np.asarray(read.colors[:, :3], float) - color
    self.assertLessEqual(np.abs(difference).max(), 1)
    # Each cube of the lattice has one, and the ball's shell crosses about
    # three faces' worth of cubes for each square of its area.
    self.assertBetween(len(cloud.points), 4 * np.pi / 0.01, 8 * np.pi / 0.01)
    with self.assertRaisesRegex(errors.UserError, '--min_opacity'):
      exports.make_points(model, views, min_opacity=0.99, spacing=0.1)

  def test_a_mesh_and_its_files(self):
    model = self._model()
    _, out = self._out(model)
    views = exports.render_training_views(model, _SETTINGS)
    mesh = exports.make_mesh(model, views, _SETTINGS)
    lines = list(
      exports.write_mesh(out, model, views, mesh, ['ply', 'glb'], _SETTINGS)
    )
    self.assertLen(lines, 2)
    for name in ('mesh.ply', 'mesh.glb'):
      read = trimesh.load_mesh(out / name, process=False)
      if isinstance(read, trimesh.Scene):
        read = read.to_geometry()
      self.assertEqual(len(read.faces), len(mesh.faces))
      self.assertIn(name, ' '.join(lines))

  @parameterized.parameters(False, True)
  def test_colors_are_those_that_cameras_see(self, is_moved):
    """The field's color is the viewing direction's."""
    turn, center, changes = np.eye(3)[[1, 2, 0]], np.zeros(3), {}
    orbit = _orbit()
    if is_moved:
      center = np.array([7.0, 8.0, 9.0])
      changes['similarity'] = similarity.Similarity(
        0.5, turn, -0.5 * turn @ center
      )
      pose = np.array(orbit.camera_to_world, np.float64)
      pose[:, :, 3] += center
      orbit = orbit._replace(camera_to_world=pose)
    model = self._model(
      lambda camera: _render_ball(camera, center), orbit, **changes
    )
    views = exports.render_training_views(model, _SETTINGS)
    mesh = exports.make_mesh(model, views, _SETTINGS)

    def query(self, points, viewdirs):
      return np.zeros(len(points)), 0.5 + 0.5 * viewdirs

    with mock.patch.object(models.Model, 'query', query):
      colors = exports.surface_colors(model, views, mesh)
    found = 2 * (colors / 255.0) - 1
    towards = views.cameras.camera_to_world[:, :, 3] - mesh.vertices[:, None]
    towards = towards / np.linalg.norm(towards, axis=-1, keepdims=True)
    cosine = np.sum(towards * meshing.vertex_normals(mesh)[:, None], axis=-1)
    best = np.argmax(cosine, axis=1)
    expected = -towards[np.arange(len(best)), best]
    # Where the ball ends in an image, the next best one may be taken.
    is_equal = np.linalg.norm(found - expected, axis=-1) < 0.02
    self.assertGreater(np.mean(is_equal), 0.95)

  def test_cameras_that_were_refined(self):
    model = self._model()
    run, out = self._out(model)
    given = model.scene.train.cameras
    pose = np.array(given.camera_to_world)
    pose[:, :, 3] += 0.25
    for refined in (None, given._replace(camera_to_world=pose)):
      if refined is not None:
        camera_files.write(run / run_dir.REFINED, refined)
      lines = list(exports.write_cameras(out, model, run))
      expected = given if refined is None else refined
      word = 'as they were given' if refined is None else 'refined'
      self.assertTrue(all(f'poses {word}' in line for line in lines))
      frames = json.loads((out / 'transforms.json').read_text())['frames']
      np.testing.assert_allclose(
        [frame['transform_matrix'][:3] for frame in frames],
        expected.camera_to_world,
        atol=1e-7,
      )
      colmap = pycolmap.Reconstruction(str(out / 'sparse' / '0'))
      centers = {
        image.name: image.projection_center()
        for image in colmap.images.values()
      }
      np.testing.assert_allclose(
        [centers[frame['file_path']] for frame in frames],
        expected.camera_to_world[:, :, 3],
        atol=1e-5,
      )

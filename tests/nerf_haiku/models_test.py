"""A trained model: what is queried is what is rendered, in any space."""

import json
import pathlib

import chex
import jax
import numpy as np
from absl.testing import parameterized

from nerf_haiku import (
  cameras,
  devices,
  errors,
  models,
  records,
  scenes,
  similarity,
)
from nerf_haiku.renderers import base
from tests.support import trained

_TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
_MOVED = similarity.Similarity(0.25, _TURN, np.array([0.1, -0.2, 0.3]))
_NDC = cameras.Ndc(focal=(1.5, 1.5), near=1.0)


def _integrate(model, origin, direction, near, far, num=4096):
  """Integrates equation 1 along a ray by the model's own queries."""
  edges = np.linspace(near, far, num + 1)
  t, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
  length = np.linalg.norm(direction)
  points = origin + t[:, None] * direction
  density, rgb = model.query(points, direction / length)
  density = density * model.occupied(model.to_field(points))
  depth = np.cumsum(density * width * length)
  before = np.concatenate([[0.0], depth[:-1]])
  weights = np.exp(-before) - np.exp(-depth)
  return weights @ rgb, weights @ t, np.sum(weights)


class RenderTest(chex.TestCase):
  @parameterized.parameters(
    ('hierarchical', {}, {}),
    ('occupancy', {}, {}),
    ('proposal', {}, {}),
    ('hierarchical', {}, {'similarity': _MOVED}),
    ('proposal', {'contracted': True}, {'similarity': _MOVED, 'far': 40.0}),
    ('hierarchical', {'contracted': True}, {'far': 40.0}),
  )
  def test_a_pixel_is_the_integral_of_queries(self, kind, settings, changes):
    scene = trained.scene(
      contracted=settings.get('contracted', False), **changes
    )
    model = trained.model(trained.record(kind, **settings), scene)
    camera = cameras.take(scene.test.cameras, [1])
    image = model.render(camera)
    self.assertEqual(image.rgb.shape, (6, 8, 3))
    pose = np.asarray(camera.camera_to_world[0])
    row, column = 2, 5
    plane = cameras.image_plane(camera, [0], [[row + 0.5, column + 0.5]])[0]
    rgb, depth, opacity = _integrate(
      model, pose[:, 3], pose[:, :3] @ plane, scene.near, scene.far
    )
    self.assertGreater(opacity, 0.3)
    np.testing.assert_allclose(image.opacity[row, column], opacity, atol=4e-3)
    np.testing.assert_allclose(image.rgb[row, column], rgb, atol=4e-3)
    np.testing.assert_allclose(
      image.depth[row, column], depth, rtol=1e-2, atol=1e-2
    )

  def test_device_coordinates(self):
    pose = np.concatenate([np.eye(3), [[0.1], [0.2], [0.0]]], axis=1)
    views = cameras.pinhole(pose[None], [[6, 8]], [9.0])
    split = scenes.Split(scenes.LazyImages(1, lambda index: None), views)
    scene = trained.scene(ndc=_NDC, train=split, near=0.0, far=1e9)
    model = trained.model(trained.record(), scene)
    image = model.render(views)
    plane = cameras.image_plane(views, [0], [[2.5, 5.5]])[0]
    # Even in disparity: equal steps of t' between the near plane and infinity.
    edges = 1.0 / np.linspace(1.0, 1e-4, 4097)
    t, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    length = np.linalg.norm(plane)
    points = pose[:, 3] + t[:, None] * plane
    density, rgb = model.query(points, plane / length)
    optical = np.cumsum(density * width * length)
    weights = np.exp(-np.concatenate([[0], optical[:-1]])) - np.exp(-optical)
    np.testing.assert_allclose(image.opacity[2, 5], weights.sum(), atol=4e-3)
    np.testing.assert_allclose(image.rgb[2, 5], weights @ rgb, atol=4e-3)
    behind, _ = model.query(np.array([0.0, 0.0, -0.5]), plane / length)
    self.assertEqual(behind, 0.0)

  def test_sizes_share_what_is_compiled(self):
    model = trained.model(trained.record(num_samples=4), trained.scene())
    views = model.scene.test.cameras
    whole = model.render(cameras.take(views, [0]))
    strips = list(model.render_strips(cameras.take(views, [0])))
    joined = np.concatenate([x.rgb for x in strips])
    np.testing.assert_array_equal(joined, whole.rgb.reshape(-1, 3))
    before = _num_traces()
    large = cameras.pinhole(views.camera_to_world[:1], [[31, 57]], [50.0])
    self.assertEqual(model.render(large).rgb.shape, (31, 57, 3))
    self.assertEqual(_num_traces(), before)

  @parameterized.parameters({}, {'similarity': _MOVED})
  def test_a_crop_hides_what_is_outside(self, **changes):
    scene = trained.scene(**changes)
    model = trained.model(trained.record(), scene)
    camera = cameras.take(scene.test.cameras, [1])
    # A thin box around a point that a pixel sees at a depth of 4.
    pose = np.asarray(camera.camera_to_world[0], float)
    plane = cameras.image_plane(camera, [0], [[2.5, 5.5]])[0]
    direction = pose[:, :3] @ plane
    point = pose[:, 3] + 4.0 * direction
    moved, scale = point, 1.0
    if scene.similarity is not None:
      moved = similarity.move_points(scene.similarity, point)
      scale = scene.similarity.scale
    crop = np.stack([moved - 0.2 * scale, moved + 0.2 * scale])
    (strip,) = model.render_strips(camera, crop)
    index = 2 * 8 + 5
    t = 4.0 + np.array([-1, 1]) * 0.2 * np.min(
      1 / np.abs(_turned(scene, direction))
    )
    rgb, depth, opacity = _integrate(model, pose[:, 3], direction, *t)
    np.testing.assert_allclose(strip.opacity[index], opacity, atol=2e-3)
    np.testing.assert_allclose(strip.depth[index], depth, atol=1e-2)
    np.testing.assert_allclose(strip.rgb[index], rgb, atol=2e-3)
    # A corner of the image.
    self.assertAlmostEqual(float(strip.opacity[0]), 0.0, places=6)

  def test_the_camera_of_an_index(self):
    model = trained.model(trained.record(), trained.scene())
    views = model.scene.test.cameras
    strips = models.make_render_strips(
      model.record, model.scene, model.renderer
    )
    variables = devices.replicate(model.variables)
    for index in (0, 1):
      (strip,) = strips(variables, views, index)
      expected = model.render(cameras.take(views, [index])).rgb
      np.testing.assert_array_equal(strip.rgb, expected.reshape(-1, 3))

  def test_other_variables_render_another_image(self):
    model = trained.model(trained.record(), trained.scene())
    camera = cameras.take(model.scene.test.cameras, [0])
    usual = model.render(camera)
    params = jax.tree.map(lambda x: 0.5 * x, model.variables.params)
    other = model.replace(base.Variables(params, ()), step=9)
    self.assertEqual((model.step, other.step), (7, 9))
    self.assertGreater(
      np.max(np.abs(usual.rgb - other.render(camera).rgb)), 1e-3
    )
    np.testing.assert_array_equal(model.render(camera).rgb, usual.rgb)


def _turned(scene, direction):
  """The direction in the axes of a scene's field."""
  if scene.similarity is None:
    return direction
  return scene.similarity.rotation @ direction


def _num_traces():
  return len(_TRACES)


_TRACES: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
  lambda event, *_, **__: (
    _TRACES.append(event) if 'jaxpr_trace' in event else None
  )
)


class QueryTest(chex.TestCase):
  def test_any_number_and_shape_of_points(self):
    model = trained.model(trained.record(), trained.scene())
    points = np.random.default_rng(0).uniform(-1, 1, (5, 4000, 3))
    viewdir = np.array([0.0, 0.6, -0.8])
    density, rgb = model.query(points, viewdir)
    self.assertEqual((density.shape, rgb.shape), ((5, 4000), (5, 4000, 3)))
    one, _ = model.query(points[4, 3999], viewdir)
    np.testing.assert_allclose(one, density[4, 3999], rtol=1e-5)
    none, _ = model.query(points[:0], viewdir)
    self.assertEqual(none.shape, (0, 4000))

  @parameterized.parameters(
    {},
    {'similarity': _MOVED},
    {'similarity': _MOVED, 'contracted': True},
    {'ndc': _NDC},
  )
  def test_the_way_to_the_field_and_back(self, **changes):
    scene = trained.scene(**changes)
    model = trained.model(trained.record(contracted=scene.contracted), scene)
    points = np.random.default_rng(0).uniform(-3, 3, (50, 3)) - (0, 0, 5)
    moved = model.to_field(points)
    np.testing.assert_allclose(model.from_field(moved), points, rtol=1e-4)
    if scene.contracted:
      self.assertLess(np.max(np.linalg.norm(moved, axis=-1)), 2.0)
    # The same colors, and densities by the lengths of the two spaces.
    viewdir = np.array([0.0, 0.6, -0.8])
    turned = viewdir
    if scene.similarity is not None:
      turned = _TURN @ viewdir
    expected, rgb = model.query(points, viewdir)
    density, field_rgb = model.query_field(moved, turned)
    np.testing.assert_allclose(field_rgb, rgb, atol=2e-3)
    if scene.ndc is not None:
      step = 1e-3
      ahead = model.to_field(points + step * viewdir)
      behind = model.to_field(points - step * viewdir)
      lengths = np.linalg.norm(ahead - behind, axis=-1) / (2 * step)
    else:
      lengths = 1.0
      if scene.similarity is not None:
        lengths = _MOVED.scale
      if scene.contracted:
        radius = np.linalg.norm(similarity.move_points(_MOVED, points), axis=-1)
        lengths = lengths / np.maximum(radius, 1.0) ** 2
    np.testing.assert_allclose(density * lengths, expected, rtol=2e-2)

  @parameterized.parameters({}, {'similarity': _MOVED}, {'ndc': _NDC})
  def test_normals_are_against_the_gradient(self, **changes):
    scene = trained.scene(**changes)
    model = trained.model(trained.record(), scene)
    points = np.random.default_rng(0).uniform(-0.9, 0.9, (20, 3))
    points -= (0, 0, 3) if scene.ndc is not None else (0, 0, 0)
    raw = model.replace(model.variables, 0)
    normals = raw.normals(points)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, rtol=1e-5)
    step = 1e-3 / (1 if scene.similarity is None else _MOVED.scale)

    def density(x):
      # Of one direction: device coordinates would scale it by direction.
      return model.query_field(model.to_field(x), np.array([0.0, 0, -1]))[0]

    change = density(points + step * normals) - density(points - step * normals)
    for axis in np.eye(3):
      tangent = np.cross(normals, axis)
      across = density(points + step * tangent)
      across = across - density(points - step * tangent)
      self.assertLess(np.median(np.abs(across) / np.abs(change)), 0.2)
    self.assertLess(np.max(change), 0.0)

  def test_occupied_cells(self):
    record = trained.record('occupancy')
    model = trained.model(record, trained.scene())
    points = np.array([[-1.4, 0.0, 1.4], [1.4, 0.0, 1.4], [0.0, 0.0, 1.6]])
    occupied = np.zeros((8, 8, 8), bool)
    occupied[7, 4, 0] = True  # z, y, x
    grid = model.variables.state._replace(occupied=occupied)
    model = model.replace(base.Variables(model.variables.params, grid), 0)
    np.testing.assert_array_equal(model.occupied(points), [True, False, False])
    without_grid = trained.model(trained.record(), trained.scene())
    self.assertTrue(without_grid.occupied(points).all())


class RaysThatFitTest(parameterized.TestCase):
  @parameterized.parameters(
    ('hierarchical', {}, 1000),
    ('hierarchical', {'num_importance': 512}, 500),
    ('proposal', {}, 1000),  # Samples of the field alone.
    ('occupancy', {}, 2**16),  # Twice its budget.
  )
  def test_activations_of_a_layer(self, kind, changes, expected):
    record = trained.record(kind)
    record['renderer'].update(changes)
    # A layer is 8 wide, and a ray has 512 samples.
    fit = records.rays_that_fit(record, 1000 * 8 * 512)
    self.assertEqual(fit, expected)


class OpenTest(chex.TestCase):
  def test_a_run_in_three_lines(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    record, scene = (
      trained.record('occupancy'),
      trained.scene(similarity=_MOVED),
    )
    state = trained.write_run(folder, record, scene)
    model = models.open_run(folder)
    self.assertEqual(model.record, record)
    self.assertEqual(model.step, 0)
    chex.assert_trees_all_equal(model.variables.params, state.params)
    camera = cameras.take(model.scene.test.cameras, [0])
    expected = models.make_model(record, scene, state.variables())
    np.testing.assert_array_equal(
      model.render(camera).rgb, expected.render(camera).rgb
    )
    np.testing.assert_array_equal(model.field_box, [[-1.5] * 3, [1.5] * 3])

  def test_errors_name_the_file(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    with self.assertRaisesRegex(errors.DataError, 'model.json'):
      models.open_run(folder)
    trained.write_run(folder, trained.record(), trained.scene())
    with self.assertRaisesRegex(errors.UserError, 'no checkpoint of step 5'):
      models.open_run(folder, step=5)
    (folder / models.RECORD).write_text(json.dumps({'renderer': {}}))
    with self.assertRaisesRegex(errors.DataError, 'model.json: is no record'):
      models.open_run(folder)

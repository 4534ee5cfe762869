import functools

import numpy as np
from absl.testing import parameterized

from nerf_haiku import camera_paths, cameras, scenes
from nerf_haiku.datasets.procedural import photographs, solids, still_life

_WHITE = functools.partial(np.full_like, fill_value=0.8)  # Paints.
_GRAY = functools.partial(np.full_like, fill_value=0.1)


def _ball(*, radius=0.5, center=(0, 0, 0), paint=_WHITE, **settings):
  solid = solids.ellipsoid(center, (radius,) * 3)
  return still_life.Item(solid, paint, **settings)


def _views(size=(48, 64), azimuth=20.0, elevation=-35.0, focal=80.0):
  pose = camera_paths.sphere_pose(azimuth, elevation, 4.0)
  return cameras.pinhole(pose[None], [size], focal)


def _all_rays(views, index=0):
  pixel = cameras.pixels(*views.sizes[index]) + 0.5
  return photographs.camera_rays(
    views.camera_to_world[index], views.intrinsics[index], pixel
  )


class TraceTest(parameterized.TestCase):
  def test_rays_are_those_of_the_model(self):
    views = _views()._replace(intrinsics=np.array([[80.0, 90.0, 30.0, 25.0]]))
    pixel = cameras.pixels(48, 64)
    rays = cameras.cast(
      views,
      np.zeros(len(pixel), np.int32),
      pixel,
      near=2.0,
      far=6.0,
      box=None,
      pixel_center=True,
    )
    origins, directions = _all_rays(views)
    np.testing.assert_allclose(origins, rays.origins, atol=1e-6)
    np.testing.assert_allclose(directions, rays.directions, atol=1e-6)

  def test_ball_matches_hand_computed_values(self):
    # Hit head-on from a distance of 4, by rays of lengths 1 and 2; missed.
    origins = np.array([[0, 0, 4.0]] * 3)
    directions = np.array([[0, 0, -1.0], [0, 0, -2], [0.5, 0, -1]])
    hit = photographs.trace([_ball()], origins, directions)
    np.testing.assert_allclose(hit.t, [3.5, 1.75, np.inf])
    np.testing.assert_array_equal(hit.item, [0, 0, -1])
    np.testing.assert_allclose(
      hit.normal, [[0, 0, 1], [0, 0, 1], [0, 0, 0]], atol=1e-12
    )
    np.testing.assert_array_equal(hit.rgb[2], 0)

  def test_t_is_depth_and_hits_are_in_the_box(self):
    scene = photographs.make_scene(seed=3, size=24, num_train=6)
    items, views = still_life.make_items(3), scene.train.cameras
    for i in range(6):
      origins, directions = _all_rays(views, i)
      hit = photographs.trace(items, origins, directions)
      seen = hit.item >= 0
      points = (origins + hit.t[:, None] * directions)[seen]
      axis = -views.camera_to_world[i, :, 2].astype(float)
      depth = (points - origins[seen]) @ axis
      np.testing.assert_allclose(depth, hit.t[seen], rtol=1e-6)
      self.assertTrue(np.all((depth > scene.near) & (depth < scene.far)))
      self.assertTrue(np.all((points > scene.box[0]) & (points < scene.box[1])))
      facing = np.sum(hit.normal[seen] * directions[seen], axis=-1)
      self.assertLess(np.max(facing), 0)
      np.testing.assert_allclose(
        np.linalg.norm(hit.normal[seen], axis=-1), 1, atol=1e-9
      )


class ShadeTest(parameterized.TestCase):
  def _color(self, items, point, azimuth):
    """Returns the color of a point, seen from one side."""
    origin = 4 * np.array([np.cos(azimuth), np.sin(azimuth), 1.0])
    hit = photographs.trace(items, origin[None], (point - origin)[None])
    np.testing.assert_allclose(hit.t, 1, atol=1e-6)
    return hit.rgb[0]

  def test_only_gloss_depends_on_the_view_direction(self):
    point = 0.5 * photographs._LAMP
    azimuths = np.linspace(0, 2 * np.pi, 24)
    for gloss, low, high in ((0.0, 0.0, 1e-9), (0.06, 0.1, 1.0)):
      items = [_ball(gloss=gloss, shade=0.5)]
      colors = np.stack([self._color(items, point, a) for a in azimuths])
      self.assertBetween(np.max(np.ptp(colors, axis=0)), low, high)

  def test_lamp_is_reflected(self):
    # From above, the mirror of the lamp is where the normal is halfway.
    up, lamp = np.array([0, 0, 1.0]), photographs._LAMP
    for normal, low, high in ((up + lamp, 0.15, 1.0), (up, 0.0, 0.1)):
      point = 0.5 * normal / np.linalg.norm(normal)
      rays = (point + 4 * up)[None], -4 * up[None]
      matte, glossy = (
        photographs.trace([_ball(gloss=gloss, paint=_GRAY)], *rays).rgb[0]
        for gloss in (0.0, 0.06)
      )
      self.assertBetween(np.min(glossy - matte), low, high)
      self.assertBetween(np.max(glossy - matte), low, high)

  def test_shadow_falls_away_from_the_lamp(self):
    board = still_life.Item(solids.box((0, 0, -1), (9, 9, 0.1)), _WHITE)
    ball = _ball(radius=0.2, center=(0, 0, 0.5), shade=0.2)
    lamp = photographs._LAMP
    under = np.array([0, 0, 0.5]) - lamp * (1.4 / lamp[2])
    far = np.array([3.0, 3.0, -0.9])
    lit, dark = (self._color(x, under, 0.0) for x in ([board], [board, ball]))
    self.assertLess(np.max(dark), 0.8 * np.min(lit))
    # On the other side, and where the ball is a speck, there is none.
    other = np.array([-under[0], -under[1], -0.9])
    for point in (other, far):
      alone, both = (
        self._color(x, point, 2.0) for x in ([board], [board, ball])
      )
      np.testing.assert_allclose(alone, both, atol=0.02)

  def test_sky_is_dimmed_beside_a_ball(self):
    board = still_life.Item(solids.box((0, 0, -1), (9, 9, 0.1)), _WHITE)
    ball = _ball(radius=0.2, center=(0, 0, -0.7), shade=0.2)
    towards_lamp = photographs._LAMP[:2] / np.hypot(*photographs._LAMP[:2])
    losses = []
    for away in (0.2, 0.3, 0.5):
      point = np.array([*away * towards_lamp, -0.9])
      alone, both = (
        self._color(x, point, 0.0) for x in ([board], [board, ball])
      )
      losses.append(np.max(alone - both))
    self.assertGreater(losses[0], 1.3 * losses[1])
    self.assertGreater(losses[1], 1.3 * losses[2])
    self.assertBetween(losses[2], 0.002, 0.05)

  def test_no_surface_shadows_itself(self):
    rays = _all_rays(_views((96, 96), focal=350.0))
    with_shadow = photographs.trace([_ball(shade=0.5)], *rays)
    without = photographs.trace([_ball()], *rays)
    self.assertGreater(np.mean(without.item == 0), 0.5)
    np.testing.assert_allclose(with_shadow.rgb, without.rgb, atol=1e-5)

  def test_light_falls_into_a_tube(self):
    # From the wall of the bore, light is seen over the rim across or not.
    solid = solids.cylinder((0, 0, 0), 0.4, 0.5, bore=0.3)
    tube = still_life.Item(solid, _WHITE, shade=0.4)
    azimuth, z = (
      np.random.default_rng(0).uniform([0, -0.5], [7, 0.5], (999, 2)).T
    )
    inwards = -np.stack([np.cos(azimuth), np.sin(azimuth), 0 * z], axis=-1)
    points = -0.3 * inwards + z[:, None] * [0, 0, 1]
    corners = photographs._LAMP_CORNERS
    cosine = np.maximum(inwards @ corners.T, 0)
    across = 2 * 0.3 * cosine / np.sum(corners[:, :2] ** 2, axis=-1)
    over = z[:, None] + across * corners[:, 2] > 0.5
    expected = np.mean(cosine * over, axis=-1)
    lamp = photographs._lambert([tube], points, inwards)
    np.testing.assert_allclose(lamp, expected, atol=1e-12)
    self.assertBetween(np.mean(over[cosine > 0]), 0.1, 0.9)

  @parameterized.parameters(0, 1, 2, 3, 4)
  def test_exposure_is_moderate(self, seed):
    scene = photographs.make_scene(seed=seed, size=32, num_train=8)
    pixels = scene.train.images.pixels
    rgb = pixels[pixels[:, 3] == 255][:, :3]
    self.assertLess(np.mean(np.max(rgb, axis=-1) == 255), 0.01)
    self.assertLess(np.mean(np.max(rgb, axis=-1) < 25), 0.01)
    self.assertBetween(np.mean(rgb), 80, 170)


class RenderTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 0.5)
  def test_silhouette_of_a_ball_has_its_area(self, height):
    views = _views()
    views.camera_to_world[0] = np.eye(4)[:3]
    ball = _ball(radius=0.5, center=(0, height, -4))
    alpha = photographs.render([ball], views, 0)[..., 3] / 255
    # A cone about a line cut by a plane at an angle to it: an ellipse.
    square = 0.25 / (16 + height**2)  # Of the sine of the cone's half angle.
    rest = 16 / (16 + height**2) - square
    area = np.pi * np.sqrt(square * square * (1 - square)) / rest**1.5
    self.assertAlmostEqual(np.sum(alpha), 80**2 * area, delta=1)
    # The ball is where it belongs: up is up.
    row, column = np.argwhere(alpha + 1).reshape(*alpha.shape, 2).T + 0.5
    row, column = (np.sum(x.T * alpha) / np.sum(alpha) for x in (row, column))
    self.assertAlmostEqual(column, 32, delta=0.03)
    # The middle of the ellipse is a little farther out than the ball's.
    self.assertAlmostEqual(row, 24 - 80 * height * 4 / (16 - 0.25), delta=0.03)
    self.assertGreater(np.mean(alpha == 1), 0.05)
    self.assertGreater(np.mean((alpha > 0.1) & (alpha < 0.9)), 0.01)

  def test_edge_pixels_keep_their_color(self):
    # From straight above a disc, alike all over, all that is seen is its face.
    disc = still_life.Item(solids.cylinder((0, 0, 0), 0.7, 0.1), _WHITE)
    image = photographs.render([disc], _views(elevation=-90.0), 0)
    partial = (image[..., 3] > 0) & (image[..., 3] < 255)
    self.assertGreater(np.sum(partial), 20)
    full = image[image[..., 3] == 255]
    self.assertEqual(np.max(np.ptp(full, axis=0)), 0)
    np.testing.assert_array_equal(
      image[partial][:, :3], full[: partial.sum(), :3]
    )
    self.assertEqual(np.max(image[image[..., 3] == 0]), 0)

  def test_matches_the_mean_of_many_rays(self):
    items, views = still_life.make_items(0), _views((40, 40), focal=50.0)
    fine = _views((320, 320), focal=400.0)
    hit = photographs.trace(items, *_all_rays(fine))
    seen = np.concatenate([hit.rgb, hit.item[:, None] >= 0], axis=-1)
    expected = seen.reshape(40, 8, 40, 8, 4).mean(axis=(1, 3))
    image = photographs.render(items, views, 0) / 255
    error = image * np.where([1, 1, 1, 0], image[..., 3:], 1) - expected
    self.assertLess(np.sqrt(np.mean(error**2)), 0.012)
    self.assertLess(np.abs(np.mean(error)), 0.001)

  def test_smooth_pixels_are_sampled_uniformly(self):
    # No edge in sight: the ball's colors vary over the whole image.
    views, fine = _views((8, 8), focal=40.0), _views((64, 64), focal=320.0)
    hit = photographs.trace([_ball(radius=1.0)], *_all_rays(fine))
    expected = hit.rgb.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
    image = photographs.render([_ball(radius=1.0)], views, 0) / 255
    np.testing.assert_allclose(image[..., :3], expected, atol=0.004)
    np.testing.assert_array_equal(image[..., 3], 1)

  def test_image_of_nothing_is_transparent(self):
    image = photographs.render([_ball(center=(9, 9, 9))], _views((4, 4)), 0)
    np.testing.assert_array_equal(image, np.zeros((4, 4, 4), np.uint8))


class MakeSceneTest(parameterized.TestCase):
  def _scene(self, **settings):
    settings = {'seed': 0, 'size': 16, 'num_train': 3} | settings
    return photographs.make_scene(**settings)

  def test_scene_has_the_requested_shapes(self):
    scene = self._scene(size=(12, 20), num_val=2, num_test=4, num_poses=5)
    for split, number in ((scene.train, 3), (scene.val, 2), (scene.test, 4)):
      self.assertLen(split.images, number)
      self.assertEqual(split.cameras.camera_to_world.shape, (number, 3, 4))
      for image in split.images:
        self.assertEqual((image.shape, image.dtype), ((12, 20, 4), np.uint8))
    self.assertIsInstance(scene.train.images, scenes.Images)
    self.assertLen(scene.path.sizes, 5)
    angle = 2 * np.arctan(10 / scene.train.cameras.intrinsics[0, 0])
    self.assertAlmostEqual(angle, photographs.CAMERA_ANGLE_X, places=6)

  def test_cameras_surround_the_scene(self):
    scene = self._scene(size=4, num_train=200, num_val=50, num_test=50)
    for split in (scene.train, scene.val, scene.test):
      pose = split.cameras.camera_to_world
      # Even over the hemisphere: so is height, and the mean is its middle.
      up = pose[:, 2, 3] / np.linalg.norm(pose[:, :, 3], axis=-1)
      self.assertGreater(np.min(up), 0)
      self.assertAlmostEqual(np.mean(up), 0.5, delta=0.06)
      self.assertLess(np.max(np.abs(np.mean(pose[:, :2, 3], axis=0))), 0.5)
      # All look at the middle of the scene.
      toward = pose[:, :, 3] / np.linalg.norm(pose[:, :, 3:], axis=1)
      np.testing.assert_allclose(pose[:, :, 2], toward, atol=1e-5)
    centers = [
      s.cameras.camera_to_world[:, :, 3]
      for s in (scene.train, scene.val, scene.test)
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
      apart = centers[one][:, None] - centers[other]
      self.assertGreater(np.min(np.linalg.norm(apart, axis=-1)), 1e-3)

  @parameterized.parameters(0, 1, 2, 3)
  def test_scene_fills_the_frame(self, seed):
    scene = self._scene(seed=seed, size=32, num_train=20)
    alpha = np.stack([image[..., 3] for image in scene.train.images])
    self.assertBetween(np.mean(alpha > 0), 0.35, 0.6)
    inner = alpha[:, 1:-1, 1:-1]
    self.assertEqual(np.sum(alpha, dtype=int), np.sum(inner, dtype=int))

  def test_seed_determines_the_scene(self):
    one, same, other = (self._scene(seed=s, num_test=1) for s in (4, 4, 8))
    for split in ('train', 'test'):
      a, b, c = (getattr(s, split) for s in (one, same, other))
      np.testing.assert_array_equal(a.images[0], b.images[0])
      np.testing.assert_array_equal(a.images[0], a.images[0])
      np.testing.assert_array_equal(
        *[x.cameras.camera_to_world for x in (a, b)]
      )
      self.assertGreater(np.mean(a.images[0] != c.images[0]), 0.1)
      poses = [x.cameras.camera_to_world for x in (a, c)]
      self.assertGreater(np.max(np.abs(poses[0] - poses[1])), 0.1)

  @parameterized.parameters(
    ({'size': 0}, 'size'),
    ({'size': (4, -1)}, 'size'),
    ({'seed': -1}, 'seed'),
    ({'num_train': 0}, 'num_train'),
    ({'num_test': -1}, 'num_test'),
  )
  def test_refuses_invalid_settings(self, settings, name):
    with self.assertRaisesRegex(ValueError, name):
      self._scene(**settings)

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pycolmap
from absl.testing import absltest, parameterized

from nerf_haiku import camera_checks, camera_paths, cameras, errors, lenses
from nerf_haiku.datasets import blender
from tests.support import shared

_SIZE = 800
# COLMAP's name, its parameters after fx, fy, cx, cy, and ours.
_LENSES = {
  'pinhole': ('OPENCV', [0, 0, 0, 0], [0, 0, 0, 0, 0, 0], False),
  'barrel': ('OPENCV', [-0.2, 0.03, 0, 0], [-0.2, 0.03, 0, 0, 0, 0], False),
  'pincushion': ('OPENCV', [0.1, 0.02, 0, 0], [0.1, 0.02, 0, 0, 0, 0], False),
  'tangential': (
    'OPENCV',
    [0.06, -0.08, -0.01, 0.02],
    [0.06, -0.08, 0, 0, -0.01, 0.02],
    False,
  ),
  'all': (
    'FULL_OPENCV',
    [0.05, -0.03, 0.002, -0.004, 0.01, 0, 0, 0],
    [0.05, -0.03, 0.01, 0, 0.002, -0.004],
    False,
  ),
  'equidistant': ('OPENCV_FISHEYE', [0, 0, 0, 0], [0, 0, 0, 0, 0, 0], True),
  'fisheye': (
    'OPENCV_FISHEYE',
    [0.08, -0.02, 0.01, -0.003],
    [0.08, -0.02, 0.01, -0.003, 0, 0],
    True,
  ),
}
_INTRINSICS = np.float32([0.7 * _SIZE, 0.77 * _SIZE, 390, 410])


def _cams(name, poses=None):
  """Cameras of 800x800 pixels with an axis that is off the center."""
  _, _, coefficients, fisheye = _LENSES[name]
  poses = np.eye(4)[None, :3] if poses is None else poses
  count = len(poses)
  return cameras.Cameras(
    camera_to_world=np.asarray(poses, np.float32),
    intrinsics=np.tile(_INTRINSICS, (count, 1)),
    sizes=np.full((count, 2), _SIZE, np.int32),
    distortion=np.tile(np.float32(coefficients), (count, 1)),
    fisheye=np.full(count, fisheye),
  )


def _plane(num=31, half=0.6):
  grid = np.linspace(-half, half, num)
  return np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2).astype(np.float32)


def _lens(name, count):
  _, _, coefficients, fisheye = _LENSES[name]
  return (
    np.tile(np.float32(coefficients), (count, 1)),
    np.full(count, fisheye),
  )


class LensTest(chex.TestCase):
  @parameterized.parameters(*_LENSES)
  def test_distorts_as_colmap(self, name):
    model, params, *_ = _LENSES[name]
    camera = pycolmap.Camera(
      model=model, width=2, height=2, params=[1, 1, 0, 0, *params]
    )
    points = _plane()
    expected = [
      camera.img_from_cam(np.array([x, y, 1.0])) for x, y in points.tolist()
    ]
    actual = lenses.distort(points, *_lens(name, len(points)))
    np.testing.assert_allclose(actual, expected, atol=1e-6)

  def test_the_fourth_coefficient_is_that_of_the_eighth_power(self):
    """COLMAP has no such lens."""
    lens = np.float32([[0, 0, 0, 0.5, 0, 0]]), np.array([False])
    shown = lenses.distort(np.float32([[0.6, -0.8]]), *lens)
    np.testing.assert_allclose(shown, [[0.9, -1.2]], rtol=1e-6)
    again = lenses.undistort(shown, *lens)
    np.testing.assert_allclose(again, [[0.6, -0.8]], rtol=1e-6)

  @parameterized.parameters(*_LENSES)
  def test_is_inverted(self, name):
    points = _plane()
    lens = _lens(name, len(points))
    again = lenses.undistort(lenses.distort(points, *lens), *lens)
    np.testing.assert_allclose(again, points, atol=2e-6)

  def test_no_distortion_changes_no_bit(self):
    points = _plane()
    lens = _lens('pinhole', len(points))
    np.testing.assert_array_equal(lenses.undistort(points, *lens), points)

  def test_lenses_of_both_kinds_together(self):
    points = _plane(5)
    both = [_lens(name, len(points)) for name in ('barrel', 'fisheye')]
    alone = [lenses.undistort(points, *lens) for lens in both]
    together = lenses.undistort(
      np.tile(points, (2, 1)), *map(np.concatenate, zip(*both, strict=True))
    )
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-7)

  @parameterized.parameters(*_LENSES)
  def test_values_and_gradients_are_finite(self, name):
    points = np.float32([[0, 0], [1e-9, 0], [0.3, -0.2], [5, 5], [1e4, -1e4]])
    lens = _lens(name, len(points))
    for function in (lenses.distort, lenses.undistort):
      value, gradient = jax.value_and_grad(
        lambda p, f=function: jnp.sum(f(p, *lens)[:4])
      )(points)
      chex.assert_tree_all_finite((value, gradient))


class CastTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(*_LENSES)
  def test_a_projected_point_meets_the_ray_of_its_pixel(self, name):
    cams = _cams(name, camera_paths.circle(3))
    rng = np.random.default_rng(0)
    pixel = rng.integers(0, _SIZE, (200, 2)).astype(np.int32)
    pixel[:4] = [[0, 0], [0, 799], [799, 0], [799, 799]]
    camera = rng.integers(0, 3, 200).astype(np.int32)

    def cast_and_project(camera, pixel):
      rays = cameras.cast(
        cams, camera, pixel, near=0.0, far=1.0, box=None, pixel_center=True
      )
      return cameras.project(cams, camera, rays.origins + 3 * rays.directions)

    position, depth = self.variant(cast_and_project)(camera, pixel)
    np.testing.assert_allclose(position, pixel + 0.5, atol=1e-3)
    np.testing.assert_allclose(depth, 3, rtol=1e-5)

  @parameterized.parameters(False, True)
  def test_without_distortion_rays_are_those_of_a_pinhole(self, pixel_center):
    pinhole = _cams('pinhole')._replace(distortion=None, fisheye=None)
    pixel = cameras.pixels(_SIZE, _SIZE)[::997]
    rays = [
      cameras.cast(
        cams,
        np.zeros(len(pixel), np.int32),
        pixel,
        near=2.0,
        far=6.0,
        box=None,
        pixel_center=pixel_center,
      )
      for cams in (pinhole, cameras.with_lenses(pinhole))
    ]
    chex.assert_trees_all_equal(*rays)

  def test_points_behind_a_camera_are_finite(self):
    points = np.float32([[0, 0, 0], [1, 2, 0], [0, 0, 3], [1, 1, 5]])
    for name in _LENSES:
      position, depth = cameras.project(
        _cams(name), np.zeros(4, np.int32), points
      )
      chex.assert_tree_all_finite(position)
      self.assertTrue(np.all(depth <= 0))

  def test_parts_with_and_without_distortion_are_joined(self):
    pinhole = _cams('pinhole')._replace(distortion=None, fisheye=None)
    joined = cameras.concatenate([pinhole, _cams('fisheye')])
    np.testing.assert_array_equal(joined.distortion[0], 0)
    np.testing.assert_array_equal(joined.fisheye, [False, True])
    chex.assert_trees_all_equal(cameras.take(joined, [1]), _cams('fisheye'))
    self.assertIsNone(cameras.concatenate([pinhole, pinhole]).distortion)


class CheckTest(chex.TestCase):
  @parameterized.parameters(*_LENSES)
  def test_accepts_lenses(self, name):
    camera_checks.check_lenses('x', _cams(name), ['a'])

  @parameterized.parameters(
    ([-1.0, 0, 0, 0, 0, 0], False, 1.0, 'cannot be inverted'),
    ([-0.4, 0, 0, 0, 0, 0], False, 1.0, 'cannot be inverted'),
    ([0, 0, 0, 0, 0.9, 0], False, 1.0, 'cannot be inverted'),
    ([-0.5, 0, 0, 0, 0, 0], True, 1.0, 'sees up to .* off'),
    ([0, 0, 0, 0, 0, 0], True, 0.4, 'sees up to .* off'),
    ([0, 0, 0, 0, 0, 0], False, 0.05, 'sees up to 87 .*174 degrees'),
  )
  def test_refuses(self, coefficients, fisheye, zoom, message):
    cams = cameras.concatenate([_cams('barrel'), _cams('barrel')])
    cams.distortion[1] = coefficients
    cams.fisheye[1] = fisheye
    cams.intrinsics[1, :2] *= zoom
    with self.assertRaisesRegex(errors.DataError, f'x: .*view_7 {message}'):
      camera_checks.check_lenses('x', cams, ['view_3', 'view_7'])


class FoxTest(chex.TestCase):
  def reprojection_errors(self, change=lambda cams: cams):
    """Distances of projected points of a COLMAP model to where they are seen.

    The model has its own frame: its points are moved by the similarity that
    moves its camera centers to those of `transforms.json`.
    """
    folder = shared.folder('data') / 'captures' / 'fox'
    scene = blender.load(
      str(folder),
      'fox',
      testskip=1,
      down_factor=1,
      num_poses=1,
      near=0.1,
      far=9.0,
      box=None,
    )
    cams = cameras.concatenate([scene.train.cameras, scene.test.cameras])
    names = sorted(path.name for path in (folder / 'images').iterdir())
    is_test = np.arange(len(names)) % 8 == 0
    order = np.concatenate([np.flatnonzero(~is_test), np.flatnonzero(is_test)])
    index = {names[i]: k for k, i in enumerate(order)}
    model = pycolmap.Reconstruction(folder / 'sparse' / '0')
    images = list(model.images.values())
    similarity = pycolmap.estimate_sim3d(
      np.stack([x.projection_center() for x in images]),
      np.stack(
        [cams.camera_to_world[index[x.name], :, 3] for x in images]
      ).astype(np.float64),
    )
    camera, points, seen = [], [], []
    for image in images:
      for point in image.get_observation_points2D():
        camera.append(index[image.name])
        points.append(model.points3D[point.point3D_id].xyz)
        seen.append(point.xy[::-1])
    moved = np.stack([similarity * x for x in points])
    position, _ = cameras.project(
      change(cams), np.array(camera), np.float32(moved)
    )
    return np.linalg.norm(position - np.stack(seen), axis=-1)

  def test_a_reconstruction_projects_to_its_key_points(self):
    self.assertLess(np.median(self.reprojection_errors()), 0.6)

  def test_without_distortion_it_does_not(self):
    distances = self.reprojection_errors(
      lambda cams: cams._replace(distortion=None, fisheye=None)
    )
    self.assertGreater(np.median(distances), 0.9)


if __name__ == '__main__':
  absltest.main()

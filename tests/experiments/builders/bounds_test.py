import chex
import numpy as np
from absl.testing import absltest, parameterized

from experiments.builders import bounds
from experiments.configs import default
from nerf_haiku import camera_paths, cameras, errors, scenes, similarity

_BOX = np.array([[-1, -1, -1], [1, 1, 1]], np.float32)


def _scene(radius=4.0, shift=0.0, turn=None, near=2.0, far=6.0, box=_BOX):
  """Cameras around a point; `turn` is applied to their axes."""
  poses = np.stack(
    [
      camera_paths.sphere_pose(azimuth, elevation, radius)
      for azimuth in range(0, 360, 45)
      for elevation in (-20.0, -60.0)
    ]
  ).astype(np.float64)
  poses[:, :, 3] += shift
  if turn is not None:
    poses[:, :, :3] = poses[:, :, :3] @ turn
  cams = cameras.pinhole(poses, np.full((16, 2), 20), np.full(16, 25.0))
  pixels = np.zeros((16 * 400, 3), np.uint8)
  split = scenes.Split(scenes.Images(pixels, cams.sizes), cams)
  return scenes.Scene(
    train=split,
    val=split,
    test=split,
    near=near,
    far=far,
    box=box,
    path=cams,
    notices=(),
  )


_TO_OPENCV = np.diag([1.0, -1.0, -1.0])


class CheckTest(chex.TestCase):
  @parameterized.parameters(
    {},
    {'box': None},
    {'radius': 40.0, 'near': 20.0, 'far': 60.0, 'box': 20 * _BOX},
    {'turn': _TO_OPENCV, 'box': None},  # Cameras may look outwards.
  )
  def test_says_nothing_where_rays_meet_the_box(self, **changes):
    self.assertEqual(bounds.check(_scene(**changes)), [])

  def test_device_coordinates_need_no_box(self):
    scene = _scene(radius=40.0)._replace(ndc=cameras.Ndc((1.0, 1.0)))
    self.assertEqual(bounds.check(scene), [])

  @parameterized.named_parameters(
    ('far', {'radius': 40.0}, r'look at \(0, 0, 0\), at a distance of 40:'),
    ('moved', {'shift': 1000.0}, r'look at \(1000, 1000, 1000\).* of 4: '),
    ('opencv', {'turn': _TO_OPENCV}, "look away from .*OpenCV's axes"),
  )
  def test_no_ray_meets_the_box(self, changes, message):
    with self.assertRaisesRegex(
      errors.UserError, r'No ray meets .*near=2 and far=6.*' + message
    ):
      bounds.check(_scene(**changes))

  @parameterized.named_parameters(
    ('a_small_box', {'box': 0.05 * _BOX}, r'Only 0\.\d+% of the rays meet'),
    ('near', {'radius': 1.5}, r'miss what .*at a distance of 1\.5: '),
    ('no_box', {'radius': 40.0, 'box': None}, r'miss what .* of 40: '),
    ('a_box_beside', {'box': _BOX + 1.5}, r'miss what .* of 4: '),
  )
  def test_warns(self, changes, message):
    (notice,) = bounds.check(_scene(**changes))
    self.assertRegex(notice, f'^Warning: .*{message}.*bounds=cameras')

  @parameterized.parameters(
    {'radius': 40.0}, {'radius': 0.4}, {'shift': 1000.0}, {'radius': 7e4}
  )
  def test_the_proposed_bounds_fit(self, **changes):
    scene = _scene(**changes)
    try:
      (text,) = bounds.check(scene)
    except errors.UserError as error:
      text = str(error)
    near, far, box = (
      text.rpartition(f'--config.{name}=')[2].split()[0].rstrip('.')
      for name in ('near', 'far', 'box')
    )
    corners = np.reshape([float(x) for x in box.split(',')], (2, 3))
    scene = scene._replace(near=float(near), far=float(far), box=corners)
    self.assertEqual(bounds.check(scene), [])
    self.assertGreater(bounds.fraction_of_rays(scene), 0.9)


class SimilarityTest(chex.TestCase):
  """A scene whose field has other coordinates: all is as in its own."""

  def moved(self, **changes):
    scene = _scene(**changes)
    turn = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])
    moved = similarity.Similarity(0.25, turn, np.array([3.0, 2.0, 1.0]))
    back = similarity.invert(moved)
    cams = similarity.move_rigidly(back, scene.train.cameras)
    split = scene.train._replace(cameras=cams)
    return scene._replace(
      train=split, near=4 * scene.near, far=4 * scene.far, similarity=moved
    )

  def test_the_same_rays_meet_the_box(self):
    self.assertEqual(bounds.check(self.moved()), [])
    for changes in ({}, {'radius': 4.8, 'box': 0.3 * _BOX}):
      np.testing.assert_allclose(
        bounds.fraction_of_rays(self.moved(**changes)),
        bounds.fraction_of_rays(_scene(**changes)),
        atol=1e-3,
      )

  def test_the_proposed_bounds_are_those_of_the_file(self):
    with self.assertRaises(errors.UserError) as caught:
      bounds.check(self.moved(radius=40.0))
    # The origin of the field is at this point of the file, and 4 times as far.
    self.assertRegex(
      str(caught.exception), r'look at \(-8, -4, -12\), at a distance of 160:'
    )
    radius = 4 * 1.1 * 40 * np.sin(np.arctan(10 / 25))
    self.assertIn(f'--config.near={160 - radius:.3g} ', str(caught.exception))
    self.assertIn(f'--config.box={-8 - radius:.4g},', str(caught.exception))

  def test_the_cameras_decide(self):
    config = default.get_config()
    scene = bounds.fit(config, self.moved(radius=40.0))
    own = bounds.fit(config, _scene(radius=40.0))
    np.testing.assert_allclose(scene.near, 4 * own.near, rtol=1e-5)
    np.testing.assert_allclose(scene.far, 4 * own.far, rtol=1e-5)
    np.testing.assert_allclose(scene.box, own.box, rtol=1e-4)


class FitTest(chex.TestCase):
  def fit(self, scene, **fields):
    config = default.get_config()
    config.bounds = 'cameras'
    config.update(fields)
    return bounds.fit(config, scene)

  def test_the_cameras_decide(self):
    scene = self.fit(_scene(radius=40.0, shift=3.0, box=None))
    # The views see a ball of this radius whole; a tenth is added.
    radius = 1.1 * 40 * np.sin(np.arctan(10 / 25))
    np.testing.assert_allclose(scene.near, 40 - radius, rtol=1e-5)
    np.testing.assert_allclose(scene.far, 40 + radius, rtol=1e-5)
    np.testing.assert_allclose(
      scene.box, [[3 - radius] * 3, [3 + radius] * 3], rtol=1e-5
    )

  def test_bounds_that_are_set_win(self):
    box = (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)
    scene = self.fit(_scene(radius=40.0), near=1.0, far=90.0, box=box)
    self.assertEqual((scene.near, scene.far), (1.0, 90.0))
    np.testing.assert_array_equal(scene.box, _BOX)

  def test_refuses_near_beyond_far(self):
    with self.assertRaisesRegex(errors.UserError, 'config.near: got 70'):
      self.fit(_scene(radius=40.0), near=70.0)

  def test_refuses_cameras_that_look_outwards(self):
    with self.assertRaisesRegex(errors.UserError, 'do not look at one point'):
      self.fit(_scene(turn=_TO_OPENCV))


class ContractTest(chex.TestCase):
  def contract(self, scene, **fields):
    config = default.get_config()
    config.update(fields)
    return bounds.contract(config, scene)

  def test_the_cameras_decide(self):
    """40 away from a point: field units are 40 scene units."""
    scene = self.contract(_scene(radius=40.0, shift=3.0))
    self.assertTrue(scene.contracted)
    self.assertIsNone(scene.box)
    center = similarity.move_points(scene.similarity, np.full(3, 3.0))
    np.testing.assert_allclose(center, 0.0, atol=1e-5)
    np.testing.assert_allclose(scene.similarity.scale, 1 / 40, rtol=1e-5)
    np.testing.assert_allclose((scene.near, scene.far), (2, 4e4), rtol=1e-5)
    again = self.contract(scene._replace(near=7.0))
    self.assertEqual(again.near, 7.0)  # The loader's.

  def test_bounds_that_are_set_win(self):
    scene = self.contract(_scene(radius=40.0), near=1.0, far=90.0)
    self.assertEqual((scene.near, scene.far), (1.0, 90.0))

  def test_refuses_near_beyond_far(self):
    with self.assertRaisesRegex(errors.UserError, 'config.near: got 2; .*=1.5'):
      self.contract(_scene(radius=40.0), far=1.5)


class RestartTest(chex.TestCase):
  def test_another_seed_helps_only_where_rays_have_samples(self):
    bounds.check_restart(_scene())
    bounds.check_restart(_scene(radius=40.0, box=None))
    with self.assertRaisesRegex(errors.UserError, 'collapsed.* 0.00% of the'):
      bounds.check_restart(_scene(radius=40.0))


if __name__ == '__main__':
  absltest.main()

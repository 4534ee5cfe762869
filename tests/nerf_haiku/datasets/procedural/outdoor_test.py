import numpy as np
from absl.testing import parameterized

from nerf_haiku.datasets.procedural import outdoor, photographs


def _trace(origins, directions):
  origins, directions = (np.array(x, np.float64) for x in (origins, directions))
  return photographs.trace(
    outdoor.make_items(0), origins, directions, air=outdoor.air
  )


class OutdoorTest(parameterized.TestCase):
  def test_the_ground_reaches_the_horizon(self):
    """Seen from a height of 2 at slopes of 1 / 50 and 1 / 5000, and upwards."""
    directions = [[1, 0.2, -0.02], [1, 0.2, -2e-4], [1, 0.2, 0.9]]
    places = [[900, 900, outdoor.GROUND + 2.0]] * 3
    hit = _trace(places, directions)
    np.testing.assert_allclose(hit.t, [100, 1e4, np.inf], rtol=1e-9)
    np.testing.assert_allclose(hit.normal[:2], [[0, 0, 1]] * 2, atol=1e-9)
    self.assertEqual(hit.item[2], -1)
    # Far ground is nearly as the sky at the horizon; the sky above is blue.
    red, _, blue = hit.rgb.T
    self.assertGreater(hit.rgb[1].min(), 0.7)
    self.assertLess(hit.rgb[0].min(), 0.6)
    self.assertGreater(blue[2], red[2])

  def test_the_air_hides_by_distance(self):
    level = np.array([[0.6, 0.8, 0.0]] * 4)
    red = np.tile([1.0, 0.0, 0.0], (4, 1))
    shown = outdoor.air(red, np.array([0.0, 10.0, 20.0, 1e5]), level)
    np.testing.assert_allclose(shown[0], [1, 0, 0], atol=1e-9)
    # Equal lengths hide equal fractions of what is left.
    left = (shown - shown[3]) / (shown[0] - shown[3])
    np.testing.assert_allclose(left[1] ** 2, left[2], rtol=1e-6)

  @parameterized.parameters(0, 1, 2, 3)
  def test_where_cameras_stand_is_nothing(self, seed):
    """Solids are on the table, or beyond the ring of cameras."""
    for item in outdoor.make_items(seed):
      center, radius = item.solid.center, item.solid.radius
      if np.isinf(radius) or np.hypot(*center[:2]) > 90:
        continue  # The ground, and hills, whose sides slope.
      distance = np.hypot(*center[:2])
      on_table = distance + radius < outdoor.NEAREST - 0.3
      self.assertTrue(on_table or distance - radius > outdoor.FARTHEST)

  def test_there_are_things_at_all_distances(self):
    scene = photographs.make_scene(
      seed=0, size=24, num_train=4, num_val=0, num_test=1, unbounded=True
    )
    self.assertIsNone(scene.box)
    distances = []
    for i in range(4):
      pixel = np.indices((24, 24)).reshape(2, -1).T + 0.5
      rays = photographs.camera_rays(
        scene.train.cameras.camera_to_world[i],
        scene.train.cameras.intrinsics[i],
        pixel,
      )
      hit = _trace(*rays)
      distances.append(hit.t)
      # The photograph is of the same scene; pixels are averages.
      image = scene.train.images[i]
      self.assertEqual(image[..., 3].min(), 255)
      error = np.abs(image[..., :3].reshape(-1, 3) / 255 - hit.rgb)
      self.assertLess(np.median(error), 0.04)
    counts, _ = np.histogram(
      np.concatenate(distances), [0, 1, 2.5, 5, 20, 400, np.inf]
    )
    self.assertEqual(counts[0], 0)
    self.assertTrue(np.all(counts[1:] > 40), counts)
    heights = scene.train.cameras.camera_to_world[:, 2, 3]
    self.assertGreater(np.min(heights), outdoor.GROUND + 1)
    looking = -np.einsum(
      'nij,nj->ni',
      scene.train.cameras.camera_to_world[..., :3],
      np.tile([0, 0, 1.0], (4, 1)),
    )
    inwards = np.sum(
      looking * scene.train.cameras.camera_to_world[..., 3], axis=-1
    )
    self.assertLess(np.max(inwards), -outdoor.NEAREST * 0.99)

import numpy as np
from absl.testing import parameterized

from nerf_haiku.datasets.procedural import solids, still_life


def _inside(solid, points):
  """Returns whether points are inside, by the quadrics' inequalities."""
  local = solids.to_local(solid, points)

  def within(overlap):
    square = np.square(local[:, None] - overlap.centers)
    return np.all(np.sum(overlap.weights * square, axis=-1) < 1, axis=-1)

  matter = within(solid.outer)
  return matter if solid.hole is None else matter & ~within(solid.hole)


class StillLifeTest(parameterized.TestCase):
  @parameterized.parameters(0, 1, 2, 3, 10, 12345)
  def test_items_are_in_the_box_and_apart(self, seed):
    points = np.random.default_rng(0).uniform(-1.3, 1.3, (60_000, 3))
    items = still_life.make_items(seed)
    matter = np.stack([_inside(item.solid, points) for item in items])
    counts = np.sum(matter, axis=0)
    self.assertEqual(np.max(counts), 1)
    for item, own in zip(items, matter, strict=True):
      away = np.linalg.norm(points[own] - item.solid.center, axis=-1)
      self.assertLess(np.max(away), item.solid.radius)
    low, high = still_life.BOX
    filled = points[counts > 0]
    self.assertTrue(np.all((filled > low) & (filled < high)))
    # And the box is not much too large.
    self.assertTrue(np.all(np.max(filled, axis=0) > high - 0.2))
    self.assertTrue(np.all(np.min(filled, axis=0) < low + 0.2))

  @parameterized.parameters(0, 1, 2, 3)
  def test_paints_are_albedos_that_differ(self, seed):
    points = np.random.default_rng(0).uniform(-1, 1, (1000, 3))
    albedo = np.stack(
      [item.paint(points) for item in still_life.make_items(seed)]
    )
    self.assertBetween(np.min(albedo), 0.0, 0.1)
    self.assertBetween(np.max(albedo), 0.8, 1.0)
    textured = np.ptp(albedo, axis=1).max(axis=-1) > 0.2
    self.assertGreaterEqual(np.sum(textured), 3)

  def test_seed_determines_the_items(self):
    def placed(seed):
      items = still_life.make_items(seed)
      return np.stack([[*i.solid.center, *i.solid.rotation[0]] for i in items])

    np.testing.assert_array_equal(placed(5), placed(5))
    self.assertGreater(np.max(np.abs(placed(5) - placed(6))), 0.1)

  def test_some_items_have_gloss_or_holes(self):
    for seed in range(3):
      items = still_life.make_items(seed)
      self.assertGreater(max(item.gloss for item in items), 0.05)
      self.assertTrue(any(item.solid.hole for item in items))

import itertools

import chex
import numpy as np
from absl.testing import parameterized
from scipy.spatial import transform

from experiments.reconstruction import sfm


def _rotations(angles, axis):
  vectors = np.outer(angles, axis)
  return transform.Rotation.from_rotvec(vectors).as_matrix()


class PairsTest(chex.TestCase):
  def test_all_pairs(self):
    pairs = list(sfm.image_pairs(7, exhaustive=True))
    self.assertCountEqual(pairs, itertools.combinations(range(7), 2))

  def test_neighbors_and_anchors(self):
    pairs = list(sfm.image_pairs(1000, exhaustive=False))
    unique = set(pairs)
    self.assertLen(unique, len(pairs))
    self.assertTrue(all(i < j for i, j in pairs))
    for distance in (1, 2, 10, 16, 32, 512):
      self.assertContainsSubset(
        {(i, i + distance) for i in range(1000 - distance)}, unique
      )
    partners = np.bincount(np.array(pairs).ravel(), minlength=1000)
    # The ends, 30 anchors on the way, 20 neighbors, some at doubled distances.
    self.assertTrue({(0, j) for j in range(1, 1000)} <= unique)
    self.assertEqual(np.sum(partners == 999), 30)
    self.assertBetween(np.median(partners), 50, 65)


class TurnTest(chex.TestCase):
  @parameterized.named_parameters(
    ('one', [0.0], 0.0),
    ('equal', [0.7, 0.7, 0.7], 0.0),
    # Two views that roll by an angle a: the mean of (cos a, sin a) and
    # (cos a, -sin a) has length cos a.
    ('roll', [0.3, -0.3], np.sin(0.3)),
    ('upside_down', [0.0, np.pi], 1.0),
  )
  def test_roll(self, angles, expected):
    turn = sfm.measure_turn(_rotations(angles, (0, 0, 1)))
    self.assertAlmostEqual(turn, expected, places=6)

  def test_an_orbit(self):
    angles = np.arange(12) * 2 * np.pi / 12
    turn = sfm.measure_turn(_rotations(angles, (0, 1, 0)))
    self.assertAlmostEqual(turn, 1.0, places=6)

  def test_a_small_turn_to_the_side(self):
    # Of the shears, that along the axis of the turn changes least: its angle
    # is the turn's, and that of the other is twice as large.
    turn = sfm.measure_turn(_rotations([0.1, -0.1], (0, 1, 0)))
    self.assertAlmostEqual(turn, np.sin(0.1), places=6)

  def test_the_axes_of_the_world_do_not_matter(self):
    random = transform.Rotation.random(8, rng=np.random.default_rng(0))
    rotations = random.as_matrix()
    turned = rotations[:7] @ rotations[7]
    self.assertAlmostEqual(
      sfm.measure_turn(turned), sfm.measure_turn(rotations[:7]), places=6
    )

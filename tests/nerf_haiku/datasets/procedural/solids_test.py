import numpy as np
from absl.testing import parameterized

from nerf_haiku.datasets.procedural import solids

_TURN, _CENTRE = solids.turn(25.0, 40.0), np.array([0.2, -0.1, 0.3])


def _box(p):
  return np.max(np.abs(p) - [0.5, 0.3, 0.4], axis=-1)


def _disc(p, radius, half_height):
  aside = np.hypot(p[..., 0], p[..., 1])
  return np.maximum(aside - radius, np.abs(p[..., 2]) - half_height)


def _tube(p):
  return np.maximum(_disc(p, 0.4, 0.5), 0.3 - np.hypot(p[..., 0], p[..., 1]))


def _gate(p):
  under = np.hypot(p[..., 0], p[..., 2] + 0.4)
  return np.maximum(_box(p), 0.25 - under)


def _ellipsoid(p, axes):
  return np.linalg.norm(p / np.array(axes), axis=-1) - 1


def _bowl(p):
  outside, inside = (
    _ellipsoid(p, (0.4, 0.4, 0.5)),
    _ellipsoid(p, (0.35, 0.35, 0.92 * 0.5 - 0.05)),
  )
  flat = np.maximum(p[..., 2], -0.92 * 0.5 - p[..., 2])
  return np.maximum(np.maximum(outside, flat), -inside)


# Each with a function of points in its frame that is under 0 in the matter.
_SOLIDS = {
  'ellipsoid': (
    solids.ellipsoid(_CENTRE, (0.5, 0.3, 0.4), _TURN),
    lambda p: _ellipsoid(p, (0.5, 0.3, 0.4)),
  ),
  'box': (solids.box(_CENTRE, (0.5, 0.3, 0.4), _TURN), _box),
  'gate': (solids.box(_CENTRE, (0.5, 0.3, 0.4), _TURN, arch=0.25), _gate),
  'cylinder': (
    solids.cylinder(_CENTRE, 0.4, 0.5, _TURN),
    lambda p: _disc(p, 0.4, 0.5),
  ),
  'tube': (solids.cylinder(_CENTRE, 0.4, 0.5, _TURN, bore=0.3), _tube),
  'bowl': (
    solids.bowl(_CENTRE, 0.4, 0.5, wall=0.05)._replace(rotation=_TURN),
    _bowl,
  ),
}
_EACH = [(name, *values) for name, values in _SOLIDS.items()]


def _local(points):
  return (points - _CENTRE) @ _TURN  # The transpose of its rotation.


def _rays(number=1500):
  """Rays from around the solid, half of them into it, of uneven lengths."""
  rng = np.random.default_rng(0)
  origins = rng.normal(size=(number, 3))
  origins *= 2 / np.linalg.norm(origins, axis=1, keepdims=True)
  targets = _CENTRE + rng.uniform(-0.6, 0.6, (number, 3))
  return origins, (targets - origins) * rng.uniform(0.2, 3, (number, 1))


class IntersectTest(parameterized.TestCase):
  @parameterized.named_parameters(*_EACH)
  def test_intersection_is_the_first_point_inside(self, solid, implicit):
    origins, directions = _rays()
    t = solids.intersect(solid, origins, directions)
    hit = np.isfinite(t)
    self.assertBetween(np.mean(hit), 0.2, 0.95)

    def at(t, which):
      points = origins[which] + t[..., None] * directions[which]
      return implicit(_local(points))

    np.testing.assert_allclose(at(t[hit], hit), 0, atol=1e-12)
    self.assertLess(np.max(at(t[hit] + 1e-7, hit)), 0)
    # A march finds no matter before, nor on a ray that misses.
    march = np.linspace(0, np.where(hit, t - 1e-9, 25), 1000)
    self.assertGreater(np.min(at(march, slice(None))), 0)

  @parameterized.named_parameters(*_EACH)
  def test_normal_is_the_gradient(self, solid, implicit):
    origins, directions = _rays()
    t = solids.intersect(solid, origins, directions)
    hit = np.isfinite(t)
    points = (origins + t[:, None] * directions)[hit]
    normal = solids.normals(solid, points)
    step = 1e-7
    gradient = np.stack(
      [
        implicit(_local(points + d)) - implicit(_local(points - d))
        for d in step * np.eye(3)
      ],
      axis=-1,
    )
    gradient /= np.linalg.norm(gradient, axis=-1, keepdims=True)
    np.testing.assert_allclose(normal, gradient, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-12)
    self.assertLess(np.max(np.sum(normal * directions[hit], axis=-1)), 0)

  @parameterized.named_parameters(*_EACH)
  def test_radius_contains_the_solid(self, solid, implicit):
    points = np.random.default_rng(0).uniform(-1, 1, (100_000, 3))
    far = np.linalg.norm(points[implicit(points) < 0], axis=-1)
    self.assertBetween(np.max(far), 0.85 * solid.radius, solid.radius)

  @parameterized.named_parameters(
    ('into_the_wall', (0.35, 0, 3), (0, 0, -1), 2.5),
    ('down_the_bore', (0.1, 0, 3), (0, 0, -1), np.inf),
    ('through_the_side', (3, 0, 0), (-1, 0, 0), 2.6),
    ('onto_the_inside', (0, 0, 1), (0.3, 0, -0.75), 1.0),
    ('from_within', (0.1, 0, 0), (2, 0, 0), 0.1),
    ('away', (3, 0, 0), (1, 0, 0), np.inf),
    ('beside', (3, 0.41, 0), (-1, 0, 0), np.inf),
  )
  def test_tube_matches_hand_computed_values(self, origin, direction, expected):
    tube = solids.cylinder((0, 0, 0), 0.4, 0.5, bore=0.3)
    rays = np.array([origin], float), np.array([direction], float)
    np.testing.assert_allclose(solids.intersect(tube, *rays), expected)


class SceneTest(parameterized.TestCase):
  def _solids(self):
    move = solids.turn(70.0)
    return [
      solid._replace(
        center=np.array([0.9 * np.cos(i), 0.9 * np.sin(i), 0.0]),
        rotation=move @ solid.rotation,
      )
      for i, (solid, _) in enumerate(_SOLIDS.values())
    ]

  def test_nearest_is_the_minimum_over_solids(self):
    things, rays = self._solids(), _rays()
    each = np.stack([solids.intersect(solid, *rays) for solid in things])
    t, which = solids.nearest(things, *rays)
    np.testing.assert_array_equal(t, np.min(each, axis=0))
    expected = np.where(np.isfinite(t), np.argmin(each, axis=0), -1)
    np.testing.assert_array_equal(which, expected)
    self.assertLen(np.unique(which), len(things) + 1)

  @parameterized.parameters(0.05, 0.8)
  def test_occluded_is_any_hit(self, spread):
    things = self._solids()
    rng = np.random.default_rng(1)
    directions = rng.normal([0, 0, 1], spread, (5, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # Points right on the surfaces, as those that are shaded, bores included.
    origins, along = _rays()
    t, which = solids.nearest(things, origins, along)
    points = (origins + t[:, None] * along)[which >= 0]
    for i, solid in enumerate(things):
      own = which[which >= 0] == i
      points[own] += 1e-6 * solids.normals(solid, points[own])
    hidden = solids.occluded(things, points, directions)
    for row, direction in zip(hidden, directions, strict=True):
      rays = points, np.tile(direction, (len(points), 1))
      each = [solids.intersect(solid, *rays) for solid in things]
      np.testing.assert_array_equal(row, np.isfinite(np.min(each, axis=0)))
    self.assertBetween(np.mean(hidden), 0.1, 0.9)

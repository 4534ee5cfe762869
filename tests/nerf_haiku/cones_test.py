"""Gaussians have the moments of the pieces of cones that they stand for."""

import functools

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import camera_paths, cameras, cones, encodings
from nerf_haiku.renderers import hierarchical, occupancy, proposal

# Start and end in t, and the radius at t = 1.
_PIECES = (
  (0.0, 1.0, 0.1),
  (2.0, 2.5, 0.01),
  (2.0, 6.0, 0.3),
  (0.5, 0.5001, 0.2),
)


def _rays(directions, radius):
  directions = jnp.atleast_2d(jnp.asarray(directions, jnp.float32))
  ends = jnp.zeros((len(directions), 1))
  return cameras.Rays(
    origins=jnp.zeros_like(directions),
    directions=directions,
    viewdirs=directions,
    near=ends,
    far=ends + 10.0,
    radius=jnp.full_like(ends, radius),
  )


def _piece(start, end, radius, direction=(0.0, 0.0, -1.0)):
  return cones.gaussians(
    _rays(direction, radius), np.array([[start]]), np.array([[end]])
  )


def _points(start, end, radius, num=60):
  """Returns points of a piece of a cone along -z `[P, 3]`, and weights `[P]`.

  A grid over t, the distance from the axis and the angle around it.
  """
  t = start + (np.arange(num) + 0.5) / num * (end - start)
  share = (np.arange(num) + 0.5) / num
  angle = (np.arange(24) + 0.5) / 24 * 2 * np.pi
  t, share, angle = np.meshgrid(t, share, angle, indexing='ij')
  distance = share * radius * t
  points = np.stack(
    [distance * np.cos(angle), distance * np.sin(angle), -t], -1
  )
  # The volume of a piece of this grid.
  weights = distance * radius * t
  return points.reshape(-1, 3), weights.ravel() / np.sum(weights)


class GaussiansTest(parameterized.TestCase):
  @parameterized.parameters(*_PIECES)
  def test_moments_are_those_of_the_piece(self, start, end, radius):
    found = _piece(start, end, radius)
    points, weights = _points(start, end, radius)
    mean = weights @ points
    variance = weights @ (points - mean) ** 2
    np.testing.assert_allclose(found.t[0, 0], -mean[2], rtol=1e-4)
    # Single precision cannot tell the length of a piece 1e-4 long to 1e-3.
    np.testing.assert_allclose(
      found.variance[0, 0], variance, rtol=1e-3, atol=1e-9
    )

  @parameterized.parameters(*_PIECES)
  def test_moments_turn_with_the_direction(self, start, end, radius):
    """Of a direction that is not of length 1."""
    direction = np.array([1.0, -2.0, 2.0], np.float32)
    found = _piece(start, end, radius, direction)
    points, weights = _points(start, end, radius)
    # Axes across a ray of length 3, whose cone has its radius across.
    unit = direction / 3
    first = np.array([2.0, 2.0, 1.0]) / 3
    axes = np.stack([first, np.cross(unit, first), -3 * unit])
    turned = points @ axes
    mean = weights @ turned
    variance = weights @ (turned - mean) ** 2
    np.testing.assert_allclose(found.t[0, 0] * direction, mean, rtol=1e-4)
    np.testing.assert_allclose(
      found.variance[0, 0], variance, rtol=1e-3, atol=1e-8
    )

  def test_a_piece_of_no_length_at_the_tip_is_a_point(self):
    found = _piece(0.0, 0.0, 0.5)
    chex.assert_trees_all_equal(found.t, jnp.zeros((1, 1)))
    chex.assert_trees_all_equal(found.variance, jnp.zeros((1, 1, 3)))

  def test_rays_without_a_radius_are_refused(self):
    rays = _rays((0.0, 0.0, -1.0), 0.1)._replace(radius=None)
    with self.assertRaisesRegex(ValueError, 'no radius'):
      cones.gaussians(rays, np.zeros((1, 1)), np.ones((1, 1)))


class RadiusTest(chex.TestCase):
  def test_a_disk_has_the_variance_of_its_pixel(self):
    views = cameras.pinhole(camera_paths.circle(1), [[8, 12]], [20.0])
    rays = cameras.cast(
      views,
      np.zeros(2, np.int32),
      np.array([[3, 4], [3, 5]], np.int32),
      near=1.0,
      far=2.0,
      box=None,
      pixel_center=True,
    )
    pixel = float(jnp.linalg.norm(rays.directions[1] - rays.directions[0]))
    np.testing.assert_allclose(rays.radius**2 / 4, pixel**2 / 12, rtol=1e-5)


class IntegratedEncodingTest(parameterized.TestCase):
  @parameterized.parameters(
    (2.0, 2.03, 0.003, 6), (4.0, 4.06, 0.01, 5), (0.0, 0.1, 0.1, 4)
  )
  def test_it_is_the_mean_over_the_cone(self, start, end, radius, num_octaves):
    """Up to frequencies of which a piece has a part of a wave."""
    encode = functools.partial(encodings.positional, num_octaves=num_octaves)
    piece = _piece(start, end, radius)
    center = np.array([0.3, -0.2, 0.7], np.float32)
    mean = center + np.array([0, 0, -1]) * np.asarray(piece.t)[..., None]
    found = encode(jnp.asarray(mean, jnp.float32), variance=piece.variance)[
      0, 0
    ]
    points, weights = _points(start, end, radius)
    slow = weights @ np.asarray(
      encode(jnp.asarray(center + points, jnp.float32)), np.float64
    )
    np.testing.assert_allclose(found, slow, atol=1e-3)

  def test_it_is_the_mean_over_the_gaussian(self):
    """At all frequencies, by a sum over many points of it."""
    x, deviation = np.array([0.3, -1.2, 0.7]), np.array([0.02, 0.1, 0.5])
    z = np.linspace(-8, 8, 20_001)[:, None]
    weights = np.exp(-0.5 * z**2)
    waves = [
      np.sum(weights * fn(2.0**i * (x + deviation * z)), 0) / weights.sum()
      for i in range(6)
      for fn in (np.sin, np.cos)
    ]
    found = encodings.positional(
      jnp.asarray(x, jnp.float32),
      num_octaves=6,
      variance=jnp.asarray(deviation**2, jnp.float32),
    )
    np.testing.assert_allclose(found, np.concatenate([x, *waves]), atol=1e-5)


def _haze():
  """A field of one density, whose colour is what it was asked for."""

  def apply(params, points, viewdirs, variance=None):
    del viewdirs
    density = params['haze']['density'] * jnp.ones(points.shape[:-1])
    x, _, z = jnp.moveaxis(variance, -1, 0)
    return density, jnp.stack([10 * x, 10 * z, -0.1 * points[..., 2]], -1)

  def init(key, points, viewdirs):
    del key, points, viewdirs
    return {'haze': {'density': jnp.asarray(0.5)}}

  return hk.Transformed(init, apply)


def _make_renderers():
  field = _haze()
  box = np.array([[-9, -9, -8], [9, 9, -2]], np.float32)
  settings = occupancy.Settings(box, step_size=0.5, max_samples=400)
  shared = {
    'density_activation': 'relu',
    'infinite_end': False,
    'perturb': False,
    'cones': True,
  }
  return {
    'hierarchical': hierarchical.make_hierarchical(
      field, field, num_samples=5, num_importance=4, **shared
    ),
    'proposal': proposal.make_proposal(
      field, (field,), num_samples=(6, 4), **shared
    ),
    'occupancy': occupancy.make_occupancy(field, settings, **shared),
  }


class RenderersTest(parameterized.TestCase):
  @parameterized.parameters('hierarchical', 'proposal', 'occupancy')
  def test_a_field_is_queried_for_the_pieces_of_cones(self, name):
    renderer = _make_renderers()[name]
    rays = _rays([[0.0, 0.0, -1.0], [0.2, 0.0, -1.0]], 0.1)
    rays = rays._replace(near=rays.near + 2.0, far=rays.far - 2.0)
    variables = renderer.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 2)
    samples = renderer.sample_rays(variables, rays, keys)
    rendering = renderer.render(variables.params, rays, samples)[-1]
    history = rendering.history
    t, end, of_sample = history.t, history.t + history.width, rays
    if name == 'occupancy':
      of_sample = jax.tree.map(lambda x: x[history.ray], rays)
      t, end = t[:, None], end[:, None]
    piece = cones.gaussians(of_sample, t, end)
    asked = jnp.stack(
      [10 * piece.variance[..., 0], 10 * piece.variance[..., 2], 0.1 * piece.t],
      axis=-1,
    )
    if name == 'occupancy':
      asked = asked[:, 0]
    expected = history.sum_rays(history.weights[..., None] * asked)
    np.testing.assert_allclose(rendering.outputs.rgb, expected, rtol=1e-5)
    self.assertTrue(np.all(np.asarray(expected) > 1e-3))
    # A view is rendered alike.
    view = renderer.render_eval(variables, rays)[-1].outputs.rgb
    if name != 'occupancy':  # It marches from half a step on.
      np.testing.assert_allclose(view, expected, rtol=1e-5)
    np.testing.assert_allclose(view, expected, rtol=0.2)

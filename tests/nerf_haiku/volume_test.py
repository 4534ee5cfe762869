import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import backgrounds, volume
from tests.support import references


def _inputs(density, rgb=0.2, rays=2, samples=5):
  """Samples at t = 1, 2, ... with unit directions; far is one further."""
  t = jnp.tile(jnp.arange(1.0, samples + 1), (rays, 1))
  return {
    'rgb': jnp.full((rays, samples, 3), rgb),
    'density': jnp.full((rays, samples), density),
    't': t,
    'directions': jnp.tile(jnp.array([0.0, 0.0, -1.0]), (rays, 1)),
    'near': t[:, :1],
    'far': t[:, -1:] + 1.0,
  }


def _slow_composite(rgb, density, t, direction, end):
  """Equation 3 as it is written, for one ray in float64."""
  norm = np.linalg.norm(direction)
  transmittance, colour, weights = 1.0, np.zeros(3), []
  for i in range(len(t)):
    step = ((t[i + 1] if i + 1 < len(t) else end) - t[i]) * norm
    alpha = 1.0 - np.exp(-density[i] * step)
    weights.append(transmittance * alpha)
    colour += transmittance * alpha * rgb[i]
    transmittance *= 1.0 - alpha
  return colour, np.array(weights)


class CompositeTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.named_parameters(
    ('empty', 0.0, backgrounds.WHITE, [1.0, 1.0, 1.0]),
    ('night', 0.0, backgrounds.BLACK, [0.0, 0.0, 0.0]),
    ('fog', 9.0, backgrounds.WHITE, [0.2, 0.2, 0.2]),
    ('dusk', 0.0, (0.3, 0.4, 0.5), [0.3, 0.4, 0.5]),
    ('fog at dusk', 9.0, (0.3, 0.4, 0.5), [0.2, 0.2, 0.2]),
    # A quarter of the light passes all five samples.
    ('mist', np.log(4.0) / 5, (0.4, 0.0, 1.0), [0.25, 0.15, 0.4]),
  )
  def test_limits(self, density, background, expected):
    composite = functools.partial(volume.composite, background=background)
    outputs, _ = self.variant(composite)(**_inputs(density))
    np.testing.assert_allclose(
      outputs.rgb, np.tile(expected, (2, 1)), atol=1e-6
    )

  def test_half_at_each_sample(self):
    outputs, history = volume.composite(
      **_inputs(np.log(2.0)), background=backgrounds.BLACK
    )
    expected = np.tile([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32], (2, 1))
    np.testing.assert_allclose(history.weights, expected, rtol=1e-5)
    np.testing.assert_allclose(outputs.opacity, [31 / 32] * 2, rtol=1e-5)
    depth = (1 / 2) * 1 + (1 / 4) * 2 + (1 / 8) * 3 + (1 / 16) * 4 + 5 / 32
    np.testing.assert_allclose(outputs.depth, [depth] * 2, rtol=1e-5)
    np.testing.assert_allclose(
      outputs.disparity, 31 / 32 / outputs.depth, rtol=1e-5
    )

  def test_keeps_samples_and_the_widths_of_their_intervals(self):
    inputs = _inputs(1.0)
    for infinite_end in (False, True):
      _, history = volume.composite(
        **inputs, background=backgrounds.BLACK, infinite_end=infinite_end
      )
      np.testing.assert_array_equal(history.t, inputs['t'])
      np.testing.assert_array_equal(history.width, np.ones((2, 5)))

  def test_nothing_is_rendered_along_a_ray_without_length(self):
    inputs = _inputs(1.0)
    inputs['t'] = jnp.ones((2, 5))
    inputs['near'] = inputs['far'] = jnp.ones((2, 1))
    for infinite_end in (False, True):
      outputs, _ = volume.composite(
        **inputs, background=backgrounds.WHITE, infinite_end=infinite_end
      )
      np.testing.assert_array_equal(outputs.opacity, 0.0)
      np.testing.assert_array_equal(outputs.rgb, 1.0)

  def test_distortion_of_half_opaque_samples(self):
    """Weights 1/2, 1/4, 1/8, 1/16 at 1, 2, 3, 4 of a ray from 1 to 5."""
    _, history = volume.composite(
      **_inputs(np.log(2.0), samples=4), background=backgrounds.BLACK
    )
    w, t = 0.5 ** np.arange(1, 5), np.arange(4) / 4
    expected = sum(
      w[i] * w[j] * abs(t[i] - t[j]) for i in range(4) for j in range(4)
    ) + np.sum(w**2 / 4 / 3)
    np.testing.assert_allclose(
      volume.distortion(history), [expected] * 2, rtol=1e-5
    )

  def test_matches_a_loop(self):
    rng = np.random.default_rng(0)
    rgb, density = rng.uniform(size=(6, 9, 3)), rng.exponential(size=(6, 9))
    t = np.sort(rng.uniform(2, 6, size=(6, 9)))
    directions, end = rng.normal(size=(6, 3)), np.full((6, 1), 6.5)
    arrays = (x.astype(np.float32) for x in (rgb, density, t, directions))
    outputs, history = volume.composite(
      *arrays,
      near=jnp.full((6, 1), 2.0),
      far=jnp.asarray(end, jnp.float32),
      background=backgrounds.BLACK,
    )
    for i in range(6):
      colour, weights = _slow_composite(
        rgb[i], density[i], t[i], directions[i], end[i, 0]
      )
      np.testing.assert_allclose(outputs.rgb[i], colour, atol=1e-5)
      np.testing.assert_allclose(history.weights[i], weights, atol=1e-5)

  @parameterized.parameters('black', 'white')
  def test_matches_reference(self, name):
    reference = references.load('render')
    raw = jnp.asarray(reference['raw'])
    outputs, history = volume.composite(
      jax.nn.sigmoid(raw[..., :3]),
      volume.DENSITY_ACTIVATIONS['relu'](raw[..., 3]),
      reference['z'],
      reference['directions'],
      near=jnp.zeros((16, 1)),
      far=jnp.full((16, 1), 100.0),
      infinite_end=True,
      background=getattr(backgrounds, name.upper()),
    )
    expected = {
      'rgb': outputs.rgb,
      'acc': outputs.opacity,
      'weights': history.weights,
      'depth': outputs.depth,
    }
    for field, value in expected.items():
      np.testing.assert_allclose(
        value, reference[f'{name}_{field}'], atol=1e-4, err_msg=field
      )
    # The reference's disparity is 0 / 0 where there is nothing.
    disparity = np.where(outputs.opacity > 0, reference[f'{name}_disp'], 0.0)
    np.testing.assert_allclose(outputs.disparity, disparity, atol=1e-4)

  @parameterized.product(
    density=(0.0, 1e-30, 1e-8, 1.0, 1e4, 1e8), infinite=(False, True)
  )
  def test_values_and_gradients_are_finite(self, density, infinite):
    inputs = _inputs(density)
    inputs['t'] = inputs['t'].at[1].set(3.0)  # Equal samples.

    def everything(rgb, density, t):
      rendering = volume.composite(
        **dict(inputs, rgb=rgb, density=density, t=t),
        background=backgrounds.WHITE,
        infinite_end=infinite,
      )
      return sum(jnp.sum(x) for x in jax.tree.leaves(rendering)), rendering

    grads, rendering = jax.grad(everything, argnums=(0, 1, 2), has_aux=True)(
      inputs['rgb'], inputs['density'], inputs['t']
    )
    chex.assert_tree_all_finite((grads, rendering))

  def test_weights_add_up_to_opacity_of_all_the_density(self):
    rng = np.random.default_rng(1)
    inputs = _inputs(0.0, rays=50)
    density = rng.exponential(size=(50, 5)).astype(np.float32)
    outputs, _ = volume.composite(
      **dict(inputs, density=density), background=backgrounds.BLACK
    )
    np.testing.assert_allclose(
      outputs.opacity, 1 - np.exp(-density.sum(1)), atol=1e-6
    )

  def test_length_of_direction_counts(self):
    inputs = _inputs(0.3)
    longer = dict(inputs, directions=2 * inputs['directions'])
    denser = dict(inputs, density=2 * inputs['density'])
    one, _ = volume.composite(**longer, background=backgrounds.WHITE)
    two, _ = volume.composite(**denser, background=backgrounds.WHITE)
    chex.assert_trees_all_close(one, two, rtol=1e-6)


class DensityActivationTest(chex.TestCase):
  def test_softplus_is_shifted(self):
    softplus = volume.DENSITY_ACTIVATIONS['softplus']
    raw = np.array([-3.0, 0.0, 1.0, 50.0], np.float32)
    expected = np.log1p(np.exp(raw.astype(np.float64) - 1))
    np.testing.assert_allclose(softplus(raw), expected, rtol=1e-5)


class ExpTest(chex.TestCase):
  def test_values_and_gradients(self):
    raw = jnp.array([-1e4, 0.0, 2.0, 5.0, 1e4])
    density = volume.DENSITY_ACTIVATIONS['exp'](raw)
    np.testing.assert_allclose(
      density[:4], np.exp([-np.inf, -2.0, 0.0, 3.0]), rtol=1e-6
    )
    slope = jax.vmap(jax.grad(volume.DENSITY_ACTIVATIONS['exp']))(raw)
    np.testing.assert_allclose(slope[:4], density[:4], rtol=1e-6)
    chex.assert_tree_all_finite((density, slope))


class PackedTest(chex.TestCase):
  """Lists of samples of rays with 0, 1, 5 and 12 of them."""

  def _packed(self, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    counts = [5, 0, 1, 12]
    ray = np.repeat(np.arange(4), counts)
    rank = np.concatenate([np.arange(n) for n in counts])
    optical_depth = scale * rng.exponential(size=18)
    return (
      rng.uniform(size=(18, 3)),
      optical_depth,
      rng.uniform(2, 6, 18),
      ray,
      rank,
    )

  def _composite(self, rgb, optical_depth, t, ray, rank):
    t = jnp.asarray(t, jnp.float32)
    return volume.composite_packed(
      jnp.asarray(rgb, jnp.float32),
      jnp.asarray(optical_depth, jnp.float32),
      t,
      width=jnp.zeros_like(t),
      near=jnp.zeros_like(t),
      far=jnp.full_like(t, 9.0),
      ray=jnp.asarray(ray),
      rank=jnp.asarray(rank),
      num_rays=4,
      max_per_ray=12,
    )[0]

  @parameterized.parameters(0.3, 1.0, 30.0)
  def test_matches_a_loop(self, scale):
    arrays = self._packed(scale=scale)
    sums = self._composite(*arrays)
    transmittance = np.ones(4)
    rgb, opacity, depth = np.zeros((4, 3)), np.zeros(4), np.zeros(4)
    for colour, tau, t, ray, _ in zip(*arrays, strict=True):
      weight = transmittance[ray] * (1 - np.exp(-tau))
      rgb[ray] += weight * colour
      opacity[ray] += weight
      depth[ray] += weight * t
      transmittance[ray] *= np.exp(-tau)
    for found, expected in zip(
      sums, (rgb, opacity, depth, transmittance), strict=True
    ):
      np.testing.assert_allclose(found, expected, atol=1e-5)

  def test_small_depths_behind_opaque_rays_are_exact(self):
    """One long sum over all rays would lose them."""
    rgb, optical_depth, t, ray, rank = self._packed(scale=1e-3)
    optical_depth[ray == 0] = 1e7
    sums = self._composite(rgb, optical_depth, t, ray, rank)
    expected = 1 - np.exp(-optical_depth[ray == 3].sum())
    np.testing.assert_allclose(sums.opacity[3], expected, rtol=1e-4)

  def test_gradients_are_finite(self):
    rgb, optical_depth, t, ray, rank = self._packed()
    for scale in (0.0, 1.0, 1e8):

      def total(x):
        sums = self._composite(rgb, x, t, ray, rank)
        return jnp.sum(sums.rgb) + jnp.sum(sums.depth)

      grad = jax.grad(total)(jnp.asarray(scale * optical_depth, jnp.float32))
      chex.assert_tree_all_finite(grad)


def _history(weights, t, width, near, far):
  """The samples of one ray."""
  return volume.RayHistory(
    *(jnp.asarray(x, jnp.float32)[None] for x in (weights, t, width)),
    near=jnp.full((1, 1), near),
    far=jnp.full((1, 1), far),
  )


def _packed_history(weights, t, width, near, far):
  """The samples of several rays, lists of arrays."""
  counts = [len(x) for x in t]
  num_samples = sum(counts)
  return volume.PackedHistory(
    *(jnp.asarray(np.concatenate(x), jnp.float32) for x in (weights, t, width)),
    near=jnp.full(num_samples, near),
    far=jnp.full(num_samples, far),
    ray=jnp.asarray(np.repeat(np.arange(len(t)), counts)),
    rank=jnp.asarray(np.concatenate([np.arange(n) for n in counts])),
    num_rays=len(t),
    max_per_ray=max(counts),
  )


class BoundaryWeightTest(chex.TestCase):
  def test_weight_near_the_ends_of_rays(self):
    """Rays go from 2 to 6: the ends are 0.08 long."""
    t = [2.0, 2.07, 2.09, 5.91, 5.93]
    weights = [0.01, 0.02, 0.04, 0.08, 0.16]
    history = _history(weights, t, np.zeros(5), 2.0, 6.0)
    np.testing.assert_allclose(
      volume.boundary_weight(history), [[0.03, 0.16]], rtol=1e-6
    )
    two = [np.asarray(x) for x in (weights, weights[::-1])]
    packed = _packed_history(
      two, [np.array(t)] * 2, [np.zeros(5)] * 2, 2.0, 6.0
    )
    np.testing.assert_allclose(
      volume.boundary_weight(packed), [[0.03, 0.16], [0.24, 0.01]], rtol=1e-5
    )


class DistortionTest(chex.TestCase):
  """Rays of 1, 4 and 7 samples, by all pairs of their samples."""

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    counts = (1, 4, 7)
    self.weights = [rng.uniform(0, 1 / n, n) for n in counts]
    self.t = [np.sort(rng.uniform(0, 1, n)) for n in counts]
    self.width = [rng.uniform(0.1, 0.3, n) for n in counts]
    self.expected = [
      sum(
        w[i] * w[j] * abs(t[i] - t[j])
        for i in range(len(w))
        for j in range(len(w))
      )
      + sum(w**2 * width / 3)
      for w, t, width in zip(self.weights, self.t, self.width, strict=True)
    ]
    # The same on rays that go from 2 to 6: their length counts as 1.
    self.t = [2 + 4 * t for t in self.t]
    self.width = [4 * width for width in self.width]

  def test_matches_all_pairs(self):
    for *arrays, expected in zip(
      self.weights, self.t, self.width, self.expected, strict=True
    ):
      found = volume.distortion(_history(*arrays, 2.0, 6.0))
      np.testing.assert_allclose(found, [expected], rtol=1e-5)

  def test_packed_rays_have_their_own_pairs_alone(self):
    history = _packed_history(self.weights, self.t, self.width, 2.0, 6.0)
    np.testing.assert_allclose(
      volume.distortion(history), self.expected, rtol=1e-5
    )

  def test_a_ray_of_no_length_has_finite_values_and_gradients(self):
    def total(weights):
      history = _history(weights, np.full(3, 2.0), np.zeros(3), 2.0, 2.0)
      return jnp.sum(volume.distortion(history._replace(weights=weights[None])))

    chex.assert_tree_all_finite(jax.value_and_grad(total)(jnp.full(3, 0.2)))


class ScaleGradientsTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_closed_form(self):
    distance = jnp.array([0.0, 0.5, 1.0, 2.0, 9.0])

    @self.variant
    def gradients(density, rgb):
      def total(density, rgb):
        pair = volume.scale_gradients(density, rgb, distance, radius=2.0)
        return jnp.sum(pair[0] + jnp.sum(pair[1], axis=-1))

      return jax.grad(total, argnums=(0, 1))(density, rgb)

    expected = np.array([0.0, 1 / 16, 1 / 4, 1.0, 1.0])
    density, rgb = gradients(jnp.ones(5), jnp.ones((5, 3)))
    np.testing.assert_allclose(density, expected)
    np.testing.assert_allclose(rgb, np.tile(expected[:, None], 3))


def _histogram(edges, weights):
  """Intervals between edges `[R, S + 1]`."""
  edges, weights = (jnp.asarray(x, jnp.float32) for x in (edges, weights))
  return volume.RayHistory(
    weights=weights,
    t=edges[:, :-1],
    width=jnp.diff(edges),
    near=edges[:, :1],
    far=edges[:, -1:],
  )


def _random_edges(rng, rays, samples):
  """Edges `[R, S + 1]` from 2 to 6."""
  inner = rng.uniform(2, 6, (rays, samples - 1))
  return np.sort(np.append(inner, [[2.0, 6.0]] * rays, -1))


def _random_histogram(rng, rays, samples):
  edges = _random_edges(rng, rays, samples)
  weights = rng.exponential(size=(rays, samples))
  return _histogram(edges, weights / weights.sum(-1, keepdims=True))


def _slow_interlevel(proposal, history):
  """Equations 12 and 13 of mip-NeRF 360, interval by interval, in float64."""
  losses = []
  for ray in range(len(history.t)):
    w, t, width, p, pt, pwidth = (
      np.float64(x[ray])
      for y in (history, proposal)
      for x in (y.weights, y.t, y.width)
    )
    total = 0.0
    for i in range(len(w)):
      bound = sum(
        p[j]
        for j in range(len(p))
        if pt[j] < t[i] + width[i] and pt[j] + pwidth[j] > t[i]
      )
      total += max(0, w[i] - bound) ** 2 / (w[i] + 1e-7)
    losses.append(total)
  return losses


class InterlevelTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_matches_a_loop(self):
    rng = np.random.default_rng(0)
    history = _random_histogram(rng, 20, 6)
    proposal = _random_histogram(rng, 20, 9)
    expected = _slow_interlevel(proposal, history)
    self.assertGreater(np.median(expected), 0.01)
    np.testing.assert_allclose(
      self.variant(volume.interlevel)(proposal, history), expected, rtol=1e-3
    )

  def test_equal_histograms_have_none(self):
    history = _random_histogram(np.random.default_rng(1), 20, 7)
    np.testing.assert_allclose(
      volume.interlevel(history, history), 0.0, atol=1e-6
    )

  def test_two_histograms_of_one_distribution_have_none(self):
    """The bound holds whatever their edges are."""
    rng = np.random.default_rng(2)
    points = 2 + 4 * rng.uniform(size=1000) ** 3

    def histogram(samples):
      edges = _random_edges(rng, 20, samples)
      return _histogram(
        edges, [np.histogram(points, x)[0] / len(points) for x in edges]
      )

    for one, other in ((5, 9), (9, 5), (30, 2)):
      excess = volume.interlevel(histogram(one), histogram(other))
      np.testing.assert_allclose(excess, 0.0, atol=1e-6)

  def test_a_proposal_that_misses(self):
    """It has 0.3 of 0.8 where the weight is: an excess of 0.5."""
    history = _histogram([[0.0, 2, 3, 4]], [[0.0, 0.8, 0.1]])
    proposal = _histogram([[0.0, 2, 3.5, 4]], [[0.6, 0.3, 0.0]])
    np.testing.assert_allclose(
      volume.interlevel(proposal, history), [0.5**2 / 0.8], rtol=1e-5
    )

  def test_only_the_proposal_has_a_gradient(self):
    """It is raised where it has too little; there is none where it has more."""
    history = _histogram([[0.0, 2, 3, 4]], [[0.0, 0.8, 0.1]])
    proposal = _histogram([[0.0, 2, 3, 4]], [[0.6, 0.3, 0.2]])

    def total(proposal, history):
      return jnp.sum(volume.interlevel(proposal, history))

    of_proposal, of_history = jax.grad(total, argnums=(0, 1))(proposal, history)
    np.testing.assert_allclose(
      of_proposal.weights, [[0.0, -2 * 0.5 / 0.8, 0.0]], rtol=1e-5
    )
    chex.assert_trees_all_equal(
      (of_history, of_proposal.t),
      jax.tree.map(jnp.zeros_like, (history, proposal.t)),
    )

import chex
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import cameras, contraction, ray_marching

_BOX = np.array([[-1.0, -2.0, 0.0], [1.0, 1.0, 2.0]], np.float32)


def _rays(count=12, seed=0):
  """Rays from around the box into it, with directions of any length."""
  rng = np.random.default_rng(seed)
  origins = rng.normal(size=(count, 3)) * 4
  directions = rng.uniform(_BOX[0], _BOX[1], (count, 3)) - origins
  directions[0] *= -1  # Away from the box.
  directions *= rng.uniform(0.2, 2, (count, 1))
  near, far = np.zeros((count, 1)), np.full((count, 1), 50.0)
  arrays = (origins, directions, directions, near, far)
  rays = cameras.Rays(*(jnp.asarray(x, jnp.float32) for x in arrays))
  return cameras.clip(rays, _BOX)


def _slow_march(occupied, rays, shift, step, resolution):
  """Positions of each ray in occupied cells, one by one."""
  found = []
  for i in range(len(shift)):
    origin, direction = (np.float64(x[i]) for x in rays[:2])
    near, far = float(rays.near[i, 0]), float(rays.far[i, 0])
    dt = step / np.linalg.norm(direction)
    positions, k = [], 0
    while near + (k + shift[i]) * dt < far:
      point = origin + (near + (k + shift[i]) * dt) * direction
      cell = (point - _BOX[0]) / (_BOX[1] - _BOX[0]) * resolution
      x, y, z = np.clip(cell.astype(int), 0, resolution - 1)
      if occupied[z, y, x]:
        positions.append(k)
      k += 1
    found.append(positions)
  return found


def _positions(bits):
  """The set bits of rows of words."""
  return [
    [
      32 * w + b
      for w, word in enumerate(row)
      for b in range(32)
      if int(word) >> b & 1
    ]
    for row in np.asarray(bits)
  ]


class MarchTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(0.05, 0.2)
  def test_matches_a_loop(self, step):
    rng = np.random.default_rng(1)
    occupied = rng.uniform(size=(8, 8, 8)) < 0.3
    rays, shift = _rays(), rng.uniform(size=12)
    march = self.variant(
      lambda o, r, s: ray_marching.march(
        o, r, s, box=_BOX, step=step, num_positions=120
      )
    )
    marched = march(
      jnp.asarray(occupied), rays, jnp.asarray(shift, jnp.float32)
    )
    expected = _slow_march(occupied, rays, shift, step, 8)
    self.assertEqual(_positions(marched.bits), expected)
    self.assertEqual(expected[0], [])
    self.assertGreater(max(map(len, expected)), 3)
    np.testing.assert_array_equal(
      ray_marching.count_samples(marched), [len(x) for x in expected]
    )

  def test_positions_are_no_more_than_requested(self):
    marched = ray_marching.march(
      jnp.ones((2, 2, 2), bool),
      _rays(),
      jnp.zeros(12),
      box=_BOX,
      step=0.01,
      num_positions=40,
    )
    self.assertEqual(int(jnp.max(ray_marching.count_samples(marched))), 40)


def _slow_contracted(occupied, rays, shift, step, resolution):
  """Positions of each ray in occupied cells of contracted space, one by one."""

  def contract(x):
    radius = np.linalg.norm(x)
    return x if radius < 1 else (2 - 1 / radius) * x / radius

  found, margin = [], np.inf
  for i in range(len(shift)):
    origin, direction = (np.float64(x[i]) for x in rays[:2])
    speed = np.linalg.norm(direction)
    offset = origin @ direction / speed
    near, far = (
      contract(np.array([offset + speed * float(x[i, 0])]))[0]
      for x in (rays.near, rays.far)
    )
    positions, k = [], 0
    while (s := near + (k + shift[i]) * step) < far:
      distance = s if abs(s) < 1 else np.sign(s) / (2 - abs(s))
      point = origin + (distance - offset) / speed * direction
      cell = (contract(point) + 2) / 4 * resolution
      margin = min(margin, np.abs(cell - np.round(cell)).min(), far - s)
      x, y, z = np.clip(cell.astype(int), 0, resolution - 1)
      if occupied[z, y, x]:
        positions.append(k)
      k += 1
    found.append(positions)
  return found, margin


class ContractedTest(chex.TestCase):
  def _rays(self):
    """From near the origin and from far away, to far away and to infinity."""
    rng = np.random.default_rng(5)
    rays = _rays()
    origins = rng.normal(size=(12, 3)) * 0.5
    origins[6:] *= 20.0
    near = rng.uniform(0.1, 0.3, (12, 1))
    far = np.array([3.0, 40.0, 1e3, 1e6] * 3)[:, None]
    return rays._replace(
      **{
        name: jnp.asarray(x, jnp.float32)
        for name, x in (('origins', origins), ('near', near), ('far', far))
      }
    )

  @chex.variants(with_jit=True, without_jit=True)
  def test_matches_a_loop(self):
    rng = np.random.default_rng(3)
    occupied = rng.uniform(size=(8, 8, 8)) < 0.4
    rays, shift = self._rays(), rng.uniform(size=12)
    marched = self.variant(
      lambda o, r, s: ray_marching.march(
        o,
        r,
        s,
        box=contraction.BOX,
        step=0.07,
        num_positions=59,
        contracted=True,
      )
    )(jnp.asarray(occupied), rays, jnp.asarray(shift, jnp.float32))
    expected, margin = _slow_contracted(occupied, rays, shift, 0.07, 8)
    self.assertGreater(margin, 1e-5)  # No position is moved by rounding.
    self.assertEqual(_positions(marched.bits), expected)
    self.assertGreater(max(map(len, expected)), 8)

  def test_intervals_follow_each_other(self):
    """They grow with the distance, and end where the ray does."""
    near, far = 0.2, 1e6
    ray = ([0.6, -0.8, 0], [0, 0.7, 0], [0, 1, 0], [near], [far])
    rays = cameras.Rays(*(jnp.tile(jnp.array(x), (60, 1)) for x in ray))
    found = ray_marching.intervals(
      rays, jnp.arange(60.0), step=0.07, contracted=True
    )
    count = int(jnp.argmax(found.is_last)) + 1
    t, end = np.asarray(found.t), np.asarray(found.t + found.width)
    self.assertBetween(count, 30, 58)
    np.testing.assert_allclose(t[0], near, rtol=1e-5)
    np.testing.assert_allclose(end[: count - 1], t[1:count], rtol=1e-5)
    np.testing.assert_allclose(end[count - 1], far, rtol=1e-6)
    np.testing.assert_array_equal(found.width[count:], 0.0)
    self.assertTrue(np.all(np.diff(found.width[:count]) > -1e-5))
    self.assertGreater(float(found.width[count - 2]), 10)


class PackTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_matches_a_loop(self):
    rng = np.random.default_rng(2)
    bits = rng.integers(0, 2**32, (9, 5), np.uint32)
    bits[3] = 0  # A ray without samples, words without any, full ones.
    bits[5, 1:4] = 0
    bits[6, :2] = 2**32 - 1
    positions = _positions(bits)
    first = rng.integers(0, 3, 9)
    number = [
      max(0, min(len(p) - f, 30)) for p, f in zip(positions, first, strict=True)
    ]
    samples = self.variant(
      lambda b, f, n: ray_marching.pack_samples(
        ray_marching.MarchedRays(b, jnp.zeros(9)), f, n, max_samples=320
      )
    )(jnp.asarray(bits), jnp.asarray(first), jnp.asarray(number, jnp.int32))
    expected = [
      (ray, k, positions[ray][first[ray] + k])
      for ray in range(9)
      for k in range(number[ray])
    ]
    used = np.asarray(samples.used)
    self.assertEqual(int(used.sum()), len(expected))
    self.assertTrue(np.all(used[: len(expected)]))
    found = np.stack(samples[:3], axis=-1)[used]
    np.testing.assert_array_equal(found, expected)
    self.assertTrue(np.all(np.diff(samples.ray) >= 0))

  def test_a_full_list(self):
    bits = jnp.full((4, 1), 7, jnp.uint32)
    samples = ray_marching.pack_samples(
      ray_marching.MarchedRays(bits, jnp.zeros(4)),
      jnp.zeros(4, int),
      jnp.full(4, 3, jnp.int32),
      max_samples=12,
    )
    np.testing.assert_array_equal(samples.ray, np.repeat(np.arange(4), 3))
    np.testing.assert_array_equal(samples.position, np.tile([0, 1, 2], 4))
    self.assertTrue(bool(jnp.all(samples.used)))

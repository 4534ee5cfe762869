import chex
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import cameras, ray_marching

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

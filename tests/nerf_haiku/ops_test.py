from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import devices, ops


def _normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _values_and_gradients(fn, g, *args):
  def loss(*args):
    return jnp.sum(g * fn(*args))

  return fn(*args), jax.grad(loss, argnums=tuple(range(len(args))))(*args)


class PlainTest(chex.TestCase):
  """Each tuned primitive computes what its plain definition says."""

  @chex.variants(with_jit=True, without_jit=True)
  def test_project(self):
    w, x, g = _normal(5, 3), _normal(5, 7, seed=1), _normal(3, 7, seed=2)
    tuned, plain = (
      self.variant(lambda w, x, fn=fn: _values_and_gradients(fn, g, w, x))(w, x)
      for fn in (ops.project, ops.project_plain)
    )
    chex.assert_trees_all_close(tuned, plain, rtol=1e-5)

  @chex.variants(with_jit=True, without_jit=True)
  def test_relu(self):
    x, g = _normal(4, 9), _normal(4, 9, seed=1)
    tuned, plain = (
      self.variant(lambda x, fn=fn: _values_and_gradients(fn, g, x))(x)
      for fn in (ops.relu, ops.relu_plain)
    )
    chex.assert_trees_all_equal(tuned, plain)

  def test_the_slope_of_relu_at_0_is_0(self):
    self.assertEqual(float(jax.grad(ops.relu)(0.0)), 0.0)

  @parameterized.product(longest=(1, 3, 12, 300), are_cpus=(True, False))
  def test_exclusive_sum(self, longest, are_cpus):
    counts = [longest, 0, 1, longest, 2]
    counts = [min(x, longest) for x in counts]
    ray = np.repeat(np.arange(5), counts)
    rank = np.concatenate([np.arange(n) for n in counts])
    x, g = _normal(len(ray)), _normal(len(ray), seed=1)
    with mock.patch.object(devices, 'are_cpus', return_value=are_cpus):
      tuned = _values_and_gradients(
        lambda x: ops.exclusive_sum(x, jnp.asarray(rank), longest), g, x
      )
    plain = _values_and_gradients(
      lambda x: ops.exclusive_sum_plain(x, jnp.asarray(ray)), g, x
    )
    chex.assert_trees_all_close(tuned, plain, atol=1e-5)

  @parameterized.product(count=(1, 2, 7), are_cpus=(True, False))
  def test_repeat(self, count, are_cpus):
    def body(carry):
      i, total = carry
      return i + 1, 2 * total + i

    def condition(carry):
      return carry[0] < count

    with mock.patch.object(devices, 'are_cpus', return_value=are_cpus):
      tuned = jax.jit(lambda x: ops.repeat(body, condition, (0, x)))(3)
    self.assertEqual(
      tuple(map(int, tuned)), ops.repeat_plain(body, condition, (0, 3))
    )

  @parameterized.parameters(1, 2, 5, 9)
  def test_select_bits(self, num_words):
    rng = np.random.default_rng(num_words)
    bits = rng.integers(0, 2**32, (6, num_words), np.uint32)
    bits[2] = 2**32 - 1
    bits[3] &= rng.integers(0, 2**32, num_words, np.uint32) & 0x10001
    bits[3, -1] |= 2**31
    count = np.asarray(ops.count_bits(jnp.asarray(bits))).sum(axis=1)
    row = np.repeat(np.arange(6), count)
    rank = np.concatenate([np.arange(n) for n in count])
    tuned, plain = (
      fn(jnp.asarray(bits), jnp.asarray(row), jnp.asarray(rank))
      for fn in (ops.select_bits, ops.select_bits_plain)
    )
    np.testing.assert_array_equal(tuned, plain)
    expected = [
      32 * w + b
      for words in bits
      for w, word in enumerate(words)
      for b in range(32)
      if int(word) >> b & 1
    ]
    np.testing.assert_array_equal(tuned, expected)


class ScaleGradientTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_values_stay_and_gradients_are_scaled(self):
    x, scale = jnp.array([[0.1, 0.7], [1e-30, 3.0]]), jnp.array([[0.25], [0.0]])

    @self.variant
    def compute(x):
      return jax.value_and_grad(
        lambda x: jnp.sum(jnp.sin(ops.scale_gradient(x, scale))), has_aux=False
      )(x), ops.scale_gradient(x, scale)

    (_, gradient), same = compute(x)
    np.testing.assert_array_equal(same, x)
    np.testing.assert_allclose(gradient, np.cos(x) * scale, rtol=1e-6)

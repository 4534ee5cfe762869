import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from nerf_haiku import arrays, devices


class EmptyTest(chex.TestCase):
  @parameterized.parameters(
    ((5, 3), np.uint8), ((0, 4), np.uint16), ((7,), np.float32)
  )
  def test_shapes_and_alignment(self, shape, dtype):
    for _ in range(5):
      made = arrays.empty(shape, dtype)
      self.assertEqual((made.shape, made.dtype), (shape, dtype))
      self.assertTrue(made.flags.writeable and made.flags.c_contiguous)
      if made.size:
        self.assertEqual(made.ctypes.data % 64, 0)

  @pytest.mark.cpu
  def test_a_device_holds_it_without_a_copy(self):
    made = arrays.empty((1000, 3), np.uint8)
    made[:] = 9
    held = devices.replicate(made).addressable_data(0)
    self.assertEqual(held.unsafe_buffer_pointer(), made.ctypes.data)
    np.testing.assert_array_equal(held[0], made)


class PackTest(chex.TestCase):
  def test_unpack_inverts_pack(self):
    tree = {
      'a': jnp.float32(0.25),
      'b': (jnp.ones((3, 2)), jnp.int32(2**24)),
      'c': jnp.arange(3, dtype=jnp.int32),
    }
    packed = arrays.pack(tree)
    chex.assert_shape(packed, (1 + 6 + 1 + 3,))
    for one in (packed, np.asarray(packed)):
      chex.assert_trees_all_equal(arrays.unpack(one, tree), tree)
    many = arrays.unpack(jnp.stack([packed, 2 * packed]), tree)
    doubled = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), tree)
    chex.assert_trees_all_equal(many, doubled)
    chex.assert_trees_all_equal_shapes_and_dtypes(many, doubled)

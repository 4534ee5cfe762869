import chex
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

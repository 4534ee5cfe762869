import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nerf_haiku import devices


@pytest.mark.cpu
class DevicesTest(chex.TestCase):
  def test_unreplicate_inverts_replicate(self):
    tree = {'a': jnp.arange(6.0).reshape(2, 3), 'b': np.int32(3)}
    copies = devices.replicate(tree)
    count = jax.local_device_count()
    self.assertEqual(count, 4)
    chex.assert_tree_shape_prefix(copies, (count,))
    self.assertLen(copies['a'].sharding.device_set, count)
    np.testing.assert_array_equal(copies['a'][3], tree['a'])
    back = devices.unreplicate(copies)
    chex.assert_trees_all_equal(back, tree)
    self.assertIsInstance(back['a'], np.ndarray)

  def test_replicates_to_some_devices(self):
    copies = devices.replicate(jnp.ones(3), 2)
    chex.assert_shape(copies, (2, 3))
    self.assertEqual(copies.sharding.device_set, set(jax.local_devices()[:2]))

  def test_each_shard_holds_consecutive_rays(self):
    split = devices.shard({'x': np.arange(12).reshape(6, 2)}, 3)['x']
    np.testing.assert_array_equal(split[1], [[4, 5], [6, 7]])

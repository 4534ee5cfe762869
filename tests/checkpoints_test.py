import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from nerf_haiku import checkpoints, training


def _state(width=3, step=7):
  params = {
    'coarse': {'mlp/layer_0': {'w': jnp.arange(2.0 * width).reshape(2, width)}}
  }
  opt_state = optax.adam(1e-3).init(params)
  return jax.tree.map(
    np.asarray, training.TrainState(jnp.asarray(step), params, opt_state)
  )


class CheckpointsTest(chex.TestCase):
  def _folder(self):
    return pathlib.Path(self.create_tempdir().full_path) / 'checkpoints'

  def test_what_is_saved_is_restored(self):
    folder = self._folder()
    self.assertIsNone(checkpoints.latest_step(folder))
    checkpoints.save(folder, _state(), {'seed': 0, 'names': ['a', 'b']})
    self.assertEqual(checkpoints.latest_step(folder), 7)
    template = jax.tree.map(jnp.zeros_like, _state())
    back, about = checkpoints.restore(folder, template)
    self.assertEqual(about, {'seed': 0, 'names': ['a', 'b']})
    chex.assert_trees_all_equal(back, _state())
    chex.assert_trees_all_equal_structs(back, _state())

  def test_the_newest_is_restored(self):
    folder = self._folder()
    for step in (3, 12):
      checkpoints.save(folder, _state(step=step), {})
    state, _ = checkpoints.restore(folder, _state())
    self.assertEqual(int(state.step), 12)

  def test_a_step_is_not_written_twice(self):
    folder = self._folder()
    checkpoints.save(folder, _state(), {})
    with self.assertRaisesRegex(RuntimeError, 'checkpoint of step 7'):
      checkpoints.save(folder, _state(), {})

  def test_another_network_is_refused(self):
    folder = self._folder()
    checkpoints.save(folder, _state(), {})
    with self.assertRaisesRegex(ValueError, r'layer_0/w.*\[2, 3\].*\[2, 4\]'):
      checkpoints.restore(folder, _state(width=4))

  def test_nothing_to_restore(self):
    with self.assertRaisesRegex(FileNotFoundError, 'no checkpoint in'):
      checkpoints.restore(self._folder(), _state())

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from nerf_haiku import checkpoints, occupancy, training


def _state(width=3, step=7):
  params = {
    'coarse': {'mlp/layer_0': {'w': jnp.arange(2.0 * width).reshape(2, width)}}
  }
  opt_state = optax.adam(1e-3).init(params)
  zero = jnp.zeros((), jnp.int32)
  moments = training.Moments(*[jnp.zeros(3)] * 4, zero)
  state = training.TrainState(
    jnp.asarray(step), params, opt_state, moments, zero, zero
  )
  return jax.tree.map(np.asarray, state)


class CheckpointsTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    path = pathlib.Path(self.create_tempdir().full_path) / 'checkpoints'
    self._kept = checkpoints.Checkpoints(path)
    self._path = path

  def tearDown(self):
    self._kept.close()
    super().tearDown()

  def test_what_is_saved_is_restored(self):
    self.assertEqual(self._kept.steps(), [])
    self.assertFalse(self._path.exists())
    self._kept.save(_state(), {'seed': 0, 'names': ['a', 'b']})
    self.assertEqual(self._kept.steps(), [7])
    self._kept.close()
    template = jax.tree.map(jnp.zeros_like, _state())
    with checkpoints.Checkpoints(self._path) as again:
      back, about = again.restore(template)
    self.assertEqual(about, {'seed': 0, 'names': ['a', 'b']})
    chex.assert_trees_all_equal(back, _state())
    chex.assert_trees_all_equal_structs(back, _state())

  def test_what_the_renderer_remembers_is_read_in_its_place(self):
    grid = occupancy.Grid(np.arange(8, dtype=np.float32), np.arange(8) % 3 == 0)
    state = _state()._replace(memory=grid)
    self._kept.save(state, {})
    learnt, _ = self._kept.read(state.learnt())
    chex.assert_trees_all_equal(learnt, state.learnt())
    chex.assert_trees_all_equal_structs(learnt, state.learnt())
    with self.assertRaisesRegex(ValueError, 'memory/density'):
      self._kept.read(
        state._replace(
          memory=grid._replace(density=np.zeros(27, np.float32))
        ).learnt()
      )

  def test_the_last_three_and_the_best_are_kept(self):
    for step, psnr in ((1, 20.0), (2, 25.0), (3, 22.0), (4, None), (5, 21.0)):
      self._kept.save(_state(step=step), {}, validation_psnr=psnr)
    self.assertEqual(self._kept.steps(), [2, 3, 4, 5])
    self._kept.save(_state(step=6), {}, validation_psnr=26.0)
    self.assertEqual(self._kept.steps(), [4, 5, 6])
    state, _ = self._kept.restore(_state())
    self.assertEqual(int(state.step), 6)
    state, _ = self._kept.restore(_state(), step=4)
    self.assertEqual(int(state.step), 4)

  def test_the_best_is_known_to_the_next_process(self):
    for step in range(1, 6):
      with checkpoints.Checkpoints(self._path) as kept:
        kept.save(_state(step=step), {}, validation_psnr=30.0 - step)
    self.assertEqual(self._kept.steps(), [1, 3, 4, 5])

  def test_a_step_is_not_written_twice(self):
    self._kept.save(_state(), {})
    with self.assertRaisesRegex(RuntimeError, 'checkpoint of step 7'):
      self._kept.save(_state(), {})

  def test_cleared(self):
    self._kept.save(_state(step=3), {})
    self._kept.save(_state(step=7), {})
    self._kept.clear()
    self.assertEqual(self._kept.steps(), [])
    self._kept.save(_state(step=3), {'seed': 1})
    self.assertEqual(self._kept.restore(_state())[1], {'seed': 1})

  def test_weights_alone(self):
    """Of a run with any optimizer."""
    self._kept.save(_state()._replace(opt_state={'other': np.ones(4)}), {})
    learnt, kept = self._kept.read(_state().learnt())
    chex.assert_trees_all_equal(learnt, _state().learnt())
    self.assertEqual((kept.step, kept.skipped), (7, int(_state().skipped)))
    with self.assertRaisesRegex(ValueError, r'layer_0/w.*\[2, 3\].*\[2, 4\]'):
      self._kept.read(_state(width=4).learnt())

  def test_another_network_is_refused(self):
    self._kept.save(_state(), {})
    with self.assertRaisesRegex(ValueError, r'layer_0/w.*\[2, 3\].*\[2, 4\]'):
      self._kept.restore(_state(width=4))

  def test_nothing_to_restore(self):
    with self.assertRaisesRegex(FileNotFoundError, 'no checkpoint in'):
      self._kept.restore(_state())
    self._kept.save(_state(), {})
    with self.assertRaisesRegex(FileNotFoundError, 'no checkpoint of step 3'):
      self._kept.restore(_state(), step=3)
    with self.assertRaisesRegex(FileNotFoundError, 'of step 3 .*, but of 7'):
      self._kept.read(_state().learnt(), step=3)

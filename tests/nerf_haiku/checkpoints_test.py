import contextlib
import itertools
import pathlib
import resource
import shutil
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from nerf_haiku import checkpoints, errors, occupancy_grid, training

# Where orbax fails the tasks of other arrays fail too, which nobody awaits.
_ORBAX_TASKS = 'ignore::pytest.PytestUnraisableExceptionWarning'


def _state(width=3, step=7):
  params = {
    'coarse': {'mlp/layer_0': {'w': jnp.arange(2.0 * width).reshape(2, width)}}
  }
  opt_state = optax.adam(1e-3).init(params)
  zero = jnp.zeros((), jnp.int32)
  state = training.TrainState(
    step=jnp.asarray(step),
    params=params,
    opt_state=opt_state,
    color_stats=training.ColorStats(*[jnp.zeros(3)] * 4, mse=zero),
    skipped=zero,
    nonfinite=zero,
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

  def test_reads_the_renderer_state(self):
    grid = occupancy_grid.Grid(
      density=np.arange(8, dtype=np.float32).reshape(2, 2, 2),
      occupied=(np.arange(8) % 3 == 0).reshape(2, 2, 2),
    )
    state = _state()._replace(renderer_state=grid)
    self._kept.save(state, {})
    variables, _ = self._kept.read(state.variables())
    chex.assert_trees_all_equal(variables, state.variables())
    chex.assert_trees_all_equal_structs(variables, state.variables())
    larger = grid._replace(density=np.zeros((3, 3, 3), np.float32))
    with self.assertRaisesRegex(errors.UserError, 'renderer_state/density'):
      self._kept.read(state._replace(renderer_state=larger).variables())

  def test_reads_the_names_of_version_0_1(self):
    """Moments, memory and fault, and a flat grid."""
    grid = occupancy_grid.Grid(
      density=np.arange(8, dtype=np.float32).reshape(2, 2, 2),
      occupied=(np.arange(8) % 3 == 0).reshape(2, 2, 2),
    )
    means = [np.full(3, i, np.float32) for i in range(4)]
    state = _state()._replace(
      renderer_state=grid,
      color_stats=training.ColorStats(*means, mse=np.float32(9)),
      nonfinite=np.asarray(5, np.int32),
    )
    old = state._asdict()
    del old['renderer_state'], old['color_stats'], old['nonfinite']
    old['memory'] = {k: v.reshape(-1) for k, v in grid._asdict().items()}
    names = ('true', 'true_square', 'seen', 'seen_square')
    old['moments'] = dict(zip(names, means, strict=True)) | {
      'mse': np.float32(9)
    }
    old['fault'] = state.nonfinite
    with mock.patch.object(training.TrainState, '_asdict', return_value=old):
      self._kept.save(state, {'seed': 1})
    restored, metadata = self._kept.restore(state)
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal_structs(restored, state)
    self.assertEqual(metadata, {'seed': 1})
    variables, _ = self._kept.read(state.variables())
    chex.assert_trees_all_equal(variables, state.variables())

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
    variables, info = self._kept.read(_state().variables())
    chex.assert_trees_all_equal(variables, _state().variables())
    self.assertEqual((info.step, info.skipped), (7, int(_state().skipped)))
    with self.assertRaisesRegex(ValueError, r'layer_0/w.*\[2, 3\].*\[2, 4\]'):
      self._kept.read(_state(width=4).variables())

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
    with self.assertRaisesRegex(FileNotFoundError, 'of step 3 .*; there are 7'):
      self._kept.read(_state().variables(), step=3)


def _cut(path):
  path.write_bytes(path.read_bytes()[:-1])


def _flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


def _files(folder):
  """Contents of all files, by path."""
  return {x: x.read_bytes() for x in folder.rglob('*') if x.is_file()}


class DamageTest(chex.TestCase):
  """Whatever happens to the files of a state, the one before it is used."""

  def setUp(self):
    super().setUp()
    self._path = pathlib.Path(self.create_tempdir().full_path) / 'checkpoints'
    # Of a size that orbax puts into files without a checksum.
    self._states = {
      step: _state(width=2000, step=step)._replace(
        color_stats=training.ColorStats(
          *[np.full(3, step, np.float32)] * 4, mse=np.zeros((), np.int32)
        )
      )
      for step in (3, 7)
    }
    with checkpoints.Checkpoints(self._path) as kept:
      for step, state in self._states.items():
        kept.save(state, {'seed': step}, validation_psnr=20.0 + step)
    self._said = []
    self._kept = checkpoints.Checkpoints(self._path, self._said.append)
    self.addCleanup(self._kept.close)

  def _check_the_one_before_is_used(self):
    template = self._states[3]
    before = _files(self._path)
    variables, known = self._kept.read(template.variables())
    self.assertEqual(_files(self._path), before)  # A reader moves nothing.
    self.assertEqual((known.step, known.metadata), (3, {'seed': 3}))
    chex.assert_trees_all_equal(variables, template.variables())
    with self.assertRaisesRegex(checkpoints.DamagedError, '7 is damaged: '):
      self._kept.restore(template)
    self._kept.quarantine_damaged()
    state, about = self._kept.restore(template)
    chex.assert_trees_all_equal(state, template)
    self.assertEqual(about, {'seed': 3})
    first, second = self._said
    self.assertRegex(
      first, r'step 7 in .* is damaged .*\. That of step 3 is us'
    )
    self.assertRegex(second, 'step 7 is damaged .*moved to .*_damaged/7')
    self._said.clear()
    # What was damaged does not stand in the way.
    self._kept.save(self._states[7], {'seed': 7})
    chex.assert_trees_all_equal(
      self._kept.restore(template)[0], self._states[7]
    )
    self.assertEmpty(self._said)

  def test_any_file_flipped_cut_or_missing(self):
    whole = _files(self._path / '7')
    self.assertGreater(len(whole), 5)
    for path, damage in itertools.product(
      sorted(whole), (_flip, _cut, pathlib.Path.unlink)
    ):
      if path.name == 'digests.json' and damage is pathlib.Path.unlink:
        continue  # Then orbax's own checks are what is left.
      damage(path)
      with self.assertRaisesRegex(checkpoints.DamagedError, 'is damaged: '):
        self._kept.read(self._states[3].variables(), step=7)
      path.write_bytes(whole[path])

  def test_a_flipped_bit_of_an_array(self):
    largest = max((self._path / '7').rglob('*'), key=lambda x: x.stat().st_size)
    _flip(largest)
    self._check_the_one_before_is_used()

  def test_an_empty_folder(self):
    shutil.rmtree(self._path / '7')
    (self._path / '7').mkdir()
    self._check_the_one_before_is_used()

  def test_a_damaged_score_does_not_stop_the_run(self):
    _cut(self._path / '3' / 'metrics' / 'metrics')
    self._kept.quarantine_damaged()
    self.assertEqual(self._kept.steps(), [7])
    self.assertRegex(self._said[0], 'step 3 is damaged .metrics/metrics is not')
    self._kept.save(_state(width=2000, step=9), {}, validation_psnr=1.0)
    self.assertEqual(self._kept.steps(), [7, 9])

  @pytest.mark.filterwarnings(_ORBAX_TASKS)
  def test_one_without_digests_is_used_if_it_can_be_read(self):
    """Its process was killed before it wrote the digests."""
    (self._path / '7' / 'digests.json').unlink()
    state, _ = self._kept.restore(self._states[3])
    chex.assert_trees_all_equal(state, self._states[7])
    (self._path / '7' / 'state' / 'manifest.ocdbt').unlink()
    self._check_the_one_before_is_used()

  def test_none_is_left(self):
    for step in (3, 7):
      (self._path / str(step) / 'about' / 'metadata').unlink()
    before = _files(self._path.parent)
    for use in (
      self._kept.quarantine_damaged,
      lambda: self._kept.read(self._states[3].variables()),
    ):
      with self.assertRaisesRegex(
        checkpoints.DamagedError,
        r'are damaged .*about/metadata is missing.*Nothing was deleted',
      ):
        use()
    self.assertEqual(_files(self._path.parent), before)


@contextlib.contextmanager
def _no_room():
  """No file of this process may grow: as on a disk that is full."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class FullDiskTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self._path = pathlib.Path(self.create_tempdir().full_path) / 'checkpoints'
    self._kept = checkpoints.Checkpoints(self._path)
    self.addCleanup(self._kept.close)
    self._kept.save(_state(step=1), {'seed': 1})
    self._before = _files(self._path)

  def _check_the_next_is_kept(self):
    """And nothing of the one that failed."""
    self.assertEqual(_files(self._path), self._before)
    self.assertEqual([x.name for x in self._path.iterdir()], ['1'])
    self._kept.save(_state(step=2), {'seed': 2})
    self.assertEqual(self._kept.steps(), [1, 2])
    self.assertEqual(self._kept.restore(_state())[1], {'seed': 2})

  @pytest.mark.filterwarnings(_ORBAX_TASKS)
  def test_no_room(self):
    with (
      _no_room(),
      self.assertRaisesRegex(
        checkpoints.SaveError,
        r'step 2 could not be written to .*\(File too large\). The last one '
        'on disk: that of step 1',
      ),
    ):
      self._kept.save(_state(step=2), {})
    self._check_the_next_is_kept()

  def test_a_library_that_fails_half_way(self):
    """A disk that fills up, or is taken away, in the middle of a save."""

    def save(manager, step, **kwargs):
      half = self._path / f'{step}.orbax-checkpoint-tmp' / 'state'
      half.mkdir(parents=True)
      (half / 'data').write_bytes(b'half')
      raise ValueError(f'OUT_OF_RANGE: {half}: No space left on device [28]')

    with (
      mock.patch.object(ocp.CheckpointManager, 'save', save),
      self.assertRaisesRegex(
        checkpoints.SaveError, r'\(No space left on device\). The last'
      ),
    ):
      self._kept.save(_state(step=2), {})
    self._check_the_next_is_kept()

  def test_a_folder_that_cannot_be_made(self):
    """Stands for a read-only one: root may write there all the same."""
    file = self.create_tempfile().full_path
    kept = checkpoints.Checkpoints(pathlib.Path(file) / 'checkpoints')
    with self.assertRaisesRegex(
      checkpoints.SaveError, 'Not a directory.*The last one on disk: none'
    ):
      kept.save(_state(), {})

  def test_what_a_killed_save_has_left_is_cleared(self):
    for name in ('2.orbax-checkpoint-tmp', '7.orbax-checkpoint-tmp-17'):
      (self._path / name / 'state').mkdir(parents=True)
    with checkpoints.Checkpoints(self._path) as kept:
      self.assertEqual(kept.steps(), [1])
      kept.save(_state(step=2), {})
      self.assertEqual(kept.steps(), [1, 2])
    self.assertEqual(sorted(x.name for x in self._path.iterdir()), ['1', '2'])

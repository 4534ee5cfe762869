import pathlib
import resource

import chex
import imageio.v3 as iio
import numpy as np
from tensorboard.backend.event_processing import event_accumulator

from experiments.trainer import tensorboard


class SummariesTest(chex.TestCase):
  def _read(self, folder):
    accumulator = event_accumulator.EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator

  def test_tensorboard_reads_scalars_and_images(self):
    folder = pathlib.Path(self.create_tempdir().full_path) / 'board'
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with tensorboard.SummaryWriter(folder) as board:
      board.scalars(1, {'train/loss': 0.5})
      board.scalars(2, {'train/loss': np.float32(0.25)})
      board.images(2, {'validation/image': image})
    read = self._read(folder)
    self.assertEqual(
      [(x.step, x.value) for x in read.Scalars('train/loss')],
      [(1, 0.5), (2, 0.25)],
    )
    (shown,) = read.Images('validation/image')
    self.assertEqual((shown.step, shown.height, shown.width), (2, 5, 7))
    np.testing.assert_array_equal(iio.imread(shown.encoded_image_string), image)

  def test_a_resumed_run_is_shown_once(self):
    """What came after the checkpoint it goes on from is forgotten."""
    folder = pathlib.Path(self.create_tempdir().full_path)
    with tensorboard.SummaryWriter(folder) as board:
      for step in (10, 20, 30):
        board.scalars(step, {'loss': 1.0})
    with tensorboard.SummaryWriter(folder) as board:
      board.resume_from(11)
      for step in (20, 30):
        board.scalars(step, {'loss': 2.0})
    self.assertEqual(
      [(x.step, x.value) for x in self._read(folder).Scalars('loss')],
      [(10, 1.0), (20, 2.0), (30, 2.0)],
    )

  def test_hyperparameters_and_final_metrics(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    with tensorboard.SummaryWriter(folder) as board:
      board.hyperparameters(
        {'learning_rate': 0.5, 'model.skips': (4,), 'shape': '\udcff'},
        {'psnr': 26.5},
      )
    read = self._read(folder)
    tags = read.PluginTagToContent('hparams')
    self.assertIn('_hparams_/session_start_info', tags)
    self.assertIn(b'learning_rate', tags['_hparams_/session_start_info'])
    self.assertIn(b'model.skips', tags['_hparams_/session_start_info'])
    self.assertIn(b'\\udcff', tags['_hparams_/session_start_info'])
    (final,) = read.Scalars('final/psnr')
    self.assertEqual(final.value, 26.5)

  def test_a_full_disk_is_reported_once_and_leaves_no_half_record(self):
    """No file may grow by more than some bytes: as on a disk that fills up."""
    folder, said = pathlib.Path(self.create_tempdir().full_path), []
    board = tensorboard.SummaryWriter(folder, said.append)
    board.scalars(1, {'loss': 1.0})
    (path,) = folder.iterdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = path.stat().st_size + 20
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
      board.scalars(2, {'loss': 2.0})
      board.scalars(3, {'loss': 3.0})
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    board.scalars(4, {'loss': 4.0})
    self.assertEqual(
      said,
      [
        f'TensorBoard: {folder} cannot be written (File too large). '
        'Training continues.'
      ],
    )
    self.assertEqual(
      [(x.step, x.value) for x in self._read(folder).Scalars('loss')],
      [(1, 1.0), (4, 4.0)],
    )

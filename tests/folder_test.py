import pathlib

import chex
from absl.testing import parameterized

from experiments import folder, results
from experiments.configs import quickstart, saved


def _settings(seed=0, data_dir=None, init_from=None, **changes):
  config = quickstart.get_config()
  config.update(changes)
  return folder.describe(
    config, seed=seed, data_dir=data_dir, init_from=init_from
  )


class FolderTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self._path = pathlib.Path(self.create_tempdir().full_path) / 'run'

  def _begin(self, settings):
    folder.claim(self._path, settings)
    (self._path / folder.CHECKPOINTS / '5').mkdir(parents=True)
    results.write_json(
      self._path / folder.RESULTS, {'psnr': 20.0, 'steps': 1800}
    )

  @parameterized.parameters(
    {'num_steps': 9000}, {'i_print': 3}, {'i_img': 3}, {'i_weights': 7},
    {'microbatch': 5}, {'remat': True}, {'chunk': 100}, {'num_poses': 3},
    {'data_dir': '/moved'},
  )  # fmt: skip
  def test_how_long_how_often_and_where_may_change(self, **changes):
    self._begin(_settings())
    self.assertIsNone(folder.check(self._path, _settings(**changes)))

  @parameterized.parameters(
    ({'seed': 1}, 'seed is 0 there, 1 here'),
    ({'learning_rate': 1.0}, 'learning_rate is 0.01 there, 1.0 here'),
    ({'dtype': 'bfloat16'}, "dtype is 'float32' there, 'bfloat16' here"),
    ({'init_from': '/other'}, "init_from is None there, '/other' here"),
    (
      {'num_rand': 7, 'perturb': False},
      'num_rand is 512 there, 7 here; perturb is True there, False here',
    ),
  )  # fmt: skip
  def test_another_run_is_refused_with_the_difference(self, changes, message):
    self._begin(_settings())
    with self.assertRaisesRegex(ValueError, message):
      folder.check(self._path, _settings(**changes))

  def test_a_run_that_kept_nothing_may_be_another(self):
    folder.claim(self._path, _settings())
    self.assertIsNone(folder.check(self._path, _settings(seed=3)))

  def test_finished(self):
    self.assertIsNone(folder.finished(self._path, 1800))
    self._begin(_settings())
    for num_steps, there in ((1800, True), (900, True), (1801, False)):
      content = folder.finished(self._path, num_steps)
      self.assertEqual(content is not None, there)

  def test_a_config_loads_again(self):
    config = quickstart.get_config()
    config.model.skips = (1, 2)
    config.emb.periodic_fns = ('sin',)
    config.learning_rate = 0.25
    settings = folder.describe(config, seed=0, data_dir=None, init_from=None)
    folder.claim(self._path, settings)
    again = saved.get_config(str(self._path / folder.CONFIG))
    self.assertEqual(again.to_dict(), config.to_dict())

  @parameterized.parameters('{}', '[1]', 'no json', '{"config": [2]}')
  def test_a_file_that_is_no_config(self, text):
    path = self.create_tempfile(content=text).full_path
    with self.assertRaisesRegex(ValueError, 'is no config of a run'):
      saved.get_config(path)

import errno
import json
import pathlib
from typing import ClassVar
from unittest import mock

import chex
from absl.testing import parameterized

from experiments.configs import laptop_procedural, renamed_fields, saved
from experiments.outputs import json_files, run_dir
from experiments.processes import locks
from nerf_haiku import errors


def _settings(seed=0, data_dir=None, init_from=None, **changes):
  config = laptop_procedural.get_config()
  config.update_from_flattened_dict(changes)
  return run_dir.run_settings(
    config, seed=seed, data_dir=data_dir, init_from=init_from
  )


def _with_old_names(settings):
  """Settings as a run of an older version wrote them."""
  old_names = {new: old for old, new in renamed_fields.NEW_NAMES.items()}
  fields = {old_names.get(x, x): y for x, y in settings['config'].items()}
  return settings | {'config': fields}


class FolderTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self._path = pathlib.Path(self.create_tempdir().full_path) / 'run'

  def _begin(self, settings):
    with run_dir.prepare_run_dir(self._path, settings):
      pass
    (self._path / run_dir.CHECKPOINTS / '5').mkdir(parents=True)
    json_files.write_json(
      self._path / run_dir.RESULTS, {'psnr': 20.0, 'steps': 1800}
    )

  @parameterized.parameters(
    {'num_steps': 9000},
    {'i_print': 3},
    {'i_img': 3},
    {'i_weights': 7},
    {'microbatch': 5},
    {'remat': True},
    {'chunk': 100},
    {'num_poses': 3},
    {'occupancy.render_substeps': 3},
    {'data_dir': '/moved'},
    {'data_dir': '~no_such_user/moved'},
  )
  def test_how_long_how_often_and_where_may_change(self, **changes):
    self._begin(_settings())
    self.assertIsNone(run_dir.check_run_dir(self._path, _settings(**changes)))

  @parameterized.parameters(
    ({'seed': 1}, 'seed is 0 there, 1 here'),
    ({'learning_rate': 1.0}, 'learning_rate is 0.01 there, 1.0 here'),
    ({'dtype': 'bfloat16'}, "dtype is 'float32' there, 'bfloat16' here"),
    ({'init_from': '/other'}, "init_from is None there, '/other' here"),
    (
      {'num_rand': 7, 'perturb': False},
      'num_rand is 512 there, 7 here; perturb is True there, False here',
    ),
  )
  def test_another_run_is_refused_with_the_difference(self, changes, message):
    self._begin(_settings())
    with self.assertRaisesRegex(errors.UserError, message):
      run_dir.check_run_dir(self._path, _settings(**changes))

  def test_a_field_that_is_newer_than_the_run(self):
    old = _settings()
    self._begin(
      {
        **old,
        'config': {
          k: v for k, v in old['config'].items() if k != 'tiny.num_train'
        },
      }
    )
    self.assertIsNone(run_dir.check_run_dir(self._path, _settings()))
    changed = _settings()
    changed['config']['tiny.num_train'] = 7
    with self.assertRaisesRegex(
      errors.UserError, 'num_train is 100 there, 7 here'
    ):
      run_dir.check_run_dir(self._path, changed)

  def test_a_run_with_the_old_names_of_fields(self):
    old = _with_old_names(_settings())
    self._begin(old)
    self.assertIsNone(run_dir.check_run_dir(self._path, _settings()))
    changed = _settings()
    changed['config']['hash.max_resolution'] = 64
    with self.assertRaisesRegex(
      errors.UserError, r'\(hash.max_resolution is 0 there, 64 here\)'
    ):
      run_dir.check_run_dir(self._path, changed)
    config = saved.get_config(str(self._path / run_dir.CONFIG))
    self.assertEqual(config.to_dict(), laptop_procedural.get_config().to_dict())
    self.assertEqual(
      renamed_fields.rename_in_place(config), list(renamed_fields.NEW_NAMES)
    )

  def test_a_file_with_both_names_of_a_field(self):
    settings = _settings()
    settings['config']['hash.finest'] = 64
    self._begin(settings)
    message = 'hash.finest and hash.max_resolution are the old and the new name'
    with self.assertRaisesRegex(errors.UserError, message):
      run_dir.check_run_dir(self._path, _settings())
    with self.assertRaisesRegex(errors.UserError, message):
      saved.get_config(str(self._path / run_dir.CONFIG))

  def test_a_run_that_kept_nothing_may_be_another(self):
    with run_dir.prepare_run_dir(self._path, _settings()):
      pass
    self.assertIsNone(run_dir.check_run_dir(self._path, _settings(seed=3)))

  def test_two_at_once_are_refused(self):
    run_dir.check_not_locked(self._path)
    with run_dir.prepare_run_dir(self._path, _settings()):
      for use in (
        lambda: run_dir.check_not_locked(self._path),
        lambda: run_dir.prepare_run_dir(
          self._path, _settings(num_steps=3)
        ).__enter__(),
      ):
        with self.assertRaisesRegex(
          errors.UserError, 'another process trains in'
        ):
          use()
    run_dir.check_not_locked(self._path)
    there = json.loads((self._path / run_dir.CONFIG).read_text())
    self.assertEqual(there, _settings())

  @parameterized.parameters(run_dir.CHECKPOINTS, run_dir.VIEWS)
  def test_what_the_end_needs_is_tried_at_the_start(self, name):
    with run_dir.prepare_run_dir(self._path, _settings()):
      self.assertFalse((self._path / name).exists())
    (self._path / name).touch()
    with self.assertRaisesRegex(
      errors.UserError, rf'--model_dir: .*/{name} cannot be written \(File exis'
    ):
      run_dir.prepare_run_dir(self._path, _settings()).__enter__()

  def test_a_path_that_is_too_long_for_checkpoints(self):
    path = self._path
    while len(str(path)) < 3700:
      path /= 'x' * 200
    path /= 'x' * (3960 - len(str(path)))
    with self.assertRaisesRegex(errors.UserError, 'File name too long'):
      run_dir.prepare_run_dir(path, _settings()).__enter__()

  def test_a_file_system_without_locks(self):
    error = OSError(errno.ENOLCK, 'No locks available')
    with (
      mock.patch.object(locks.fcntl, 'flock', side_effect=error),
      run_dir.prepare_run_dir(self._path, _settings()),
    ):
      self.assertTrue((self._path / run_dir.CONFIG).exists())

  def test_finished(self):
    self.assertIsNone(run_dir.read_finished(self._path, 1800))
    self._begin(_settings())
    for num_steps, there in ((1800, True), (900, True), (1801, False)):
      content = run_dir.read_finished(self._path, num_steps)
      self.assertEqual(content is not None, there)

  def test_damaged_results_can_be_made_again(self):
    self._begin(_settings())
    (self._path / run_dir.RESULTS).write_text('{"psnr": 20.0, "st')
    with self.assertRaisesRegex(
      errors.UserError,
      'results.json was not written .*Delete it, and run the same comm',
    ):
      run_dir.read_finished(self._path, 1800)

  def test_a_config_loads_again(self):
    config = laptop_procedural.get_config()
    config.model.skips = (1, 2)
    config.emb.periodic_fns = ('sin',)
    config.learning_rate = 0.25
    settings = run_dir.run_settings(
      config, seed=0, data_dir=None, init_from=None
    )
    with run_dir.prepare_run_dir(self._path, settings):
      pass
    again = saved.get_config(str(self._path / run_dir.CONFIG))
    self.assertEqual(again.to_dict(), config.to_dict())

  @parameterized.parameters('{}', '[1]', 'no json', '{"config": [2]}')
  def test_a_file_that_is_no_config(self, text):
    path = self.create_tempfile(content=text).full_path
    with self.assertRaisesRegex(errors.UserError, 'was not written by a run'):
      saved.get_config(path)


class ClaimOutputTest(chex.TestCase):
  _IDENTITY: ClassVar = {'steps': 7, 'config': {'white_bkgd': True, 'chunk': 4}}

  def setUp(self):
    super().setUp()
    self._path = pathlib.Path(self.create_tempdir().full_path) / 'a' / 'video'
    run_dir.prepare_output_dir(self._path, self._IDENTITY)
    (self._path / 'rgb.mp4').write_bytes(b'film')

  def test_the_same_again(self):
    same = {'steps': 7, 'config': {'white_bkgd': True, 'chunk': 9}}
    run_dir.prepare_output_dir(self._path, same)
    self.assertEqual((self._path / 'rgb.mp4').read_bytes(), b'film')

  def test_pictures_of_a_config_with_the_old_names_of_fields(self):
    old = {'steps': 7, 'config': {'hash.finest': 64}}
    path = self._path.with_name('old')
    run_dir.prepare_output_dir(path, old)
    new = {'steps': 7, 'config': {'hash.max_resolution': 64}}
    self.assertIsNone(run_dir.prepare_output_dir(path, new))
    new['config']['hash.max_resolution'] = 32
    with self.assertRaisesRegex(errors.UserError, 'max_resolution is 64 there'):
      run_dir.prepare_output_dir(path, new)

  def test_pictures_older_than_a_field_had_its_default(self):
    new = {'steps': 7, 'config': {'white_bkgd': True, 'background': []}}
    self.assertIsNone(run_dir.prepare_output_dir(self._path, new))
    new['config']['background'] = [1, 1, 1]
    with self.assertRaisesRegex(
      errors.UserError, r'background is \[\] there, \[1, 1, 1\] here'
    ):
      run_dir.prepare_output_dir(self._path, new)

  @parameterized.parameters(
    ({'steps': 8}, 'steps is 7 there, 8 here'),
    ({'config': {'white_bkgd': False}}, 'white_bkgd is True there, False here'),
  )
  def test_something_else_is_left_alone_unless_asked(self, changes, message):
    other = self._IDENTITY | changes
    with self.assertRaisesRegex(
      errors.UserError, rf'--save_dir: .*\({message}\)'
    ):
      run_dir.prepare_output_dir(self._path, other)
    self.assertTrue((self._path / 'rgb.mp4').exists())
    run_dir.prepare_output_dir(self._path, other, replace=True)
    self.assertEqual([x.name for x in self._path.iterdir()], [run_dir.IDENTITY])
    self.assertIsNone(run_dir.prepare_output_dir(self._path, other))

  def test_a_kill_while_it_is_replaced_does_not_lock_it(self):
    other = self._IDENTITY | {'steps': 8}

    def die(path, **_):
      if path.exists():
        (path / run_dir.IDENTITY).unlink()
        raise SystemExit

    killed = mock.patch.object(run_dir.shutil, 'rmtree', side_effect=die)
    with killed, self.assertRaises(SystemExit):
      run_dir.prepare_output_dir(self._path, other, replace=True)
    run_dir.prepare_output_dir(self._path, other, replace=True)
    self.assertEqual([x.name for x in self._path.iterdir()], [run_dir.IDENTITY])

  def test_files_of_others_are_never_touched(self):
    (self._path / run_dir.IDENTITY).unlink()
    for replace in (False, True):
      with self.assertRaisesRegex(
        errors.UserError, 'holds files but no render.js'
      ):
        run_dir.prepare_output_dir(self._path, self._IDENTITY, replace=replace)
    self.assertTrue((self._path / 'rgb.mp4').exists())
    (self._path / run_dir.IDENTITY).write_text('[')
    with self.assertRaisesRegex(
      errors.UserError, '--save_dir: .*render.json was not'
    ):
      run_dir.prepare_output_dir(self._path, self._IDENTITY, replace=True)

  def test_where_nothing_can_be_written(self):
    with self.assertRaisesRegex(
      errors.UserError, '--save_dir: .* cannot be writ'
    ):
      run_dir.prepare_output_dir(self._path / 'rgb.mp4' / 'x', self._IDENTITY)

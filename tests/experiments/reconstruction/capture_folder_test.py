import hashlib
import pathlib
from unittest import mock

import chex
from absl.testing import parameterized

from experiments.outputs import json_files
from experiments.reconstruction import capture_folder
from nerf_haiku import errors

_IDENTITY = {'settings': {'max_size': 1600}, 'photos_sha256': 'abc'}
_REPORT = _IDENTITY | {
  'registered': ['a.jpg', 'b/c.jpg'],
  'not_registered': ['d.jpg'],
  'cameras': [],
}


def _write_results(work):
  for name in ('sparse/0/images.bin', 'images/a.jpg', 'images/b/c.jpg'):
    (work / name).parent.mkdir(parents=True, exist_ok=True)
    (work / name).write_bytes(name.encode())
  json_files.write_json(work / capture_folder.REPORT, _REPORT)


class CaptureFolderTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.out = self.root / 'new' / 'out'

  def _files(self):
    return sorted(
      x.relative_to(self.out).as_posix()
      for x in self.out.rglob('*')
      if x.is_file()
    )

  def _finish(self):
    with capture_folder.workspace(self.out) as work:
      _write_results(work)
      (work / 'database.db').write_bytes(b'')
      capture_folder.finish(self.out)

  def test_results_and_nothing_else(self):
    self.assertIsNone(capture_folder.read_finished(self.out, _IDENTITY))
    self._finish()
    self.assertEqual(
      self._files(),
      ['images/a.jpg', 'images/b/c.jpg', 'photos.json', 'sparse/0/images.bin'],
    )
    report = capture_folder.read_finished(self.out, _IDENTITY)
    self.assertEqual(report, _REPORT)

  def test_a_failure_leaves_nothing(self):
    with (
      self.assertRaises(KeyboardInterrupt),
      capture_folder.workspace(self.out) as work,
    ):
      (work / 'images').mkdir()
      raise KeyboardInterrupt
    self.assertFalse(self.out.exists())

  def test_a_failure_leaves_a_folder_that_was_there(self):
    self.out.mkdir(parents=True)
    (self.out / '.keep').write_bytes(b'')
    with self.assertRaises(OSError), capture_folder.workspace(self.out) as work:
      (work / 'images').mkdir()
      raise OSError
    self.assertEqual(self._files(), ['.keep'])

  def test_after_a_kill_while_working(self):
    # Without a report, whatever else is there does not count.
    work = self.out / capture_folder.WORK
    _write_results(work)
    (work / capture_folder.REPORT).unlink()
    capture_folder.finish(self.out)
    self.assertIsNone(capture_folder.read_finished(self.out, _IDENTITY))
    with capture_folder.workspace(self.out) as work:
      self.assertEqual([x.name for x in work.iterdir()], ['lock'])

  @parameterized.parameters(0, 1, 2)
  def test_after_a_kill_while_moving(self, moves):
    _write_results(self.out / capture_folder.WORK)
    rename, count = pathlib.Path.rename, iter(range(10))

    def rename_some(path, target):
      if next(count) == moves:
        raise KeyboardInterrupt
      return rename(path, target)

    with (
      mock.patch.object(pathlib.Path, 'rename', rename_some),
      self.assertRaises(KeyboardInterrupt),
    ):
      capture_folder.finish(self.out)
    self.assertIsNone(capture_folder.read_finished(self.out, _IDENTITY))
    capture_folder.finish(self.out)
    self.assertEqual(capture_folder.read_finished(self.out, _IDENTITY), _REPORT)
    self.assertLen(self._files(), 4)

  @parameterized.parameters('notes.txt', 'images', 'sparse')
  def test_what_others_wrote_is_refused_and_stays(self, name):
    (self.out / name).mkdir(parents=True)
    (self.out / name / 'x').write_bytes(b'mine')
    with (
      self.assertRaisesRegex(errors.UserError, f'--out: .*{name}.* did not'),
      capture_folder.workspace(self.out),
    ):
      pass
    self.assertEqual(self._files(), [f'{name}/x'])

  def test_two_processes(self):
    with (
      capture_folder.workspace(self.out) as work,
      self.assertRaisesRegex(errors.UserError, '--out: another process'),
    ):
      (work / 'images').mkdir()
      with capture_folder.workspace(self.out):
        pass
    # The second one has not touched what the first one works on.

  @parameterized.named_parameters(
    ('photos', {'photos_sha256': 'abd'}, 'made of other photographs'),
    ('settings', {'settings': {'max_size': 800}}, 'made with --max_size=1600'),
  )
  def test_a_folder_of_something_else(self, changes, message):
    self._finish()
    with self.assertRaisesRegex(
      errors.UserError, f'--out: .*{message}.*delete'
    ):
      capture_folder.read_finished(self.out, _IDENTITY | changes)

  @parameterized.parameters('images/b/c.jpg', 'sparse/0/images.bin')
  def test_a_folder_that_is_not_whole(self, name):
    self._finish()
    (self.out / name).unlink()
    with self.assertRaisesRegex(errors.UserError, f'{name} is missing'):
      capture_folder.read_finished(self.out, _IDENTITY)

  def test_a_report_that_is_damaged(self):
    self.out.mkdir(parents=True)
    (self.out / capture_folder.REPORT).write_text('{')
    with self.assertRaisesRegex(errors.UserError, '--out: .*photos.json'):
      capture_folder.read_finished(self.out, _IDENTITY)

  def test_places(self):
    photos = self.root / 'photos'
    with self.assertRaisesRegex(errors.UserError, '--photos: there is no'):
      capture_folder.check_places(photos, self.out)
    (photos / 'raw').mkdir(parents=True)
    capture_folder.check_places(photos, self.out)
    capture_folder.check_places(photos, photos / 'out')
    (self.root / 'link').symlink_to(photos)
    for out in (photos, self.root, self.root / 'link'):
      with self.assertRaisesRegex(
        errors.UserError, '--out: .* holds the photo'
      ):
        capture_folder.check_places(photos / 'raw', out)
    (self.root / 'file').write_bytes(b'')
    with self.assertRaisesRegex(errors.UserError, '--out: .* is a file'):
      capture_folder.check_places(photos, self.root / 'file')

  def test_digest(self):
    paths = [self.root / 'a', self.root / 'b']
    for path in paths:
      path.write_bytes(path.name.encode())
    expected = hashlib.sha256()
    for name in (b'a', b'b'):
      expected.update(name + b'\0' + hashlib.sha256(name).digest())
    actual = capture_folder.digest(paths, self.root)
    self.assertEqual(actual, expected.hexdigest())

"""Damaged scenes are loaded correctly, or refused with a clear message.

For a longer run, give this file to pytest with `--hypothesis-profile=long`.
"""

import collections
import contextlib
import faulthandler
import functools
import hashlib
import math
import os
import pathlib
import resource
import shutil
import sys
import tempfile
import traceback
import unittest

import chex
import hypothesis
from absl.testing import absltest, parameterized
from hypothesis import strategies as st
from PIL import Image

import nerf_haiku
from nerf_haiku import errors
from tests.support import bad_scenes, scene_faults

_VALUES = (
  0,
  1,
  -1,
  3,
  10**9,
  10**30,
  0.5,
  1e-30,
  1e30,
  1e308,
  math.nan,
  math.inf,
  True,
  None,
  '3',
  '',
  (),
  [[0, 0, 0], [1, 1, 1]],
  [[0, 0, 0], [math.nan, 1, 1]],
  [[1, 1, 1], [0, 0, 0]],
  {},
  b'1',
)
_TEXTS = (
  '',
  '.',
  '..',
  '/',
  '~',
  '~nobody',
  'a\0b',
  '\ud800',
  'x' * 5000,
  '*',
  'valid',
  'toy.npz',
  '../valid',
  '/dev/zero',
  '/dev/null',
)
_SECONDS = 60  # A case that takes longer hangs.
_MEMORY = 2 << 30  # Bytes; no case needs as much.
_NOBODY = 65534
_LIBRARY = str(pathlib.Path(nerf_haiku.__path__[0]))


def _state(root):
  """Returns the names, modes, times, links and contents of a folder."""
  state = {}
  for path in sorted([root, *root.rglob('*')]):
    status = path.lstat()
    content = None
    if path.is_symlink():
      content = os.readlink(path)
    elif path.is_file() and status.st_size < 1 << 20:
      content = hashlib.sha256(path.read_bytes()).hexdigest()
    state[path] = status.st_mode, status.st_size, status.st_mtime_ns, content
  return state


@contextlib.contextmanager
def _guarded():
  """Ends the process if a case hangs; limits its memory."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
  limits = resource.getrlimit(resource.RLIMIT_AS)
  faulthandler.dump_traceback_later(_SECONDS, exit=True)
  resource.setrlimit(
    resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, limits[1])
  )
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_AS, limits)
    faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def _as_a_user():
  """Makes permissions effective: root becomes nobody meanwhile."""
  if os.geteuid():
    yield
    return
  os.seteuid(_NOBODY)
  try:
    yield
  finally:
    os.seteuid(0)


def check_refusal(test, error, names):
  """Checks that an error is raised by us and names the faulty file."""
  ours = type(error) in (errors.DataError, errors.UserError)
  where = traceback.extract_tb(error.__traceback__)[-1].filename
  text = ''.join(traceback.format_exception(error))
  test.assertTrue(ours and where.startswith(_LIBRARY), text)
  test.assertNotIsInstance(error.__cause__, MemoryError, text)
  test.assertTrue(any(name in str(error) for name in names), text)
  test.assertLess(len(str(error)), 2000, text)


def for_all(strategy, check):
  """Calls `check` with as many cases as the profile sets."""

  @hypothesis.given(strategy)
  def run(case):
    check(case)

  run()


@unittest.skipUnless(sys.platform == 'linux', 'limits and names of Linux')
class ScenesTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.folder.chmod(0o755)

  def prepare(self, layout):
    """Writes the valid scene that cases are copies of."""
    layout.write(bad_scenes.make_scene(), self.folder / 'valid')
    views = layout.read(self.folder / 'valid')
    scene = layout.load(self.folder / 'valid')
    self.assertIsNone(bad_scenes.compare(layout, scene, views))
    return views

  @contextlib.contextmanager
  def copied(self):
    """Copies the valid scene, with another folder beside it."""
    case = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
    case.chmod(0o755)
    shutil.copytree(self.folder / 'valid', case / 'data')
    outside = case / scene_faults.OUTSIDE
    outside.mkdir()
    Image.new('RGB', (8, 6), 'red').save(outside / 'secret.png')
    try:
      yield case / 'data'
    finally:
      for path in [case, *case.rglob('*')]:
        if path.is_dir() and not path.is_symlink():
          path.chmod(0o755)
      shutil.rmtree(case)

  def load(self, layout, root, names, **settings):
    """Loads a scene, changing no file; returns None if it is refused."""
    before = _state(root.parent)
    try:
      with _guarded(), _as_a_user():
        return layout.load(root, **settings)
    except Exception as error:
      check_refusal(self, error, names)
      return None
    finally:
      self.assertEqual(before, _state(root.parent))

  @parameterized.parameters(*bad_scenes.LAYOUTS)
  def test_damaged_files_are_loaded_correctly_or_refused(self, name):
    layout = bad_scenes.LAYOUTS[name]
    views = self.prepare(layout)
    counts = collections.Counter()

    def check(plant, data):
      with self.copied() as root:
        expectation = plant(data.draw, root)
        scene = self.load(layout, root, (str(root), 'shape='))
        counts['refused' if scene is None else 'loaded'] += 1
        if scene is None:
          self.assertNotEqual(expectation, scene_faults.LOADS)
          return
        truth = (
          layout.read(root) if expectation == scene_faults.OTHER else views
        )
        self.assertIsNone(bad_scenes.compare(layout, scene, truth))

    for plant in scene_faults.applicable_to(self.folder / 'valid'):
      with self.subTest(plant.__name__):
        for_all(st.data(), functools.partial(check, plant))
    print(f'{name}: {dict(counts)}')

  @parameterized.parameters(*bad_scenes.LAYOUTS)
  def test_unusual_settings_are_handled_or_refused(self, name):
    layout = bad_scenes.LAYOUTS[name]
    views = self.prepare(layout)
    root = self.folder / 'valid'
    counts = collections.Counter()
    names = sorted({*layout.settings, 'near', 'far', 'shape', 'data_dir'})
    # Bools that are not checked.
    names = [x for x in names if x not in ('spherify', 'contracted')]

    def check(field, value):
      names = [field, str(root)]
      if field == 'data_dir':
        names.append(os.path.expanduser(value)[:100] or '.')
      scene = self.load(layout, root, names, **{field: value})
      counts['refused' if scene is None else 'loaded'] += 1
      if scene is not None and field != 'down_factor':
        self.assertIsNone(bad_scenes.compare(layout, scene, views))

    for field in names:
      values = _TEXTS if field in ('shape', 'data_dir') else _VALUES
      with self.subTest(field):
        for_all(st.sampled_from(values), functools.partial(check, field))
    print(f'settings of {name}: {dict(counts)}')


if __name__ == '__main__':
  absltest.main()

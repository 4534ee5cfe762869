"""Scenes that something happened to: loaded as they are, or refused in words.

A longer run: `pytest tests/bad_input_test.py --hypothesis-profile=long`.
"""

import contextlib
import faulthandler
import hashlib
import os
import pathlib
import resource
import shutil
import tempfile
import traceback

import chex
import hypothesis
from absl.testing import absltest, parameterized
from hypothesis import strategies as st
from PIL import Image

import nerf_haiku
from nerf_haiku.datasets import base
from tests import bad_scenes, mutations

_SECONDS = 60  # That no case takes: it hangs.
_MEMORY = 2 << 30  # Bytes that no case needs.
_NOBODY = 65534
_LIBRARY = str(pathlib.Path(nerf_haiku.__path__[0]))


def _state(root):
  """All that a folder holds: names, modes, times, links and contents."""
  state = {}
  for path in sorted([root, *root.rglob('*')]):
    found = path.lstat()
    content = None
    if path.is_symlink():
      content = os.readlink(path)
    elif path.is_file() and found.st_size < 1 << 20:
      content = hashlib.sha256(path.read_bytes()).hexdigest()
    state[path] = found.st_mode, found.st_size, found.st_mtime_ns, content
  return state


@contextlib.contextmanager
def _guarded():
  """Ends the process where a case hangs; lets none take much memory."""
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
  """Permissions bind: root, whom they do not, becomes nobody meanwhile."""
  if os.geteuid():
    yield
    return
  os.seteuid(_NOBODY)
  try:
    yield
  finally:
    os.seteuid(0)


def check_refusal(test, error, names):
  """An error must be ours, of one line, and say where the fault is."""
  ours = type(error) in (base.DataError, ValueError)
  where = traceback.extract_tb(error.__traceback__)[-1].filename
  text = ''.join(traceback.format_exception(error))
  test.assertTrue(ours and where.startswith(_LIBRARY), text)
  test.assertNotIsInstance(error.__cause__, MemoryError, text)
  test.assertTrue(any(name in str(error) for name in names), text)
  test.assertLess(len(str(error)), 2000, text)


class ScenesTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.folder.chmod(0o755)

  def prepare(self, layout):
    """Writes the scene that cases are copies of."""
    layout.write(bad_scenes.make_scene(), self.folder / 'valid')
    views = layout.read(self.folder / 'valid')
    scene = layout.load(self.folder / 'valid')
    self.assertIsNone(bad_scenes.compare(layout, scene, views))
    return views

  @contextlib.contextmanager
  def copied(self):
    """A copy of the valid scene, and a folder beside it."""
    case = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
    case.chmod(0o755)
    shutil.copytree(self.folder / 'valid', case / 'data')
    outside = case / mutations.OUTSIDE
    outside.mkdir()
    Image.new('RGB', (8, 6), 'red').save(outside / 'secret.png')
    try:
      yield case / 'data'
    finally:
      for path in [case, *case.rglob('*')]:
        if path.is_dir() and not path.is_symlink():
          path.chmod(0o755)
      shutil.rmtree(case)

  @parameterized.parameters(*bad_scenes.LAYOUTS)
  def test_mutated(self, name):
    layout = bad_scenes.LAYOUTS[name]
    views = self.prepare(layout)

    @hypothesis.given(st.data())
    def check(data):
      mutate = data.draw(st.sampled_from(mutations.ALL))
      hypothesis.note(mutate.__name__)
      with self.copied() as root:
        reread = mutate(data.draw, root)
        before = _state(root.parent)
        scene = None
        with _guarded(), _as_a_user():
          try:
            scene = layout.load(root)
          except Exception as error:
            check_refusal(self, error, (str(root), 'shape='))
        self.assertEqual(before, _state(root.parent))
        if scene is None:
          hypothesis.event('refused')
          return
        hypothesis.event('loaded')
        truth = layout.read(root) if reread else views
        self.assertIsNone(bad_scenes.compare(layout, scene, truth))

    check()


if __name__ == '__main__':
  absltest.main()

import contextlib
import io
import json
import pathlib
import shutil
from unittest import mock

import chex
import numpy as np
from absl.testing import parameterized
from PIL import Image

from experiments.reconstruction import child, pipeline, stages
from nerf_haiku import errors
from nerf_haiku.datasets import colmap_model
from tests.support import shared

_SETTINGS = pipeline.Settings(
  frames=100, matching='auto', max_size=400, num_features=1000
)
_RESULT = {
  'reprojection_error': 0.5,
  'num_points': 100,
  'cameras': [{'focal_length': 366.4}],
  'model_sizes': [8],
}


def _fit_similarity(points, target):
  """Moves points [N, 3] to targets by a similarity (Umeyama, 1991)."""
  a, b = points - points.mean(0), target - target.mean(0)
  u, s, vt = np.linalg.svd(b.T @ a)
  signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
  rotation = (u * signs) @ vt
  scale = np.sum(s * signs) / np.sum(a**2)
  return scale * a @ rotation.T + target.mean(0)


class FoxTest(chex.TestCase):
  """Structure from motion itself, on a few photographs of fox."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls._fox = shared.folder('data/captures/fox')
    cls._names = sorted(x.name for x in (cls._fox / 'images').iterdir())

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.photos = self.root / 'my photos'
    self.photos.mkdir()

  def _copy(self, names, suffix=''):
    for name in names:
      shutil.copy(self._fox / 'images' / name, self.photos / (name + suffix))

  def test_cameras_are_those_of_the_capture(self):
    names = self._names[:48:4]
    self._copy(names)
    # Another size, and unrelated: a camera of its own, not registered.
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(noise).save(self.photos / 'noise.png')
    (self.photos / 'notes.txt').write_text('Taken on Sunday.')
    out = self.root / 'out'
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
      line = pipeline.reconstruct(
        self.photos, out, _SETTINGS, mapping_threads=1
      )
    self.assertRegex(
      line,
      r'^Registered 12 of 13 photographs, mean reprojection error 0\.\d\d '
      r'pixels, focal length 3\d\d pixels\. Next: .*capture.py.*/out .*/out$',
    )
    self.assertIn('1 of 14 files are not used: notes.txt', stderr.getvalue())
    self.assertIn('were not registered: noise.png', stderr.getvalue())

    model = colmap_model.read(out)
    self.assertEqual(model.names, tuple(names))
    for name in names:
      self.assertEqual(
        (out / 'images' / name).read_bytes(),
        (self._fox / 'images' / name).read_bytes(),
      )
    content = json.loads((self._fox / 'transforms.json').read_text())
    poses = {
      pathlib.Path(x['file_path']).name: np.array(x['transform_matrix'])
      for x in content['frames']
    }
    expected = np.array([poses[name][:3, 3] for name in names])
    spread = np.sqrt(np.sum(np.var(expected, axis=0)))
    actual = _fit_similarity(model.camera_to_world[:, :, 3], expected)
    distances = np.linalg.norm(actual - expected, axis=1) / spread
    self.assertLess(np.median(distances), 0.01)
    self.assertLess(np.max(distances), 0.02)
    np.testing.assert_allclose(
      model.intrinsics[0, 0] / 288, content['fl_x'] / content['w'], rtol=0.02
    )
    # The views turn: the principal point is found, to a percent of a side.
    center = [content['cx'] / content['w'], content['cy'] / content['h']]
    np.testing.assert_allclose(
      model.intrinsics[0, 2:] / model.sizes[0, ::-1], center, atol=0.01
    )
    report = json.loads((out / 'photos.json').read_text())
    self.assertEqual(report['cameras'][0]['principal_point'], 'adjusted')

  def test_the_number_of_threads_does_not_change_a_byte(self):
    self._copy(self._names[:40:8], ' and spaces.jpg')
    contents = []
    for threads in (1, 2):
      out = self.root / f'out{threads}'
      with (
        mock.patch.object(pipeline, '_cores', return_value=threads),
        mock.patch.object(pipeline, '_feature_threads', return_value=threads),
      ):
        pipeline.reconstruct(self.photos, out, _SETTINGS, mapping_threads=1)
      contents.append(
        {
          x.relative_to(out): x.read_bytes()
          for x in sorted(out.rglob('*'))
          if x.is_file()
        }
      )
    self.assertEqual(*contents)
    self.assertIn(pathlib.Path('sparse/0/images.bin'), contents[0])


class PipelineTest(chex.TestCase):
  """All but structure from motion."""

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.photos, self.out = self.root / 'photos', self.root / 'out'
    self.photos.mkdir()

  def _write(self, count, suffix='.png'):
    for i in range(count):
      image = Image.new('RGB', (32, 24), (i, 0, 0))
      image.save(self.photos / f'{i:03}{suffix}')

  def _reconstruct(self, num_registered=None, settings=_SETTINGS, error=None):
    """Runs the pipeline with a result that is made up."""

    def run(given, log, shown):
      del log, shown
      self.given = given
      if error is not None:
        raise error
      names = [x for group in given['groups'] for x in group['names']]
      pathlib.Path(given['output'], 'images.bin').write_bytes(b'')
      return _RESULT | {'registered': names[:num_registered]}

    with mock.patch.object(child, 'run', run):
      return pipeline.reconstruct(
        self.photos, self.out, settings, mapping_threads=1
      )

  @parameterized.parameters((8, 4), (7, 4), (3, 3))
  def test_half_of_the_photographs_suffice(self, count, registered):
    self._write(count)
    line = self._reconstruct(registered)
    self.assertStartsWith(
      line,
      f'Registered {registered} of {count} photographs, mean reprojection '
      'error 0.50 pixels, focal length 366 pixels. Next: python ',
    )

  @parameterized.parameters((8, 3), (7, 3), (3, 2), (8, 0))
  def test_fewer_are_a_failure(self, count, registered):
    self._write(count)
    with self.assertRaisesRegex(
      errors.UserError,
      f'{registered} of {count} photographs were registered.*more overlap.*'
      'more light.*fewer reflections',
    ):
      self._reconstruct(registered)
    self.assertFalse(self.out.exists())

  @parameterized.parameters(0, 1, 2)
  def test_too_few_photographs(self, count):
    self._write(count)
    (self.photos / 'notes.txt').write_bytes(b'')
    with self.assertRaisesRegex(
      errors.UserError, f'has {count} photographs that can be used: at least 3'
    ):
      self._reconstruct()

  def test_a_finished_folder_is_not_done_again(self):
    self._write(3)
    line = self._reconstruct()
    self.assertEqual(
      self._reconstruct(error=AssertionError('done again')), line
    )
    # Frames do not matter without a video.
    settings = _SETTINGS._replace(frames=50)
    self.assertEqual(self._reconstruct(settings=settings), line)
    with self.assertRaisesRegex(errors.UserError, 'made with --max_size=400'):
      self._reconstruct(settings=_SETTINGS._replace(max_size=500))
    self._write(4)
    with self.assertRaisesRegex(errors.UserError, 'made of other photographs'):
      self._reconstruct()

  def test_interrupted(self):
    self._write(3)
    with self.assertRaises(KeyboardInterrupt):
      self._reconstruct(error=KeyboardInterrupt())
    self.assertFalse(self.out.exists())
    self.assertStartsWith(self._reconstruct(), 'Registered 3 of 3')

  def test_all_pairs_of_a_hundred_photographs(self):
    for count, matching, expected in (
      (100, 'auto', True),
      (101, 'auto', False),
      (101, 'exhaustive', True),
      (100, 'sequential', False),
    ):
      self.out = self.root / f'{count}_{matching}'
      self._write(count, '.bmp')
      self._reconstruct(settings=_SETTINGS._replace(matching=matching))
      self.assertEqual(self.given['exhaustive'], expected)

  def test_a_failure_of_matching_in_sequence_says_so(self):
    self._write(3)
    with self.assertRaisesRegex(errors.UserError, '--matching=exhaustive'):
      self._reconstruct(0, settings=_SETTINGS._replace(matching='sequential'))

  def test_names_and_cameras(self):
    self._write(3, '.webp')
    # A name that another copy has while it is staged.
    Image.new('RGB', (24, 32)).save(self.photos / '001.png')
    Image.new('RGB', (32, 24)).save(self.photos / '000002.png')
    self._reconstruct()
    report = json.loads((self.out / 'photos.json').read_text())
    names = ['000.png', '000002.png', '001.png', '001.webp.png', '002.png']
    self.assertEqual(report['registered'], names)
    self.assertEqual(
      report['renamed'],
      {
        '000.webp': '000.png',
        '001.webp': '001.webp.png',
        '002.webp': '002.png',
      },
    )
    self.assertEqual(
      sorted(x.name for x in (self.out / 'images').iterdir()), names
    )
    with Image.open(self.out / 'images' / '001.png') as image:
      self.assertEqual(image.size, (24, 32))
    groups = [len(x['names']) for x in self.given['groups']]
    self.assertEqual(groups, [4, 1])

  def test_memory_bounds_the_threads(self):
    with (
      mock.patch.object(pipeline, '_cores', return_value=64),
      mock.patch.object(pipeline.memory, 'available', return_value=int(8e9)),
    ):
      few = pipeline._feature_threads(1600)
      self.assertBetween(few, 2, 4)
      self.assertEqual(pipeline._feature_threads(8192), 1)
      self.assertEqual(pipeline._feature_threads(400), 8)


class StagesTest(chex.TestCase):
  def test_a_line_for_each_stage(self):
    output = io.StringIO()
    with contextlib.redirect_stdout(output), stages.Stages() as shown:
      shown.start('matching', 10)
      shown.show(4)
      shown.show(10)
      shown.finish('pairs')
      shown.start('mapping', 3)
    self.assertEqual(output.getvalue(), 'matching   10 pairs, 0 s\n')

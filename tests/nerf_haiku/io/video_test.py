import os
import pathlib
import subprocess
import sys
import weakref
from unittest import mock

import imageio_ffmpeg
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from nerf_haiku.io import video


def _frames(height, width, number=5):
  """Smooth images that change in time; no two channels are alike."""
  t, y, x = np.meshgrid(
    *(np.linspace(0, 1, n) for n in (number, height, width)), indexing='ij'
  )
  channels = 40 + 150 * x, 200 - 100 * y, 20 + 180 * t
  return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _read_mp4(path, height, width):
  """The frames, and what ffmpeg says of the file."""
  done = subprocess.run(
    [
      imageio_ffmpeg.get_ffmpeg_exe(),
      '-i',
      str(path),
      '-f',
      'rawvideo',
      '-pix_fmt',
      'rgb24',
      '-fps_mode',
      'passthrough',
      '-',
    ],
    stdin=subprocess.DEVNULL,
    capture_output=True,
    check=True,
  )
  frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
  return frames.astype(float), done.stderr.decode()


def _read_gif(path):
  """The frames, and the milliseconds that each is shown."""
  frames, durations = [], []
  with Image.open(path) as image:
    for i in range(image.n_frames):
      image.seek(i)
      frames.append(np.asarray(image.convert('RGB'), float))
      durations.append(image.info['duration'])
  return np.stack(frames), durations


class _VideoTest(parameterized.TestCase):
  """A test with an older video `old` in a folder of its own."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.scripts = pathlib.Path(self.create_tempdir().full_path)
    self.assertTrue(video.has_encoder())
    for ending in ('mp4', 'gif'):
      (self.folder / f'old.{ending}').write_text('old')

  def set_encoder(self, script=None):
    """Takes a shell script for the encoder, or a file that is missing."""
    path = self.scripts / 'encoder'
    if script is not None:
      path.write_text(f'#!/bin/sh\nfor output; do :; done\n{script}\n')
      path.chmod(0o755)
    changes = {'IMAGEIO_FFMPEG_EXE': str(path)}
    self.enter_context(mock.patch.dict(os.environ, changes))

  def forget_encoder(self):
    video.has_encoder.cache_clear()
    self.addCleanup(video.has_encoder.cache_clear)

  def assert_nothing_new(self):
    there = {path.name: path.read_text() for path in self.folder.iterdir()}
    self.assertEqual(there, {'old.mp4': 'old', 'old.gif': 'old'})


class Mp4Test(_VideoTest):
  @parameterized.parameters(
    (60, 100, 60, 100, 10), (33, 17, 34, 18, 24), (1, 1, 2, 2, 30)
  )
  def test_written_video_is_read_back(
    self, height, width, even_height, even_width, fps
  ):
    frames = _frames(height, width)
    path = video.write(self.folder / 'old', iter(frames), fps=fps)
    self.assertEqual(path, self.folder / 'old.mp4')
    self.assertEqual(
      video.encoded_size(height, width), (even_height, even_width)
    )
    read, about = _read_mp4(path, even_height, even_width)
    self.assertRegex(
      about, rf'h264.* yuv420p\b.* {even_width}x{even_height}[ ,].* {fps} fps'
    )
    self.assertLen(read, 5)
    rows = np.minimum(np.arange(even_height), height - 1)
    columns = np.minimum(np.arange(even_width), width - 1)
    errors = np.abs(read - frames[:, rows][:, :, columns])
    self.assertLess(np.mean(errors, axis=(1, 2)).max(), 4)
    self.assertLess(errors.max(), 16)

  def test_odd_sides_repeat_their_last_pixels(self):
    gray = np.array([[40, 70, 100], [90, 120, 150], [140, 170, 200]], np.uint8)
    frame = np.repeat(gray[..., None], 3, axis=-1)
    path = video.write(self.folder / 'new', [frame], fps=10)
    (read,), _ = _read_mp4(path, 4, 4)
    expected = gray[[0, 1, 2, 2]][:, [0, 1, 2, 2]]
    np.testing.assert_allclose(read.mean(-1), expected, atol=4)

  def test_accepts_any_file_name(self):
    for name in ('a.b', 'ein Bild é 木', '-y', '%d'):
      path = video.write(self.folder / name, _frames(8, 8), fps=10)
      self.assertEqual(path, self.folder / f'{name}.mp4')
      self.assertGreater(path.stat().st_size, 0)
    self.assertLen([*self.folder.iterdir()], 2 + 4)

  def test_refuses_a_missing_folder(self):
    with self.assertRaisesRegex(OSError, 'cannot be encoded: .*No such file'):
      video.write(self.folder / 'gone' / 'x', _frames(8, 8), fps=10)
    self.assert_nothing_new()

  @parameterized.named_parameters(
    ('at_once', 'echo boom >&2; exit 3', 'boom'),
    ('half_way', 'head -c 99999 > "$output"; echo boom >&2; exit 3', 'boom'),
    ('late', 'cat > "$output"; echo boom >&2; exit 3', 'boom'),
    ('killed', 'head -c 99999 > "$output"; kill -9 $$', ''),
    ('early_without_an_error', 'head -c 99999 > "$output"', ''),
  )
  def test_reports_an_encoder_that_fails(self, script, message):
    self.set_encoder(script)
    frames = iter(_frames(200, 200, 9))
    with self.assertRaisesRegex(OSError, f'cannot be encoded: .*{message}'):
      video.write(self.folder / 'old', frames, fps=10)
    self.assert_nothing_new()

  def test_errors_of_the_frames_are_passed_on(self):
    self.set_encoder('exit 3')

    def render():
      yield from _frames(8, 8)
      raise BrokenPipeError('not yours')

    with self.assertRaisesRegex(BrokenPipeError, 'not yours'):
      video.write(self.folder / 'old', render(), fps=10)
    self.assert_nothing_new()


class GifTest(_VideoTest):
  def setUp(self):
    super().setUp()
    self.forget_encoder()
    self.set_encoder()

  @parameterized.parameters((60, 100, 10), (33, 17, 25))
  def test_written_video_is_read_back(self, height, width, fps):
    frames = _frames(height, width)
    path = video.write(self.folder / 'old', iter(frames), fps=fps)
    self.assertEqual(path, self.folder / 'old.gif')
    self.assertEqual(video.encoded_size(height, width), (height, width))
    read, durations = _read_gif(path)
    self.assertEqual(durations, 5 * [1000 / fps])
    self.assertEqual(read.shape, frames.shape)
    errors = np.abs(read - frames)
    self.assertLess(np.mean(errors, axis=(1, 2)).max(), 6)


class WriteTest(_VideoTest):
  @parameterized.product(
    encoded=[True, False],
    sizes=[[(8, 8), (8, 10)], [(200, 200)] * 4 + [(198, 200)]],
  )
  def test_refuses_frames_of_two_sizes(self, encoded, sizes):
    if not encoded:
      self.forget_encoder()
      self.set_encoder()
    frames = (np.zeros((*size, 3), np.uint8) for size in sizes)
    (height, width), (first, _) = sizes[-1], sizes[0]
    message = rf'one size, got \({height}, {width}\) after \({first}, {first}\)'
    with self.assertRaisesRegex(ValueError, message):
      video.write(self.folder / 'old', frames, fps=10)
    self.assert_nothing_new()

  @parameterized.parameters(True, False)
  def test_refuses_a_video_without_frames(self, encoded):
    if not encoded:
      self.forget_encoder()
      self.set_encoder()
    with self.assertRaisesRegex(ValueError, 'needs at least one frame'):
      video.write(self.folder / 'old', iter([]), fps=10)
    self.assert_nothing_new()

  @parameterized.parameters(True, False)
  def test_frames_are_consumed_one_by_one(self, encoded):
    if not encoded:
      self.forget_encoder()
      self.set_encoder()
    taken, most = [], []

    def render():
      for frame in _frames(8, 8, 20):
        most.append(sum(x() is not None for x in taken))
        copied = frame.copy()
        taken.append(weakref.ref(copied))
        yield copied
        del copied

    video.write(self.folder / 'new', render(), fps=10)
    self.assertLen(taken, 20)
    self.assertLessEqual(max(most), 2)

  def test_refuses_floats(self):
    with self.assertRaises(AssertionError):
      video.write(self.folder / 'old', np.zeros((2, 8, 8, 3)), fps=10)
    self.assert_nothing_new()


class HasEncoderTest(_VideoTest):
  @parameterized.parameters(None, 'exit 1', 'exit 0', 'cat > /dev/null')
  def test_false_without_an_encoder(self, script):
    self.forget_encoder()
    self.set_encoder(script)
    self.assertFalse(video.has_encoder())

  def test_false_without_ffmpeg(self):
    self.forget_encoder()
    error = RuntimeError('No ffmpeg exe could be found.')
    with mock.patch.object(imageio_ffmpeg, 'get_ffmpeg_exe', side_effect=error):
      self.assertFalse(video.has_encoder())

  def test_false_without_the_package(self):
    self.forget_encoder()
    with mock.patch.dict(sys.modules, {'imageio_ffmpeg': None}):
      self.assertFalse(video.has_encoder())


if __name__ == '__main__':
  absltest.main()

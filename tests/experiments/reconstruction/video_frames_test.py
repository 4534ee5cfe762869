import pathlib
import subprocess

import chex
import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageFilter

from experiments.reconstruction import stages, video_frames
from nerf_haiku import errors
from nerf_haiku.io import video


def _extract(path, folder, count):
  folder.mkdir()
  with stages.Stages() as shown:
    notice = video_frames.extract(path, folder, count, shown)
  return sorted(x.name for x in folder.iterdir()), notice


class SharpnessTest(chex.TestCase):
  def test_of_an_impulse(self):
    # The Laplacian is -4a in the middle, a at four neighbors, 0 elsewhere.
    image = np.zeros((12, 22), np.uint8)
    image[5, 9] = 10
    self.assertAlmostEqual(
      video_frames.measure_sharpness(image), 20 * 10**2 / 200, places=4
    )

  def test_of_a_ramp(self):
    image = np.tile(np.arange(0, 200, 10, dtype=np.uint8), (10, 1))
    self.assertEqual(video_frames.measure_sharpness(image), 0.0)

  def test_the_sharpest_of_each_interval(self):
    sharpness = [0.0, 2.0, 1.0, 5.0, 4.0, 3.0, 7.0, 8.0, 6.0, 1.0]
    self.assertEqual(video_frames.choose(sharpness, 2), [3, 7])
    self.assertEqual(video_frames.choose(sharpness, 3), [1, 3, 7])
    self.assertEqual(video_frames.choose(sharpness, 10), list(range(10)))
    self.assertEqual(video_frames.choose(sharpness, 11), list(range(10)))

  def test_frames_are_spread_evenly(self):
    chosen = video_frames.choose(np.random.default_rng(0).random(1003), 97)
    for i, index in enumerate(chosen):
      self.assertBetween(index, i * 1003 / 97 - 1, (i + 1) * 1003 / 97)


class ExtractTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)

  def _clip(self, num_frames, sharp=()):
    """Writes noise that is blurred except in some frames, each of a color."""
    noise = np.random.default_rng(0).integers(0, 90, (48, 64, 1), np.uint8)
    frames = []
    for i in range(num_frames):
      color = np.array([10 * i, 100, 160 - 10 * i])
      frame = Image.fromarray((noise + color).astype(np.uint8))
      if i not in sharp:
        frame = frame.filter(ImageFilter.GaussianBlur(3))
      frames.append(np.asarray(frame))
    return video.write(self.root / 'clip', frames, fps=10), frames

  def test_takes_the_sharp_frames(self):
    path, frames = self._clip(12, sharp=(2, 4, 11))
    names, notice = _extract(path, self.root / 'out', 3)
    self.assertEqual(
      names, ['frame_000003.jpg', 'frame_000005.jpg', 'frame_000012.jpg']
    )
    self.assertIsNone(notice)
    for name, index in zip(names, (2, 4, 11), strict=True):
      with Image.open(self.root / 'out' / name) as image:
        mean = np.mean(np.asarray(image), axis=(0, 1))
      np.testing.assert_allclose(
        mean, np.mean(frames[index], axis=(0, 1)), atol=4.0
      )

  def test_takes_all_frames_of_a_short_video(self):
    path, _ = self._clip(4)
    names, notice = _extract(path, self.root / 'out', 100)
    self.assertLen(names, 4)
    self.assertRegex(notice, 'has 4 frames, fewer than --frames=100')

  def test_frames_at_uneven_times_are_neither_doubled_nor_dropped(self):
    path, _ = self._clip(6)
    uneven = self.root / 'uneven.mkv'
    subprocess.run(
      [
        imageio_ffmpeg.get_ffmpeg_exe(),
        *('-loglevel', 'error', '-i', str(path), '-fps_mode', 'passthrough'),
        *('-vf', 'setpts=N*N/TB', str(uneven)),
      ],
      check=True,
    )
    names, _ = _extract(uneven, self.root / 'out', 100)
    self.assertLen(names, 6)

  def test_what_is_no_video(self):
    path, _ = self._clip(4)
    truncated = self.root / 'cut.mp4'
    truncated.write_bytes(path.read_bytes()[:200])
    empty = self.root / 'empty.mp4'
    empty.write_bytes(b'')
    for i, name in enumerate((truncated, empty)):
      with self.assertRaisesRegex(
        errors.DataError, f'{name.name}: cannot be decoded as a video'
      ):
        _extract(name, self.root / f'out{i}', 3)

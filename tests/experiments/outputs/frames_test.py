import os
import pathlib
from unittest import mock

import chex
import numpy as np
from PIL import Image

from experiments.outputs import frames, trained_run
from nerf_haiku import camera_paths, cameras, image_rendering
from nerf_haiku.io import video

_FAR = 5.0


def _path(num, size=(16, 20)):
  sizes = np.tile(size, (num, 1))
  return cameras.pinhole(camera_paths.circle(num), sizes, np.full(num, 20.0))


def _read(path):
  with Image.open(path) as image:
    return np.asarray(image)


class _Render:
  """Renders images with values that depend on the index."""

  def __init__(self, fails_at=None, sees_from=0):
    self.calls = []
    self._fails_at = fails_at
    self._sees_from = sees_from  # Images before this one are empty.

  def __call__(self, path, index, viewdir_camera=None):
    if index == self._fails_at:
      raise KeyboardInterrupt
    self.calls.append((index, viewdir_camera))
    height, width = path.sizes[index]
    level = np.full((height, width), 0.1 * (index + 1), np.float32)
    if viewdir_camera is not None:
      level = level + 0.5
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    opacity = np.broadcast_to(rows, (height, width))
    opacity = opacity * (index >= self._sees_from)
    depth = (2.0 + index) * opacity
    return image_rendering.RenderedImage(
      np.repeat(level[..., None], 3, -1),
      depth,
      np.where(depth > 0, opacity / np.maximum(depth, 1e-9), 0),
      opacity,
      level,
      np.zeros((height, width, 2)),
    )


class FramesTest(chex.TestCase):
  def _folder(self):
    return pathlib.Path(self.create_tempdir().full_path) / 'out' / 'video'

  def _render(self, folder, path, render, still=False):
    folder.mkdir(parents=True, exist_ok=True)
    return frames.render_frames(
      folder, path, render, near=2.0, far=_FAR, still=still, fps=30
    )

  def _files(self, folder):
    return {
      path.relative_to(folder).as_posix(): path.read_bytes()
      for path in folder.rglob('*')
      if path.is_file()
    }

  def test_writes_frames_videos_and_a_contact_sheet(self):
    folder = self._folder()
    rendered = self._render(folder, _path(3), _Render(), still=True)
    names = [path.name for path in rendered.files]
    self.assertEqual(
      names, ['rgb.mp4', 'rgb_still.mp4', 'disp.mp4', 'contact_sheet.png']
    )
    self.assertEqual((rendered.new, frames.video_notices(_path(3))), (6, ()))
    for part in ('rgb', 'still', 'opacity'):
      self.assertEqual(
        sorted(os.listdir(folder / part)), ['000.png', '001.png', '002.png']
      )
    depth = np.load(folder / 'depth' / '001.npy')
    self.assertEqual((depth.dtype, depth.shape), (np.float32, (16, 20)))
    rows = np.linspace(0, 1, 16)[:, None] * np.ones(20)
    np.testing.assert_allclose(depth, 3 * rows, rtol=1e-6)
    fine = _read(folder / 'depth' / '001_16bit.png')
    self.assertEqual(fine.dtype, np.uint16)
    np.testing.assert_allclose(fine / 65535 * _FAR, depth, atol=_FAR / 131070)
    text = (folder / 'depth' / 'README.txt').read_text()
    self.assertIn(f'65535 is a depth of {_FAR:g}', text)
    opacity = _read(folder / 'opacity' / '001.png')
    np.testing.assert_allclose(opacity / 255, rows, atol=1 / 510)
    disparity = np.load(folder / 'disparity' / '002.npy')
    np.testing.assert_allclose(disparity[1:], 1 / 4, rtol=1e-6)
    rgb = _read(folder / 'rgb' / '002.png')
    np.testing.assert_array_equal(rgb, round(0.3 * 255 + 1e-6))
    # The first camera, with the third one's directions.
    still = _read(folder / 'still' / '002.png')
    np.testing.assert_array_equal(still, 153)
    sheet = _read(folder / 'contact_sheet.png')
    self.assertEqual(sheet.shape, (16, 3 * 20 + 2 * 4, 3))

  def test_knows_whether_all_frames_are_empty(self):
    for seen, expected in ((2, False), (3, True)):
      folder = self._folder()
      for _ in range(2):  # Rendered, and then found on disk.
        rendered = self._render(folder, _path(3), _Render(sees_from=seen))
        self.assertEqual(rendered.empty, expected)

  def test_the_still_video_has_the_directions_of_the_path(self):
    path, render = _path(3), _Render()
    self._render(self._folder(), path, render, still=True)
    still = [(i, x) for i, x in render.calls if x is not None]
    self.assertEqual([i for i, _ in still], [0, 0, 0])
    for i, (_, viewdir_camera) in enumerate(still):
      expected = cameras.take(path, [i])
      chex.assert_trees_all_equal(viewdir_camera, expected)

  def test_renders_only_missing_frames(self):
    whole, folder, path = self._folder(), self._folder(), _path(4)
    self._render(whole, path, _Render())
    with self.assertRaises(KeyboardInterrupt):
      self._render(folder, path, _Render(fails_at=2))
    names = os.listdir(folder)
    self.assertNotIn('rgb.mp4', names)  # Nothing that looks complete.
    self.assertNotIn('contact_sheet.png', names)
    # The colors of an unfinished frame are missing.
    (folder / 'depth' / '002.npy').write_bytes(b'half')
    render = _Render()
    rendered = self._render(folder, path, render)
    self.assertEqual([i for i, _ in render.calls], [2, 3])
    self.assertEqual(rendered.new, 2)
    self.assertEqual(self._files(folder), self._files(whole))
    again = _Render()
    self.assertEqual(self._render(folder, path, again).new, 0)
    self.assertEmpty(again.calls)

  def test_cameras_have_different_fingerprints(self):
    prints = {trained_run.camera_fingerprint(_path(n)) for n in (1, 2, 3)}
    prints.add(trained_run.camera_fingerprint(_path(2, (16, 22))))
    self.assertLen(prints, 4)
    self.assertIn(trained_run.camera_fingerprint(_path(2)), prints)

  def test_more_than_a_thousand_frames_stay_in_order(self):
    path = cameras.with_poses(
      np.repeat(camera_paths.circle(1), 1001, 0), _path(1, (1, 1))
    )
    folder = self._folder()
    with (
      mock.patch.object(frames, '_write_frame') as write,
      mock.patch.object(frames, '_encode', return_value=()),
      mock.patch.object(frames, '_are_empty', return_value=False),
    ):
      self._render(folder, path, _Render())
    names = [call.args[1] for call in write.call_args_list]
    self.assertEqual((names[0], names[-1]), ('0000', '1000'))
    self.assertEqual(names, sorted(names))

  def test_reports_odd_sides(self):
    (note,) = frames.video_notices(_path(2, (17, 33)))
    self.assertRegex(note, r'Videos are 34x18.* frames of 33x17')

  def test_mixed_sizes_make_no_video(self):
    folder, path = self._folder(), _path(2)
    path.sizes[1] = (6, 4)
    rendered = self._render(folder, path, _Render())
    self.assertEqual((rendered.files, rendered.new), ((), 2))
    self.assertIn('2 sizes', frames.video_notices(path)[0])
    self.assertEqual(_read(folder / 'rgb' / '001.png').shape, (6, 4, 3))

  def test_writes_a_gif_without_an_encoder(self):
    video.has_encoder.cache_clear()
    self.addCleanup(video.has_encoder.cache_clear)
    before = os.environ.get('IMAGEIO_FFMPEG_EXE')
    os.environ['IMAGEIO_FFMPEG_EXE'] = '/there/is/none'
    try:
      (note,) = frames.video_notices(_path(2))
      rendered = self._render(self._folder(), _path(2), _Render())
    finally:
      del os.environ['IMAGEIO_FFMPEG_EXE']
      if before is not None:
        os.environ['IMAGEIO_FFMPEG_EXE'] = before
    self.assertEqual(rendered.files[0].name, 'rgb.gif')
    self.assertIn('videos are GIF', note)

  def test_disparity_is_white_at_its_maximum(self):
    folder, path = self._folder(), _path(2)
    self._render(folder, path, _Render())
    names = ['000', '001']
    first, second = frames._read_disparities(folder / 'disparity', names)
    # 1 / 2 and 1 / 3, but for the first row, whose opacity is 0.
    self.assertEqual((first[5, 5, 0], second[5, 5, 0]), (255, 170))
    self.assertEqual(first[0, 0, 0], 0)

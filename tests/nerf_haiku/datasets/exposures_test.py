import io
import pathlib

import chex
import numpy as np
from absl.testing import parameterized
from PIL import ExifTags, Image

from nerf_haiku.datasets import exposures, image_files


def _exif(time=0.01, f_number=2.0, speed=100):
  exif = Image.Exif()
  exif[ExifTags.Base.Make] = 'Camera'
  exif.get_ifd(ExifTags.IFD.Exif).update(
    {
      ExifTags.Base.ExposureTime: time,
      ExifTags.Base.FNumber: f_number,
      ExifTags.Base.ISOSpeedRatings: speed,
    }
  )
  return exif


def _photo(kind='JPEG', **options):
  file = io.BytesIO()
  Image.new('RGB', (8, 8)).save(file, kind, **options)
  return file


class ReadStopsTest(chex.TestCase):
  @parameterized.parameters('JPEG', 'PNG', 'WEBP')
  def test_time_aperture_and_speed(self, kind):
    def stops(**changes):
      file = _photo(kind, exif=_exif(**changes))
      return exposures.read_stops(Image.open(file).info['exif'])

    usual = stops()
    np.testing.assert_allclose(usual, np.log2(0.01 * 100 / 4), atol=1e-4)
    np.testing.assert_allclose(stops(time=0.04) - usual, 2.0, atol=1e-4)
    np.testing.assert_allclose(stops(f_number=4.0) - usual, -2.0, atol=1e-4)
    np.testing.assert_allclose(stops(speed=50) - usual, -1.0, atol=1e-4)

  @parameterized.parameters(b'', b'Exif\0\0damaged', Image.Exif().tobytes())
  def test_missing_or_damaged(self, data):
    self.assertIsNone(exposures.read_stops(data))

  @parameterized.parameters({'time': 0.0}, {'f_number': 0.0}, {'speed': 0})
  def test_zeros_are_no_exposure(self, **changes):
    data = _exif(**changes).tobytes()
    self.assertIsNone(exposures.read_stops(data))


class NoticesTest(chex.TestCase):
  @parameterized.parameters(
    ((),), ((None, None),), ((1.0, None),), ((1.0, 1.4, None),)
  )
  def test_none_within_half_a_stop(self, stops):
    self.assertEqual(exposures.notices(stops), ())

  def test_the_files_of_a_scene(self):
    folder = self.create_tempdir()
    paths = []
    for i, time in enumerate((0.01, 0.02, 0.03)):
      photo = _photo(exif=_exif(time=time)).getvalue()
      paths.append(folder.create_file(f'{i}.jpg', photo, mode='wb').full_path)
    paths = [pathlib.Path(x) for x in paths]
    files = image_files.open_splits([paths[:1], paths[1:]], down_factor=1)
    (text,) = image_files.notices(files, paths[0].parent)
    self.assertRegex(text, r'of 3 of 3 images .* 1\.6 stops: with config\.expo')
    files = image_files.open_splits([paths[1:]], down_factor=1)
    self.assertLen(image_files.notices(files, paths[0].parent), 1)
    files = image_files.open_splits([paths[:1]], down_factor=1)
    self.assertEqual(image_files.notices(files, paths[0].parent), ())

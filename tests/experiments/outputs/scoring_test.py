import json
import pathlib

import chex
import imageio.v3 as iio
import numpy as np

from experiments.outputs import json_files, provenance, scoring
from nerf_haiku import (
  backgrounds,
  camera_paths,
  cameras,
  image_rendering,
  scenes,
)


def _split():
  """A white view and one whose upper half is empty, of two sizes."""
  white = np.full((16, 12, 4), 255, np.uint8)
  half = np.full((12, 14, 4), [0, 0, 0, 255], np.uint8)
  half[:6, :, 3] = 0
  images = [white, half]
  sizes = [x.shape[:2] for x in images]
  views = cameras.pinhole(camera_paths.circle(2), sizes, [10.0, 10.0])
  return scenes.Split(scenes.LazyImages(2, images.__getitem__), views)


def _view(height, width, level):
  grey = np.full((height, width), level)
  return image_rendering.RenderedImage(
    np.repeat(grey[..., None], 3, -1),
    3 * grey,
    grey,
    np.ones_like(grey),
    grey,
    np.zeros((height, width, 2)),
  )


class EvaluateTest(chex.TestCase):
  def _evaluate(self, background):
    folder = pathlib.Path(self.create_tempdir().full_path) / 'test'
    split = _split()
    scores = scoring.score_views(
      split,
      lambda i: _view(*split.cameras.sizes[i], 0.8),
      folder,
      near=2.0,
      far=6.0,
      background=background,
    )
    return scores, folder

  def test_scores_are_of_8_bit_images_on_the_background(self):
    scores, _ = self._evaluate(background=backgrounds.WHITE)
    expected = [
      20 * np.log10(255 / 51),  # 204 where 255 is true.
      10 * np.log10(255**2 / ((51**2 + 204**2) / 2)),
    ]
    np.testing.assert_allclose(scores['psnr_per_view'], expected, rtol=1e-6)
    np.testing.assert_allclose(scores['psnr'], np.mean(expected), rtol=1e-6)
    np.testing.assert_allclose(scores['ssim'], np.mean(scores['ssim_per_view']))
    self.assertEqual(scores['views'], 2)
    self.assertGreater(scores['seconds_per_view'], 0.0)
    black, _ = self._evaluate(background=backgrounds.BLACK)
    np.testing.assert_allclose(
      black['psnr_per_view'], [expected[0], 20 * np.log10(255 / 204)], rtol=1e-6
    )

  def test_masked_pixels_are_not_scored(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    split = _split()
    sizes = np.asarray(split.cameras.sizes)
    mask = np.ones((np.prod(sizes, axis=1).sum(), 1), np.uint8)
    masks = scenes.Images(mask, sizes)
    truth = [
      scenes.to_float(x, background=backgrounds.WHITE)[..., 0]
      for x in split.images
    ]
    for i, image in enumerate(truth):  # Of each image the white half.
      masks[i][..., 0] = image == 1
    scores = scoring.score_views(
      split._replace(masks=masks),
      lambda i: _view(*sizes[i], 0.8),
      folder,
      near=2.0,
      far=6.0,
      background=backgrounds.WHITE,
    )
    expected = 20 * np.log10(255 / 51)
    np.testing.assert_allclose(scores['psnr_per_view'], expected, rtol=1e-6)
    self.assertIsNone(scores['psnr_of_one_colour'])  # White is all there is.

  def test_pictures(self):
    _, folder = self._evaluate(background=backgrounds.WHITE)
    picture = iio.imread(folder / 'view_001.png')
    self.assertEqual(picture.shape[0], 12)
    np.testing.assert_array_equal(picture[:, :14], 204)  # The rendering.
    truth = picture[:, -2 * 14 - 4 : -14 - 4]
    np.testing.assert_array_equal(truth[:6], 255)
    np.testing.assert_array_equal(truth[6:], 0)
    self.assertTrue((folder / 'view_000.png').exists())
    # One column, for the two views differ in size; 12 wide, enlarged by 21.
    sheet = iio.imread(folder / 'overview.png')
    self.assertEqual(sheet.shape, (2 * 16 * 21 + 4, 12 * 21, 3))
    np.testing.assert_array_equal(sheet[: 16 * 21], 204)

  def test_four_views_of_one_size_are_chosen_evenly(self):
    sizes = np.tile([[4, 6]], (9, 1))
    self.assertEqual(scoring.choose_for_overview(sizes), [0, 2, 4, 6])
    sizes[1:5] = [6, 4]
    self.assertEqual(scoring.choose_for_overview(sizes), [0, 5, 6, 7])
    self.assertEqual(scoring.choose_for_overview(sizes[:2]), [0])

  def test_overview(self):
    pairs = [
      (
        np.full((2, 256, 3), i, np.uint8),
        np.full((2, 256, 3), 100 + i, np.uint8),
      )
      for i in (0, 2, 4, 6)
    ]
    sheet = scoring.overview(pairs)
    columns = [0, 260, 520, 780]
    np.testing.assert_array_equal(sheet[0, columns, 0], [0, 2, 4, 6])
    np.testing.assert_array_equal(sheet[-1, columns, 0], [100, 102, 104, 106])


class WriteJsonTest(chex.TestCase):
  def test_infinity_is_null_and_the_old_file_lives(self):
    path = pathlib.Path(self.create_tempdir().full_path) / 'results.json'
    json_files.write_json(
      path, {'psnr': float('inf'), 'list': [1.5, float('nan')]}
    )
    expected = {'psnr': None, 'list': [1.5, None]}
    self.assertEqual(json.loads(path.read_text()), expected)
    with self.assertRaises(TypeError):
      json_files.write_json(path, {'x': object()})
    self.assertEqual(json.loads(path.read_text()), expected)

  def test_circumstances(self):
    about = provenance.collect()
    self.assertTrue(about['machine']['processor'])
    self.assertIn('jax', about['versions'])
    self.assertRegex(about['date'], r'^20\d\d-\d\d-\d\dT')


class MeanTest(chex.TestCase):
  def test_psnr_of_one_colour(self):
    """Half black, half grey of 200: the best is 100, off by 100 everywhere."""
    black, grey = np.zeros((4, 6, 3), np.uint8), np.full((6, 4, 3), 200)
    expected = 20 * np.log10(255 / 100)
    np.testing.assert_allclose(
      scoring.psnr_of_constant_color(
        [scoring.color_sums(x) for x in (black, grey.astype(np.uint8))]
      ),
      expected,
    )
    # An image that is all of that colour has no error.
    self.assertIsNone(
      scoring.psnr_of_constant_color([scoring.color_sums(black)])
    )

  def test_a_missing_value_has_no_mean(self):
    self.assertEqual(scoring.mean([1.0, 2.0]), 1.5)
    self.assertIsNone(scoring.mean([1.0, None]))

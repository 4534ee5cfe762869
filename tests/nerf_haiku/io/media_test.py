import errno
import pathlib
import tempfile
from unittest import mock

import imageio.v3 as iio
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import errors
from nerf_haiku.io import media

_YELLOW, _BLUE = (240, 249, 33), (13, 8, 135)  # The ends of plasma.
_WHITE = (255, 255, 255)


def _random_image(height, width, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 255, (height, width, 3), np.uint8)  # Never white.


class ToUint8Test(parameterized.TestCase):
  @parameterized.parameters(
    (0.0, 0),
    (1.0, 255),
    (0.5, 128),
    (0.5 / 255, 1),
    (0.49 / 255, 0),
    (254.5 / 255, 255),
    (254.49 / 255, 254),
    (-0.1, 0),
    (1.1, 255),
    (np.inf, 255),
    (-np.inf, 0),
  )
  def test_rounds_and_clips(self, value, expected):
    result = media.to_uint8(np.array([[value]]))
    self.assertEqual(result.dtype, np.uint8)
    self.assertEqual(result.tolist(), [[expected]])

  def test_every_grey_level_returns(self):
    grey = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(media.to_uint8(jnp.array(grey) / 255), grey)

  def test_just_under_a_half(self):
    # Times 255 this is 0.49999997; adding 0.5 to that in float32 gives 1.
    values = np.array([0.0019607842], np.float32)
    self.assertEqual(media.to_uint8(values).tolist(), [0])

  def test_nan(self):
    with self.assertRaisesRegex(ValueError, '1 NaN among 3'):
      media.to_uint8(np.array([0.0, np.nan, 1.0]))

  def test_refuses_integers(self):
    with self.assertRaises(AssertionError):
      media.to_uint8(np.array([0, 255], np.uint8))


class WritePngTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder)

  @parameterized.parameters('a.png', 'mein Bild é 木.png', 'no suffix')
  def test_round_trip(self, name):
    folder = self.folder / 'вид 1'
    folder.mkdir()
    for seed in range(2):  # The second replaces the first.
      image = _random_image(7, 5, seed)
      media.write_png(str(folder / name), image)
      np.testing.assert_array_equal(iio.imread(folder / name), image)
    self.assertEqual([p.name for p in folder.iterdir()], [name])
    self.assertEqual((folder / name).read_bytes()[1:4], b'PNG')

  def test_failures_leave_the_old_file(self):
    path = self.folder / 'a.png'
    media.write_png(path, _random_image(7, 5))
    before = path.read_bytes()

    def fill_disk(self, data):
      with open(self, 'wb') as file:
        file.write(data[: len(data) // 2])
      raise OSError(errno.ENOSPC, 'No space left on device')

    for name, fails in (('write_bytes', fill_disk), ('replace', OSError)):
      with (
        self.subTest(name),
        mock.patch.object(
          pathlib.Path, name, autospec=True, side_effect=fails
        ) as called,
      ):
        with self.assertRaises(OSError):
          media.write_png(path, _random_image(7, 5, 1))
        called.assert_called_once()
        self.assertEqual(path.read_bytes(), before)
        self.assertEqual(list(self.folder.iterdir()), [path])

  def test_path_never_holds_a_part(self):
    path = self.folder / 'a.png'
    write = pathlib.Path.write_bytes

    def write_and_look(self, data):
      write(self, data)
      assert self.parent == path.parent
      assert not path.exists()

    with mock.patch.object(
      pathlib.Path, 'write_bytes', autospec=True, side_effect=write_and_look
    ) as called:
      media.write_png(path, _random_image(7, 5))
    called.assert_called_once()
    self.assertTrue(path.exists())

  def test_missing_folder(self):
    message = "No such file or directory: '.*/none/a.png'"
    with self.assertRaisesRegex(errors.WriteError, message):
      media.write_png(self.folder / 'none' / 'a.png', _random_image(7, 5))

  def test_refuses_floats(self):
    with self.assertRaises(AssertionError):
      media.write_png(self.folder / 'a.png', np.zeros((7, 5, 3)))


class DepthImageTest(parameterized.TestCase):
  def _pixel(self, t, opacity):
    depth = np.array([[t * opacity]], np.float32)
    opacity = np.array([[opacity]], np.float32)
    return tuple(media.depth_image(depth, opacity, 2.0, 6.0)[0, 0].tolist())

  @parameterized.parameters(
    (2.0, _YELLOW), (1.0, _YELLOW), (6.0, _BLUE), (9.0, _BLUE)
  )
  def test_ends(self, t, expected):
    self.assertEqual(self._pixel(t, 1.0), expected)

  def test_linear_in_t(self):
    # The middle is between colours 102 and 153 of the 256 of plasma.
    self.assertEqual(self._pixel(4.0, 1.0), (201, 71, 121))

  def test_linear_in_the_inverse_beyond_what_is_even(self):
    """With s = t up to 1 and 2 - 1 / t beyond, from 0 to nearly 2."""
    t = np.array([[0.5, 1.0, 2.0, 4.0, 1e9]])
    ones = np.ones_like(t)
    image = media.depth_image(3 * t, ones, 0.0, 3e12, even_to=3.0)
    s = np.array([[0.5, 1.0, 1.5, 1.75, 2.0]])
    expected = media.depth_image(s, ones, 0.0, 2.0)
    np.testing.assert_allclose(image, expected, atol=1)

  def test_luminance_falls_with_depth(self):
    depth = np.linspace(2, 6, 300)[None]
    image = media.depth_image(depth, np.ones_like(depth), 2.0, 6.0)
    luminance = image @ [0.2126, 0.7152, 0.0722]
    # A step of luminance is 0.7 grey levels; rounding moves it by up to 1.
    self.assertLess(np.max(np.diff(luminance[0])), 1.0)
    self.assertLess(np.max(np.diff(luminance[0, ::10])), 0.0)

  @parameterized.parameters(0.0, 1e-42, 1e-6)
  def test_empty_is_white(self, opacity):
    with np.errstate(all='raise', under='ignore'):
      self.assertEqual(self._pixel(3.0, opacity), _WHITE)

  @parameterized.parameters((2.0, _YELLOW), (6.0, _BLUE))
  def test_half_empty_is_half_white(self, t, colour):
    expected = tuple(int((c + 255) / 2 + 0.5) for c in colour)
    self.assertEqual(self._pixel(t, 0.5), expected)

  def test_keeps_the_layout(self):
    depth = np.array([[2.0, 6.0, 6.0], [6.0, 6.0, 6.0]])
    opacity = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    depth = jnp.asarray(depth * opacity)
    image = media.depth_image(depth, jnp.asarray(opacity), 2.0, 6.0)
    np.testing.assert_array_equal(
      image, [[_YELLOW, _BLUE, _BLUE], [_BLUE, _BLUE, _WHITE]]
    )

  def test_errors(self):
    one = np.ones((1, 1))
    for near, far in ((6.0, 2.0), (2.0, 2.0), (np.nan, 2.0)):
      with self.assertRaisesRegex(ValueError, f'near .* {near} and {far}'):
        media.depth_image(one, one, near, far)
    with self.assertRaisesRegex(ValueError, 'NaN'):
      media.depth_image(one * np.nan, one, 2.0, 6.0)
    with self.assertRaises(AssertionError):
      media.depth_image(np.ones((2, 1)), one, 2.0, 6.0)


class LayoutTest(parameterized.TestCase):
  def test_side_by_side(self):
    images = [_random_image(3, w, w) for w in (2, 5, 1)]
    sheet = media.side_by_side(images)
    expected = np.full((3, 2 + 4 + 5 + 4 + 1, 3), 255, np.uint8)
    expected[:, :2], expected[:, 6:11], expected[:, 15:] = images
    np.testing.assert_array_equal(sheet, expected)
    self.assertEqual(sheet.dtype, np.uint8)

  def test_one_image_has_no_gap(self):
    image = _random_image(3, 2)
    np.testing.assert_array_equal(media.side_by_side([image]), image)
    np.testing.assert_array_equal(media.contact_sheet([image], 1), image)

  def test_side_by_side_heights(self):
    with self.assertRaisesRegex(ValueError, r'height.*\[3, 4\]'):
      media.side_by_side([_random_image(3, 2), _random_image(4, 2)])

  def test_contact_sheet(self):
    a, b, c = images = [_random_image(3, 2, seed) for seed in range(3)]
    expected = np.full((3 + 4 + 3, 2 + 4 + 2, 3), 255, np.uint8)
    expected[:3, :2], expected[:3, 6:], expected[7:, :2] = a, b, c
    np.testing.assert_array_equal(media.contact_sheet(images, 2), expected)

  @parameterized.parameters((1, 24, 2), (2, 10, 8), (3, 10, 14), (5, 3, 26))
  def test_contact_sheet_size(self, columns, height, width):
    sheet = media.contact_sheet([_random_image(3, 2)] * 4, columns)
    self.assertEqual(sheet.shape, (height, width, 3))

  def test_contact_sheet_errors(self):
    images = [_random_image(3, 2), _random_image(2, 3)]
    with self.assertRaisesRegex(ValueError, r'size.*\(2, 3\), \(3, 2\)'):
      media.contact_sheet(images, 2)
    with self.assertRaisesRegex(ValueError, 'columns .* 0'):
      media.contact_sheet(images[:1], 0)


class GreyTest(parameterized.TestCase):
  def test_from_black_to_white(self):
    shown = media.to_gray(np.array([[0.0, 1.0, 2.0, 5.0]], np.float32), 4.0)
    # Of 255: a quarter is 63.75, a half 127.5; more than all is white.
    levels = np.array([[0, 64, 128, 255]], np.uint8)
    expected = np.repeat(levels[..., None], 3, axis=-1)
    np.testing.assert_array_equal(shown, expected, strict=True)

  def test_pngs_of_16_bits_and_of_colours(self):
    for image in (
      np.array([[0, 257, 65535]], np.uint16),
      np.zeros((2, 3, 3), np.uint8),
    ):
      again = iio.imread(media.encode_png(image))
      np.testing.assert_array_equal(again, image, strict=True)

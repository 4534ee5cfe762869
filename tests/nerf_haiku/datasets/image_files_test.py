import itertools
import os
import pathlib
import struct
import tempfile
import threading
import tracemalloc
import zlib
from unittest import mock

import chex
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from nerf_haiku import errors, scenes
from nerf_haiku.datasets import image_files
from tests.support import slow_area

_GRAY = np.array([[0, 90], [200, 255]], np.uint8)
_ALPHA = np.array([[0, 255], [7, 128]], np.uint8)
_RGB = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
_RGBA = np.concatenate([_RGB, _ALPHA[..., None]], axis=-1)
# Near a step of 257, where truncation to 8 bits and rounding differ.
_DEEP = np.array([0, 200, 1000 * 64, 65535, 257 * 9 + 200, 257 * 9 - 3])
_DEEP_8 = np.array([0, 1, 249, 255, 10, 9], np.uint8)


def _colors(gray):
  return np.repeat(gray[..., None], 3, axis=-1)


def _chunk(kind, data):
  checksum = struct.pack('>I', zlib.crc32(kind + data))
  return struct.pack('>I', len(data)) + kind + data + checksum


def _deep_png(image, color_key=b''):
  """A PNG of 16 bits, from the specification: Pillow writes none in color."""
  height, width, channels = image.shape
  kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
  head = struct.pack('>IIBBBBB', width, height, 16, kind, 0, 0, 0)
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in image)
  return (
    b'\x89PNG\r\n\x1a\n'
    + _chunk(b'IHDR', head)
    + (_chunk(b'tRNS', color_key) if color_key else b'')
    + _chunk(b'IDAT', zlib.compress(rows))
    + _chunk(b'IEND', b'')
  )


def _noise(height, width, channels, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, channels), np.uint8)


class _FilesTest(chex.TestCase):
  """A test with a folder of its own."""

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def write(self, name, content, **options):
    path = self.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
      path.write_bytes(content)
    else:
      image = content
      if isinstance(content, np.ndarray):
        image = Image.fromarray(content)
      image.save(path, **options)
    return path


class DecodeTest(_FilesTest):
  def assert_decodes(self, path, expected, *kinds):
    actual, header = image_files.decode(path), image_files.read_header(path)
    chex.assert_type(actual, np.uint8)
    np.testing.assert_array_equal(actual, expected)
    self.assertEqual(header[:3], expected.shape)
    self.assertLen(header.conversions, len(kinds))
    for conversion, kind in zip(header.conversions, kinds, strict=True):
      self.assertIn(kind, conversion)

  @parameterized.parameters(
    ('RGB', 'png'),
    ('RGBA', 'png'),
    ('RGB', 'bmp'),
    ('RGB', 'tiff'),
    ('RGBA', 'tiff'),
    ('RGBA', 'webp'),
  )
  def test_keeps_colors_unchanged(self, mode, extension):
    image = {'RGB': _RGB, 'RGBA': _RGBA}[mode]
    path = self.write(
      f'a.{extension}',
      image,
      **({'lossless': True, 'exact': True} if extension == 'webp' else {}),
    )
    self.assert_decodes(path, image)

  def test_converts_gray(self):
    self.assert_decodes(self.write('a.png', _GRAY), _colors(_GRAY), 'gray')

  def test_converts_gray_with_alpha(self):
    image = np.stack([_GRAY, _ALPHA], axis=-1)
    expected = np.concatenate([_colors(_GRAY), _ALPHA[..., None]], axis=-1)
    self.assert_decodes(self.write('a.png', image), expected, 'gray')

  def test_converts_black_and_white(self):
    path = self.write('a.png', Image.fromarray(_GRAY > 100))
    self.assert_decodes(path, _colors(np.uint8([[0, 0], [255, 255]])), 'gray')

  @parameterized.parameters(False, True)
  def test_converts_a_palette(self, transparent):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), 'P')
    image.putpalette([1, 2, 3, 40, 50, 60, 7, 8, 9])
    options = {'transparency': bytes([255, 33, 0])} if transparent else {}
    table = np.array([[1, 2, 3, 255], [40, 50, 60, 33], [7, 8, 9, 0]], np.uint8)
    expected = table[[[0, 1], [2, 1]]][..., : 4 if transparent else 3]
    self.assert_decodes(
      self.write('a.png', image, **options), expected, 'palette'
    )

  def test_a_transparent_color_becomes_alpha(self):
    path = self.write('a.png', _RGB, transparency=tuple(map(int, _RGB[0, 1])))
    alpha = np.array([[255, 0], [255, 255]], np.uint8)
    self.assert_decodes(path, np.concatenate([_RGB, alpha[..., None]], axis=-1))

  @parameterized.parameters(1, 2, 3, 4)
  def test_16_bits_are_rounded(self, channels):
    deep = np.stack([np.roll(_DEEP, i) for i in range(channels)], axis=-1)
    eight = np.stack([np.roll(_DEEP_8, i) for i in range(channels)], axis=-1)
    path = self.write('a.png', _deep_png(deep.reshape(2, 3, channels)))
    gray, alpha = eight[:, :1], eight[:, -1:]
    expected = {
      1: np.repeat(gray, 3, axis=1),
      2: np.concatenate([gray, gray, gray, alpha], axis=1),
    }.get(channels, eight)
    # As loading does: on threads, one of which brings in what decodes them.
    kept, _, _ = image_files.load(
      *image_files.open_splits([[path] * 4], down_factor=1)
    )
    np.testing.assert_array_equal(kept[3], expected.reshape(2, 3, -1))
    kinds = ('gray', '16-bit') if channels < 3 else ('16-bit',)
    self.assert_decodes(path, expected.reshape(2, 3, -1), *kinds)

  def test_rounds_a_16_bit_tiff(self):
    path = self.write('a.tiff', _DEEP.reshape(2, 3).astype(np.uint16))
    self.assert_decodes(path, _colors(_DEEP_8.reshape(2, 3)), 'gray', '16-bit')

  def test_orientation_is_not_applied(self):
    exif = Image.Exif()
    exif[274] = 6  # Turned by 90 degrees.
    image = np.full((16, 32, 3), 128, np.uint8)
    path = self.write('a.jpg', image, exif=exif, quality=100)
    self.assert_decodes(path, image)


class ErrorsTest(_FilesTest):
  def assert_refused(self, path, message):
    with self.assertRaisesRegex(errors.DataError, f'{path.name}.*{message}'):
      image_files.open_splits([[path]], down_factor=1)

  def test_refuses_a_missing_file(self):
    self.assert_refused(self.folder / 'gone.png', 'no such image')

  def test_refuses_a_folder(self):
    self.assert_refused(self.folder, 'cannot be read')

  @parameterized.parameters(b'', b'hello', b'\x89PNG\r\n\x1a\n')
  def test_refuses_what_is_not_an_image(self, content):
    self.assert_refused(
      self.write('a.png', content), 'not an image|cannot be decoded'
    )

  @parameterized.parameters('CMYK', 'F', 'I')
  def test_refuses_unsupported_modes(self, mode):
    path = self.write('a.tiff', Image.new(mode, (2, 2)))
    self.assert_refused(path, f'TIFF of mode {mode} .*save it as .* PNG')

  def test_refuses_16_bits_with_a_transparent_color(self):
    key = struct.pack('>HHH', 0, 0, 0)
    path = self.write('a.png', _deep_png(np.zeros((2, 2, 3), int), key))
    self.assert_refused(path, '16 bits with a transparent color')

  @parameterized.parameters('gif', 'png')
  def test_refuses_several_images_in_a_file(self, extension):
    frames = [Image.fromarray(_noise(4, 4, 3, seed)) for seed in range(3)]
    path = self.write(
      f'a.{extension}', frames[0], save_all=True, append_images=frames[1:]
    )
    self.assert_refused(path, 'holds 3 images')

  def test_finds_a_flipped_bit(self):
    path = self.write('a.png', _noise(32, 32, 3), compress_level=0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    self.assert_refused(path, 'cannot be decoded')

  @parameterized.product(extension=('png', 'jpg', 'webp'), kept=(True, False))
  def test_refuses_a_truncated_file(self, extension, kept):
    good = self.write('good.png', _RGB)
    path = self.write(f'cut.{extension}', _noise(64, 64, 3))
    path.write_bytes(path.read_bytes()[:-1000])
    splits = [[good, path], [good]] if kept else [[good], [good, path]]
    with self.assertRaisesRegex(errors.DataError, 'cut.*decoded|cut.*not an'):
      image_files.load(*image_files.open_splits(splits, down_factor=1))

  def test_counts_all_failures(self):
    good = self.write('good.png', _RGB)
    text, text_2 = self.write('b.png', b'b'), self.write('c.png', b'c')
    cut = self.write('a.jpg', _noise(64, 64, 3))
    cut.write_bytes(cut.read_bytes()[:-1000])  # The header is whole.
    splits = [[good, cut], [text, good, text_2]]
    with self.assertRaisesRegex(errors.DataError, r'a\.jpg.* And 2 more\.$'):
      image_files.open_splits(splits, down_factor=1)

  def test_refuses_a_large_down_factor(self):
    path = self.write('a.png', _noise(8, 16, 3))
    with self.assertRaisesRegex(ValueError, r'down_factor=9.*a\.png.*16x8'):
      image_files.open_splits([[path]], down_factor=9)


class LoadTest(_FilesTest):
  def open(self, *images, down_factor=1):
    """Opens splits of written images, named 0.png, 1.png, ..."""
    count, splits = itertools.count(), []
    for split in images:
      names = (f'{next(count)}.png' for _ in split)
      splits.append(
        [self.write(n, i) for n, i in zip(names, split, strict=True)]
      )
    return image_files.open_splits(splits, down_factor=down_factor)

  def test_loads_images_of_mixed_sizes(self):
    train = [_noise(48, 32, 3), _noise(33, 17, 3), _noise(1, 5, 3)]
    test = [_noise(7, 3, 4, seed=1)]
    kept, (lazy,), _ = image_files.load(*self.open(train, test))
    self.assertIsInstance(kept, scenes.Images)
    self.assertIsInstance(lazy, scenes.LazyImages)
    self.assertEqual(kept.pixels.dtype, np.uint8)
    chex.assert_trees_all_equal(list(kept), train)
    chex.assert_trees_all_equal(list(lazy), test)

  def test_downscales_to_16_bits(self):
    images = [_noise(33, 17, 4), _noise(9, 12, 4)]
    kept, (lazy,), _ = image_files.load(
      *self.open(images, images, down_factor=4)
    )
    self.assertEqual(kept.pixels.dtype, np.uint16)
    for index, size in enumerate([(8, 4), (2, 3)]):
      expected = slow_area.downscale(images[index], *size) / 255
      np.testing.assert_allclose(kept[index] / 65535, expected, atol=8e-6)
      np.testing.assert_array_equal(lazy[index], kept[index])

  def test_an_image_without_alpha_among_others_is_opaque(self):
    files = self.open([_RGB, _RGBA], [_RGB])
    kept, (lazy,), _ = image_files.load(*files)
    opaque = np.concatenate([_RGB, np.full((2, 2, 1), 255, np.uint8)], axis=-1)
    chex.assert_trees_all_equal(list(kept), [opaque, _RGBA])
    np.testing.assert_array_equal(lazy[0], _RGB)
    self.assertEqual(
      image_files.notices(files, self.folder),
      ('1 of 3 images has no alpha: taken as opaque, first 0.png.',),
    )

  def test_lazy_images_are_read_again(self):
    files = self.open([_RGB], [_RGB])
    _, (lazy,), _ = image_files.load(*files)
    self.write('1.png', 255 - _RGB)
    np.testing.assert_array_equal(lazy[0], 255 - _RGB)
    self.write('1.png', _noise(5, 5, 3))
    with self.assertRaisesRegex(errors.DataError, r'1\.png: changed'):
      lazy[0]
    (self.folder / '1.png').unlink()
    with self.assertRaisesRegex(errors.DataError, r'1\.png: no such image'):
      lazy[0]

  def test_accepts_splits_without_files(self):
    kept, (lazy,), _ = image_files.load(*self.open([_RGB], []))
    self.assertLen(kept, 1)
    self.assertEmpty(lazy)

  @parameterized.parameters(1, 2)
  def test_holds_no_second_copy_of_the_images(self, down_factor):
    path = self.write('0.png', _noise(128, 128, 4))
    (files,) = image_files.open_splits([[path] * 300], down_factor=down_factor)
    tracemalloc.start()
    self.addCleanup(tracemalloc.stop)
    with mock.patch.object(os, 'cpu_count', return_value=2):
      kept, _, _ = image_files.load(files)
    _, peak = tracemalloc.get_traced_memory()
    self.assertLess(peak, 1.3 * kept.pixels.nbytes)

  def test_notices_describe_the_conversions(self):
    files = self.open([_RGB, _GRAY, _GRAY], [_GRAY], down_factor=2)
    self.write('1.png', _noise(3, 5, 1)[..., 0])
    files = image_files.open_splits([f.paths for f in files], down_factor=2)
    self.assertEqual(
      image_files.notices(files, self.folder),
      (
        '3 of 4 images are gray: converted to RGB, first 1.png.',
        '1 of 4 images has a size that down_factor does not divide: rounded '
        'down, the focal length scaled by the real ratio of each axis, first '
        '1.png.',
      ),
    )


class CheckEqualSizesTest(chex.TestCase):
  def files(self, *sizes):
    return image_files.Files(
      tuple(pathlib.Path(f'{height}x{width}.png') for height, width in sizes),
      tuple(image_files.Header(*size, 3, ()) for size in sizes),
      1,
    )

  def test_accepts_one_size(self):
    splits = [self.files((4, 6), (4, 6)), self.files(), self.files()]
    self.assertIsNone(image_files.check_equal_sizes(splits))

  def test_names_an_image_that_differs_from_most(self):
    splits = self.files((2, 3)), self.files((4, 6), (4, 6)), self.files((4, 6))
    with self.assertRaisesRegex(
      errors.DataError, '^2x3.png: is 3x2 pixels, most images are 6x4: all '
    ):
      image_files.check_equal_sizes(splits)


class MapFilesTest(chex.TestCase):
  def test_keeps_the_order(self):
    results = image_files.map_files(lambda x: -x, range(50))
    self.assertEqual(results, [-x for x in range(50)])

  def test_calls_run_in_parallel(self):
    # Passed only when two calls are under way at once.
    barrier = threading.Barrier(2, timeout=10)
    with mock.patch.object(os, 'cpu_count', return_value=2):
      places = image_files.map_files(lambda _: barrier.wait(), range(4))
    # Each pair of calls met: one came first, one second.
    self.assertEqual(sorted(places), [0, 0, 1, 1])

  def test_names_the_first_error(self):
    def fail(x):
      if x % 2:
        raise errors.DataError(f'bad {x}.')

    with self.assertRaisesRegex(errors.DataError, r'^bad 1\. And 2 more\.$'):
      image_files.map_files(fail, range(6))
    with self.assertRaisesRegex(errors.DataError, r'^bad 1\.$'):
      image_files.map_files(fail, range(2))

  def test_other_errors_are_not_caught(self):
    with self.assertRaises(ZeroDivisionError):
      image_files.map_files(lambda x: 1 / x, [0])


if __name__ == '__main__':
  absltest.main()

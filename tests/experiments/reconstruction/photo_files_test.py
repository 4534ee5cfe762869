import io
import os
import pathlib

import chex
import numpy as np
import pillow_heif
from absl.testing import parameterized
from PIL import ExifTags, Image

from experiments.reconstruction import photo_files, stages
from nerf_haiku.datasets import image_files

_BASE = ExifTags.Base


def _pixels(height=24, width=32, seed=0):
  """Smooth colors, which survive a lossy format."""
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (3, 4, 3), np.uint8)
  image = Image.fromarray(small).resize((width, height), Image.BICUBIC)
  return np.asarray(image)


def _exif(model='X', focal=4.2, orientation=1):
  exif = Image.Exif()
  exif[_BASE.Model], exif[_BASE.Orientation] = model, orientation
  exif.get_ifd(ExifTags.IFD.Exif)[_BASE.FocalLength] = focal
  return exif


def _contents(folder):
  return {x.name: x.read_bytes() for x in folder.iterdir()}


class PhotoFilesTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    root = pathlib.Path(self.create_tempdir().full_path)
    self.folder, self.images = root / 'photos', root / 'staged'
    self.masks = root / 'masks'
    for folder in (self.folder, self.images, self.masks):
      folder.mkdir()

  def _save(self, name, pixels=None, mode='RGB', **options):
    path = self.folder / name
    path.parent.mkdir(exist_ok=True)
    pixels = _pixels() if pixels is None else pixels
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path

  def _stage(self):
    with stages.Stages() as shown:
      return photo_files.stage(
        photo_files.find(self.folder),
        self.folder,
        self.images,
        self.masks,
        shown,
      )

  def test_finds_files_sorted_by_path(self):
    names = ['b.jpg', '10.jpg', '2.jpg', 'a/z.jpg', '.DS_Store', '.c/x.jpg']
    names += ['out/images/1.jpg', 'a0.jpg']
    for name in names:
      (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
      (self.folder / name).write_bytes(b'')
    (self.folder / 'loop').symlink_to(self.folder)
    found = photo_files.find(self.folder, leave_out=self.folder / 'out')
    self.assertEqual(
      [x.relative_to(self.folder).as_posix() for x in found],
      ['10.jpg', '2.jpg', 'a/z.jpg', 'a0.jpg', 'b.jpg'],
    )

  @parameterized.named_parameters(
    ('jpeg', 'a.jpg', 'RGB'),
    ('gray', 'a.JPG', 'L'),
    ('png_with_alpha', 'a.png', 'RGBA'),
    ('tiff', 'a.tiff', 'RGB'),
    ('bmp', 'a.bmp', 'RGB'),
  )
  def test_copies_what_readers_decode(self, name, mode):
    path = self._save(name, mode=mode)
    (photo,), unused = self._stage()
    self.assertEqual((photo.name, photo.source, unused), (name, name, []))
    self.assertEqual(_contents(self.images), {photo.staged: path.read_bytes()})
    self.assertFalse((self.images / photo.staged).is_symlink())
    self.assertEqual((photo.masked, _contents(self.masks)), (False, {}))

  def test_a_link_to_a_photograph_becomes_a_copy(self):
    path = self._save('a.png')
    moved = path.rename(self.folder.parent / 'elsewhere.png')
    path.symlink_to(moved)
    (photo,), _ = self._stage()
    self.assertFalse((self.images / photo.staged).is_symlink())

  def test_copies_16_bits(self):
    deep = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80
    path = self.folder / 'a.png'
    Image.fromarray(deep).save(path)
    (photo,), _ = self._stage()
    self.assertEqual(
      (self.images / photo.staged).read_bytes(), path.read_bytes()
    )

  @parameterized.named_parameters(
    ('heic', 'a.heic', 'RGB', {'quality': -1, 'chroma': 444}, 8),
    ('webp', 'a.webp', 'RGB', {'lossless': True}, 0),
    ('gif', 'a.gif', 'L', {}, 0),
    ('cmyk', 'a.jpg', 'CMYK', {'quality': 95}, 8),
  )
  def test_converts_what_else_can_be_opened(self, name, mode, options, error):
    pillow_heif.register_heif_opener()
    self._save(name, mode=mode, **options)
    (photo,), unused = self._stage()
    self.assertEqual((photo.name, unused), ('a.png', []))
    expected = np.asarray(
      Image.fromarray(_pixels()).convert(mode).convert('RGB')
    )
    actual = image_files.decode(self.images / photo.staged)
    np.testing.assert_allclose(
      actual.astype(int), expected.astype(int), atol=error
    )

  def test_a_converted_photograph_keeps_its_exif(self):
    pillow_heif.register_heif_opener()
    self._save('a.heic', exif=_exif(model='Phone 7', focal=4.25))
    (photo,), _ = self._stage()
    with Image.open(self.images / photo.staged) as image:
      exif = image.getexif()
    self.assertEqual(exif[_BASE.Model], 'Phone 7')
    self.assertEqual(exif.get_ifd(ExifTags.IFD.Exif)[_BASE.FocalLength], 4.25)

  def test_orientation_is_not_applied(self):
    for name in ('a.jpg', 'b.webp'):
      self._save(name, exif=_exif(orientation=6))
    photos, _ = self._stage()
    for photo in photos:
      pixels = image_files.decode(self.images / photo.staged)
      self.assertEqual(pixels.shape, (24, 32, 3))

  def test_transparent_pixels_are_masked(self):
    alpha = np.full((24, 32, 1), 255, np.uint8)
    alpha[:, :10], alpha[0, 10:] = 0, 127
    self._save('a.png', np.concatenate([_pixels(), alpha], axis=2), 'RGBA')
    (photo,), _ = self._stage()
    self.assertTrue(photo.masked)
    with Image.open(self.masks / f'{photo.staged}.png') as mask:
      expected = np.where(alpha[..., 0] > 127, 255, 0)
      np.testing.assert_array_equal(np.asarray(mask), expected)

  def test_names_what_cannot_be_used(self):
    whole = io.BytesIO()
    Image.fromarray(_pixels(200, 300)).save(whole, 'JPEG')
    frames = [Image.fromarray(_pixels(seed=i)) for i in range(2)]
    frames[0].save(
      self.folder / 'd.gif', save_all=True, append_images=frames[1:]
    )
    (self.folder / 'b.jpg').write_bytes(whole.getvalue()[:2000])
    (self.folder / 'c.txt').write_text('Not an image.')
    os.mkfifo(self.folder / 'e.jpg')
    self._save('a.png')
    photos, unused = self._stage()
    self.assertEqual([x.source for x in photos], ['a.png'])
    reasons = dict(unused)
    self.assertEqual(list(reasons), ['b.jpg', 'c.txt', 'd.gif', 'e.jpg'])
    self.assertRegex(reasons['b.jpg'], '^cannot be decoded')
    self.assertEqual(reasons['c.txt'], 'is not an image')
    self.assertEqual(reasons['d.gif'], 'holds 2 images')
    self.assertRegex(reasons['e.jpg'], '^cannot be read: is a')
    self.assertLen(list(self.images.iterdir()), 1)

  def test_a_name_that_a_conversion_would_take_twice(self):
    for name in ('a.webp', 'a.PNG', 'a.webp.png', 'b/a.webp'):
      self._save(name)
    photos, _ = self._stage()
    self.assertEqual(
      {x.source: x.name for x in photos},
      {
        'a.PNG': 'a.PNG',
        'a.webp': 'a.webp_.png',  # Names differ by more than case.
        'a.webp.png': 'a.webp.png',
        'b/a.webp': 'b/a.png',
      },
    )

  def test_names_that_are_no_text(self):
    self._save('a.png').rename(self.folder / os.fsdecode(b'a\xff\n b.png'))
    (photo,), _ = self._stage()
    self.assertEqual(photo.name, 'a__ b.png')
    self.assertTrue(photo.staged.isascii())

  def test_groups_by_size_and_camera(self):
    options = {
      '1.jpg': (24, 32, _exif()),
      '2.jpg': (24, 32, _exif(focal=9.0)),
      '3.jpg': (24, 32, _exif(orientation=6)),
      '4.jpg': (32, 24, _exif()),
      '5.jpg': (24, 32, _exif(model='Y')),
      '6.jpg': (24, 32, Image.Exif()),
      '7.jpg': (24, 32, b'Exif\0\0 broken'),
      '8.jpg': (32, 24, _exif()),
    }
    for name, (height, width, exif) in options.items():
      self._save(name, _pixels(height, width), exif=exif)
    photos, _ = self._stage()
    names = {photo.staged: photo.source[0] for photo in photos}
    groups = photo_files.group(photos)
    self.assertEqual(
      [''.join(names[x] for x in group['names']) for group in groups],
      ['13', '2', '48', '5', '67'],
    )

  def test_few_photographs_have_a_simple_lens(self):
    def photos(count, camera):
      return [
        photo_files.Photo('', '', f'{camera}{i}', (camera,), False)
        for i in range(count)
      ]

    groups = photo_files.group([*photos(24, 'a'), *photos(25, 'b')])
    self.assertEqual([x['model'] for x in groups], ['SIMPLE_RADIAL', 'OPENCV'])

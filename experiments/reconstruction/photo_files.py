"""Copies photographs for a reconstruction, and groups them by camera.

A copy has the bytes of its photograph where the readers of data sets and
COLMAP can decode them; what else can be opened (HEIC, WebP, CMYK) becomes a
PNG. EXIF orientation is never applied: poses belong to the pixels as they are
stored. Copies are decoded once, so that a damaged file is noticed here.
"""

import concurrent.futures
import contextlib
import itertools
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import PIL
from PIL import ExifTags, Image

from experiments.reconstruction import sfm, stages
from nerf_haiku import errors
from nerf_haiku.datasets import image_files
from nerf_haiku.io import file_names, messages, safe_reading

# Suffixes of copies, by the formats that COLMAP and our readers decode.
_SUFFIXES = {
  'JPEG': '.jpg',
  'MPO': '.jpg',  # A phone's JPEG, followed by a preview.
  'PNG': '.png',
  'TIFF': '.tif',
  'BMP': '.bmp',
}
_ANIMATED = ('WEBP', 'GIF')
# As Pillow opens them: it finds that a JPEG is an MPO.
_FORMATS = (*(x for x in _SUFFIXES if x != 'MPO'), *_ANIMATED, 'HEIF')
# No reader takes them in files of those formats.
_CONVERTED_MODES = ('CMYK', 'YCbCr', 'LAB')
_TAGS = ExifTags.Base
_LENS_TAGS = (
  _TAGS.LensModel,
  _TAGS.FocalLength,
  _TAGS.FocalLengthIn35mmFilm,
  _TAGS.DigitalZoomRatio,
)
_MAX_PIXELS = 1 << 26  # As for the readers of data sets.
_MAX_THREADS = 4  # Each holds an image or two.
_COMPRESSION = 1  # Of PNG: fast.
_OPAQUE = 128  # Alpha from which a pixel may have features.
# A lens of OPENCV has 8 parameters, SIMPLE_RADIAL 4. Of fern and fox, 25
# photographs and more determine the former, 10 and fewer do not: see
# docs/captures.md.
_MIN_FOR_OPENCV = 25


class Photo(NamedTuple):
  """A photograph that was copied."""

  source: str  # path below the folder of photographs.
  name: str  # path of the copy in the end, below the folder of copies.
  staged: str  # name of the copy until then: plain ASCII.
  camera: tuple[str, ...]  # equal for photographs of one camera.
  masked: bool  # whether transparent pixels have a mask.


class Unused(NamedTuple):
  """A file that is not used, and why."""

  source: str
  reason: str


def find(
  folder: pathlib.Path, leave_out: pathlib.Path | None = None
) -> list[pathlib.Path]:
  """Returns all files below a folder, sorted by their paths as strings.

  Files and folders whose names begin with a dot are passed over, and links to
  folders are not followed.

  Args:
    folder: where to look.
    leave_out: a folder below it that is passed over.

  Raises:
    OSError: if a folder cannot be listed.
  """

  def fail(error: OSError) -> None:
    raise error

  found = []
  for root, folders, names in os.walk(folder, onerror=fail):
    folders[:] = [
      x
      for x in folders
      if not x.startswith('.')
      and (leave_out is None or not _is_same(pathlib.Path(root, x), leave_out))
    ]
    found += [pathlib.Path(root, x) for x in names if not x.startswith('.')]
  return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _is_same(path: pathlib.Path, other: pathlib.Path) -> bool:
  return path.resolve() == other.resolve()


def stage(
  paths: Sequence[pathlib.Path],
  folder: pathlib.Path,
  images: pathlib.Path,
  masks: pathlib.Path,
  shown: stages.Stages,
) -> tuple[list[Photo], list[Unused]]:
  """Copies photographs under plain names.

  Args:
    paths: files below `folder`, in the order of their names.
    folder: that the names of photographs begin from.
    images: an existing folder for the copies.
    masks: an existing folder for the masks of photographs with transparent
      pixels: that of `a.png` is `a.png.png`.
    shown: where progress is shown.

  Returns:
    The photographs, and the files that cannot be used, in the order of names.

  Raises:
    OSError: if a copy cannot be written.
  """
  import pillow_heif  # Of the extra `photos`.

  pillow_heif.register_heif_opener()
  shown.start('copying', len(paths))
  # Not as a context: that would finish all that is queued when interrupted.
  pool = concurrent.futures.ThreadPoolExecutor(
    min(os.cpu_count() or 1, _MAX_THREADS)
  )
  results: list[Photo | Unused] = []
  try:
    for result in pool.map(
      lambda i: _stage_one(
        paths[i], paths[i].relative_to(folder), i, images, masks
      ),
      range(len(paths)),
    ):
      results.append(result)
      shown.show(len(results))
  finally:
    pool.shutdown(cancel_futures=True)
  shown.finish('files')
  photos = [x for x in results if isinstance(x, Photo)]
  unused = [x for x in results if isinstance(x, Unused)]
  return _make_names_unique(photos), unused


def group(photos: Iterable[Photo]) -> list[sfm.Group]:
  """Returns the photographs of each camera, and the model of its lens."""
  by_camera: dict[tuple[str, ...], list[str]] = {}
  for photo in photos:
    by_camera.setdefault(photo.camera, []).append(photo.staged)
  return [
    {
      'names': names,
      'model': ('OPENCV' if len(names) >= _MIN_FOR_OPENCV else 'SIMPLE_RADIAL'),
    }
    for names in by_camera.values()
  ]


def _stage_one(
  path: pathlib.Path,
  source: pathlib.Path,
  index: int,
  images: pathlib.Path,
  masks: pathlib.Path,
) -> Photo | Unused:
  copy = None
  try:
    with _open(path) as image:
      camera, is_copied = _camera(image), _is_copied(image)
      suffix = _SUFFIXES.get(image.format or '', '.png')
      copy = images / f'{index:06}{suffix}'
      if not is_copied:
        _convert(image, path, copy)
    if is_copied:
      shutil.copyfile(path, copy)
    masked = _check(copy, masks)
  except errors.DataError as error:
    if copy is not None:
      copy.unlink(missing_ok=True)
    reason = str(error).removeprefix(f'{path}: ').removeprefix(f'{copy}: ')
    return Unused(messages.printable(source), reason.rstrip('.'))
  name = source if is_copied else source.with_suffix('.png')
  return Photo(
    source=messages.printable(source),
    name=_plain(name),
    staged=copy.name,
    camera=camera,
    masked=masked,
  )


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[Image.Image]:
  """Opens a single image of a size that readers accept, not yet decoded."""
  try:
    safe_reading.check_regular_file(path)
    image = Image.open(path, formats=_FORMATS)
  except errors.DataError:
    raise
  except PIL.UnidentifiedImageError as error:
    raise errors.DataError(f'{path}: is not an image') from error
  except Exception as error:  # Broken files raise errors of many types.
    raise errors.DataError(f'{path}: cannot be read ({error})') from error
  with image:
    if image.width * image.height > _MAX_PIXELS:
      raise errors.DataError(
        f'{path}: has {image.width}x{image.height} pixels, at most '
        f'{_MAX_PIXELS} are supported'
      )
    frames = getattr(image, 'n_frames', 1)
    if image.format in _ANIMATED and frames > 1:
      raise errors.DataError(f'{path}: holds {frames} images')
    yield image


def _is_copied(image: Image.Image) -> bool:
  return image.format in _SUFFIXES and image.mode not in _CONVERTED_MODES


def _camera(image: Image.Image) -> tuple[str, ...]:
  """Returns what differs between cameras, lenses and zooms."""
  size = f'{image.width}x{image.height}'
  try:
    exif = image.getexif()
    lens = exif.get_ifd(ExifTags.IFD.Exif)
    return (
      size,
      *(str(exif.get(tag)) for tag in (_TAGS.Make, _TAGS.Model)),
      *(str(lens.get(tag)) for tag in _LENS_TAGS),
    )
  except Exception:  # Broken EXIF raises errors of many types.
    return (size,)


def _convert(
  image: Image.Image, path: pathlib.Path, copy: pathlib.Path
) -> None:
  """Writes a PNG of 8 bits, with the EXIF and color profile of an image."""
  try:
    image.load()
  except Exception as error:  # Broken files raise errors of many types.
    raise errors.DataError(f'{path}: cannot be decoded ({error})') from error
  options = {'exif': image.info.get('exif')}
  if image.mode not in _CONVERTED_MODES:
    options['icc_profile'] = image.info.get('icc_profile')
  mode = 'RGBA' if image.has_transparency_data else 'RGB'
  # Only of 8 bits: pillow_heif converts deeper HEIC.
  image.convert(mode).save(
    copy,
    'PNG',
    compress_level=_COMPRESSION,
    **{name: value for name, value in options.items() if value},
  )


def _check(copy: pathlib.Path, masks: pathlib.Path) -> bool:
  """Decodes a copy as readers will; returns whether it has a mask.

  Raises:
    DataError: if it cannot be decoded.
  """
  image_files.read_header(copy)
  pixels = image_files.decode(copy)
  if pixels.shape[2] < 4 or pixels[..., 3].min() >= _OPAQUE:
    return False
  mask = np.where(pixels[..., 3] >= _OPAQUE, 255, 0).astype(np.uint8)
  Image.fromarray(mask).save(masks / f'{copy.name}.png')
  return True


def _make_names_unique(photos: Sequence[Photo]) -> list[Photo]:
  """Renames converted copies whose new name another photograph has.

  `a.heic` beside `a.png` becomes `a.heic.png`.
  """
  # Those that keep their names come first.
  order = sorted(photos, key=lambda x: (x.name != x.source, x.staged))
  taken: set[str] = set()
  unique = {}
  for photo in order:
    others = (f'{photo.source}{"_" * i}.png' for i in itertools.count())
    for name in itertools.chain([photo.name], map(_plain, others)):
      if file_names.normalize(name) not in taken:
        break
    taken.add(file_names.normalize(name))
    unique[photo.staged] = photo._replace(name=name)
  return [unique[photo.staged] for photo in photos]


def _plain(name: pathlib.Path | str) -> str:
  """Returns a path with what is no text, or controls terminals, replaced."""
  text = name if isinstance(name, str) else name.as_posix()
  return re.sub(r'[\x00-\x1f\x7f\ud800-\udfff]', '_', text)

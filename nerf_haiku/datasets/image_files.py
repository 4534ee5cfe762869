"""Images on disk: checked, decoded to 8 bits and reduced by area.

Pillow decodes, and lets go of Python's lock meanwhile, so threads suffice.
Orientation tags are not applied: poses belong to the pixels as they are stored.
"""

import concurrent.futures
import contextlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import PIL
from PIL import Image

from nerf_haiku import errors, scenes
from nerf_haiku.datasets import areas
from nerf_haiku.io import inputs, lazy_tensorflow

# What images are converted from, and what becomes of them.
_GREY = 'grey: converted to RGB'
_PALETTE = 'of a palette: converted to RGB or RGBA'
_DEEP = '16-bit: rounded to 8 bits'

_GREY_MODES = ('1', 'L', 'LA', 'I;16', 'I;16B', 'I;16L')
_PALETTE_MODES = ('P', 'PA')
_MODES = (*_GREY_MODES, *_PALETTE_MODES, 'RGB', 'RGBA')

# What Pillow may take a file for, whatever its name: it knows others, of which
# some are programs (PostScript).
_FORMATS = ('PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP', 'GIF')
_LARGEST = 1 << 26  # Pixels of an image: 8192x8192.

_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_PNG_DEEP_GREY_A = (16, 4)  # Bits and colour type: Pillow makes it RGBA.
_TIFF_BITS_PER_SAMPLE = 258
_MAX_THREADS = 4  # Each holds an image or two: memory, not time, is the limit.

T = TypeVar('T')
R = TypeVar('R')


class Header(NamedTuple):
  """What is known of an image before its pixels are decoded."""

  height: int  # pixels.
  width: int
  channels: int  # once decoded: 3, or 4 with straight alpha.
  conversions: tuple[str, ...]  # what decoding has to do, for `notices`.


class Files(NamedTuple):
  """The `N` image files of one split, and how far they are to be reduced."""

  paths: tuple[pathlib.Path, ...]
  headers: tuple[Header, ...]
  down_factor: int  # divides both sides of each image, rounded down.


def open_splits(
  splits: Sequence[Sequence[pathlib.Path]], *, down_factor: int
) -> list[Files]:
  """Reads the headers of the images of several splits.

  Args:
    splits: the paths of each split.
    down_factor: 1 or more.

  Raises:
    DataError: files are missing or no images: the first, and how many more.
    UserError: `down_factor` is larger than an image.
  """
  paths = [path for split in splits for path in split]
  try:
    headers = iter(map_files(read_header, paths))
  except errors.DataError:
    map_files(_probe, paths)  # Counts those with whole headers as well.
    raise
  result = [
    Files(tuple(split), tuple(next(headers) for _ in split), down_factor)
    for split in splits
  ]
  for files in result:
    _check_down_factor(files)
  return result


def load(
  train: Files, *others: Files
) -> tuple[scenes.Images, list[scenes.LazyImages]]:
  """Decodes every image once, in parallel; keeps those of the first split.

  The pixels go straight to their place: there is no second copy of them. The
  images of the other splits are decoded to see that they can be, and again
  whenever they are asked for.

  Raises:
    DataError: files can not be decoded: the first, and how many more.
  """
  total = int(np.sum(np.prod(sizes(train), axis=1)))
  _check_memory(train, total)
  dtype = np.uint8 if train.down_factor == 1 else np.uint16
  images = scenes.Images(
    np.empty((total, channels(train)), dtype), sizes(train)
  )

  def decode(item: tuple[Files, int]) -> None:
    files, index = item
    if files is train:
      images[index][...] = read(files, index)
    else:
      _decode(files, index)

  splits = (train, *others)
  map_files(decode, [(f, i) for f in splits for i in range(len(f.paths))])
  return images, [_lazy(files) for files in others]


def sizes(files: Files) -> np.ndarray:
  """`[N, 2]` int64, height and width of the images once reduced, in pixels."""
  full = [(header.height, header.width) for header in files.headers]
  return np.reshape(np.array(full, np.int64), (-1, 2)) // files.down_factor


def full_sizes(files: Files) -> np.ndarray:
  """`[N, 2]` int64, height and width of the images on disk, in pixels."""
  return sizes(files._replace(down_factor=1))


def channels(files: Files) -> int:
  """Channels the images share: 4 where any has alpha, 3 where none has."""
  return max((header.channels for header in files.headers), default=3)


def read(files: Files, index: int) -> np.ndarray:
  """Decodes and reduces one image.

  Returns:
    `[H, W, C]`: uint8 at full size, uint16 (0 to 65535) where it is reduced:
    the mean of the colours as they are, not multiplied by alpha. An image
    without alpha among others that have it is opaque.

  Raises:
    DataError: the file can not be decoded, or is not what it was.
  """
  image = _decode(files, index)
  if image.shape[2] < channels(files):
    image = np.pad(image, ((0, 0), (0, 0), (0, 1)), constant_values=255)
  if files.down_factor == 1:
    return image
  height, width = sizes(files)[index]
  mean = areas.reduce(image, int(height), int(width))
  mean *= 65535 / 255
  return np.rint(mean, out=mean).astype(np.uint16)


def notices(splits: Sequence[Files], folder: pathlib.Path) -> tuple[str, ...]:
  """Says what decoding does to the images, a line for each kind of change.

  Args:
    splits: files below `folder`.
    folder: what the files' names are relative to.
  """
  files = [
    (_shown(path.relative_to(folder)), header, split)
    for split in splits
    for path, header in zip(split.paths, split.headers, strict=True)
  ]

  def line(names: list[str], verbs: tuple[str, str], rest: str) -> list[str]:
    if not names:
      return []
    verb = verbs[len(names) > 1]
    return [
      f'{len(names)} of {len(files)} images {verb} {rest}, first {names[0]}.'
    ]

  lines = []
  for kind in (_GREY, _PALETTE, _DEEP):
    names = [name for name, header, _ in files if kind in header.conversions]
    lines += line(names, ('is', 'are'), kind)
  names = [n for n, header, s in files if header.channels < channels(s)]
  lines += line(names, ('has', 'have'), 'no alpha: taken as opaque')
  names = [n for n, header, s in files if not _divides(s.down_factor, header)]
  return (
    *lines,
    *line(
      names,
      ('has', 'have'),
      'a size that down_factor does not divide: rounded down, the focal length '
      'scaled by the real ratio of each axis',
    ),
  )


def _shown(path: pathlib.Path) -> str:
  """A name that can be printed, also where it is no Unicode."""
  return path.as_posix().encode('utf-8', 'backslashreplace').decode()


def map_files(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
  """Calls a function on each item, on as many threads as there are cores.

  Raises:
    DataError: of the first item that raised one, and how many others did.
  """
  failures: list[errors.DataError] = []

  def attempt(item: T) -> R | errors.DataError:
    try:
      return function(item)
    except errors.DataError as error:
      return error

  results = []
  threads = min(os.cpu_count() or 1, _MAX_THREADS)
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for result in pool.map(attempt, items):
      if isinstance(result, errors.DataError):
        failures.append(result)
      else:
        results.append(result)
  if failures:
    more = f' And {len(failures) - 1} more.' if len(failures) > 1 else ''
    raise errors.DataError(f'{failures[0]}{more}') from failures[0]
  return results


def read_header(path: pathlib.Path) -> Header:
  """Reads what a file says of its image, and checks it without decoding.

  The checksums of a PNG are verified, which decoding does not: one flipped bit
  in seven would pass as an image of other colours.

  Raises:
    DataError: no file, no image, more than one, too large a one, or a kind
      that is not read.
  """
  with _opened(path) as image:
    depth, colour_type = _png_kind(path)
    grey = image.mode in _GREY_MODES or (depth, colour_type) == _PNG_DEEP_GREY_A
    conversions = [
      (_GREY, grey),
      (_PALETTE, image.mode in _PALETTE_MODES),
      (_DEEP, depth == 16 or image.mode.startswith('I;16')),
    ]
    header = Header(
      image.height,
      image.width,
      4 if image.has_transparency_data else 3,
      tuple(kind for kind, applies in conversions if applies),
    )
    image.verify()
    return header


def decode(path: pathlib.Path) -> np.ndarray:
  """Decodes one file: `[H, W, C]` uint8, C 3, or 4 with straight alpha.

  Raises:
    DataError: the file can not be decoded.
  """
  with _opened(path) as image:
    if image.mode.startswith('I;16'):
      return _to_colour(np.asarray(image)[..., None])
    if _png_kind(path)[0] == 16:
      return _to_colour(_decode_deep_png(path))
    mode = 'RGBA' if image.has_transparency_data else 'RGB'
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _decode(files: Files, index: int) -> np.ndarray:
  """One image as it is on disk; it must still be what its header said."""
  header, path = files.headers[index], files.paths[index]
  image = decode(path)
  if image.shape != (header.height, header.width, header.channels):
    raise errors.DataError(
      f'{path}: changed while the program ran: start it again.'
    )
  return image


def _lazy(files: Files) -> scenes.LazyImages:
  return scenes.LazyImages(len(files.paths), lambda index: read(files, index))


def _probe(path: pathlib.Path) -> None:
  read_header(path)
  decode(path)


def _check_kind(path: pathlib.Path, image: Image.Image) -> None:
  """Refuses what has no one meaning as a photograph of 8 bits."""
  # A phone's MPO is a JPEG with a preview behind it.
  frames = getattr(image, 'n_frames', 1)
  if frames > 1 and image.format != 'MPO':
    raise errors.DataError(f'{path}: holds {frames} images, expected one.')
  bits = max(getattr(image, 'tag_v2', {}).get(_TIFF_BITS_PER_SAMPLE, (8,)))
  keyed = 'transparency' in image.info  # By a colour or table, not a channel.
  if image.mode not in _MODES:
    problem = f'of mode {image.mode}'
  elif image.mode.startswith('RGB') and bits > 8:
    problem = f'of {bits} bits'
  elif keyed and (_png_kind(path)[0] == 16 or image.mode.startswith('I;16')):
    problem = 'of 16 bits with a transparent colour'
  else:
    return
  raise errors.DataError(
    f'{path}: a {image.format} {problem} can not be used: save it as PNG with '
    'RGB or RGBA of 8 bits.'
  )


def _check_memory(files: Files, pixels: int) -> None:
  """Sees that images fit into the memory of the machine."""
  need = pixels * channels(files) * (1 if files.down_factor == 1 else 2)
  there = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  if need > there:
    raise errors.DataError(
      f'{files.paths[0].parent}: the {len(files.paths)} images to train on '
      f'take {need / 1e9:.1f} GB, the machine has {there / 1e9:.1f}: set a '
      'greater down_factor.'
    )


def _check_down_factor(files: Files) -> None:
  for path, (height, width, *_) in zip(files.paths, files.headers, strict=True):
    if files.down_factor > min(height, width):
      raise errors.UserError(
        f'down_factor={files.down_factor} is larger than a side of {path} '
        f'({width}x{height} pixels).'
      )


def _divides(factor: int, header: Header) -> bool:
  return header.height % factor == 0 and header.width % factor == 0


def _png_kind(path: pathlib.Path) -> tuple[int | None, int | None]:
  """Bits per channel and colour type of a PNG; None where it is none."""
  with open(path, 'rb') as file:
    head = file.read(26)
  if len(head) < 26 or not head.startswith(_PNG_SIGNATURE):
    return None, None
  return head[24], head[25]


def _decode_deep_png(path: pathlib.Path) -> np.ndarray:
  """`[H, W, 1 to 4]` uint16: Pillow would cut colours off at 8 bits."""
  tf = lazy_tensorflow.module()
  return tf.io.decode_png(path.read_bytes(), dtype=tf.uint16).numpy()


def _to_colour(image: np.ndarray) -> np.ndarray:
  """`[H, W, 1 to 4]` uint16 to `[H, W, 3 or 4]` uint8; grey to RGB."""
  # 65535 is 257 x 255: rounded, where a shift by 8 bits would truncate.
  image = np.rint(image / 257.0).astype(np.uint8)
  if image.shape[2] > 2:
    return image
  return image[..., [0, 0, 0, 1] if image.shape[2] == 2 else [0, 0, 0]]


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Image.Image]:
  """An image of a size and kind that is read; not decoded yet.

  Raises:
    DataError: it is another, or what is done with it fails.
  """
  with _naming(path):
    inputs.check_regular(path)
    with Image.open(path, formats=_FORMATS) as image:
      if image.width * image.height > _LARGEST:
        raise _too_large(path, f'{image.width}x{image.height}')
      _check_kind(path, image)
      yield image


def _too_large(path: pathlib.Path, size: str) -> errors.DataError:
  return errors.DataError(
    f'{path}: says that it is of {size} pixels; at most {_LARGEST} are '
    'decoded: reduce it.'
  )


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
  """Turns what a decoder raises into an error that names the file."""
  try:
    yield
  except (errors.DataError, MemoryError):
    raise
  except FileNotFoundError as error:
    raise errors.DataError(f'{path}: no such image.') from error
  except (
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
  ) as error:
    raise _too_large(path, 'very many') from error
  except PIL.UnidentifiedImageError as error:
    raise errors.DataError(
      f'{path}: is not an image of a known kind.'
    ) from error
  except Exception as error:  # Broken files raise errors of many types.
    raise errors.DataError(
      f'{path}: can not be decoded ({error}): copy or render it again.'
    ) from error

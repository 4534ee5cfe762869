"""Checks, decodes and downscales image files.

Pillow releases Python's lock while it decodes, so threads suffice. Orientation
tags are not applied: poses belong to the pixels as they are stored.
"""

import concurrent.futures
import contextlib
import hashlib
import io
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
import PIL
from PIL import Image

from nerf_haiku import arrays, cameras, errors, scenes
from nerf_haiku.datasets import area_resize, exposures
from nerf_haiku.io import lazy_tensorflow, memory, messages, safe_reading

# Conversions, as notices describe them.
_GRAY = 'gray: converted to RGB'
_PALETTE = 'of a palette: converted to RGB or RGBA'
_DEEP = '16-bit: rounded to 8 bits'

_GRAY_MODES = ('1', 'L', 'LA', 'I;16', 'I;16B', 'I;16L')
_PALETTE_MODES = ('P', 'PA')
_MODES = (*_GRAY_MODES, *_PALETTE_MODES, 'RGB', 'RGBA')

# Formats that Pillow may detect, whatever a file's name: of the others that it
# knows, some are programs (PostScript).
_FORMATS = ('PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP', 'GIF')
MAX_SIDE = 1600  # Pixels, with `Files.down_factor` of 0.
_MAX_PIXELS = 1 << 26  # Of an image: 8192x8192.
_MAX_BYTES = 1 << 30  # Of a file.

_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
# Bits and color type of 16-bit gray with alpha, which Pillow opens as RGBA.
_PNG_DEEP_GRAY_A = (16, 4)
_TIFF_BITS_PER_SAMPLE = 258
_MAX_THREADS = 4  # Each holds an image or two: they are limited by memory.

T = TypeVar('T')
R = TypeVar('R')


class Header(NamedTuple):
  """What is known of an image before it is decoded."""

  height: int  # pixels.
  width: int
  channels: int  # once decoded: 3, or 4 with straight alpha.
  conversions: tuple[str, ...]  # done by decoding, for `notices`.
  stops: float | None = None  # see `exposures.read_stops`.


class Files(NamedTuple):
  """The `N` image files of one split, and the factor to downscale them by."""

  paths: tuple[pathlib.Path, ...]
  headers: tuple[Header, ...]
  # Divides both sides of each image, rounded down. 0: a larger side than
  # `MAX_SIDE` becomes that.
  down_factor: int


def open_splits(
  splits: Sequence[Sequence[pathlib.Path]], *, down_factor: int
) -> list[Files]:
  """Reads the image headers of several splits.

  Args:
    splits: the paths of each split.
    down_factor: 0 or more, see `Files`.

  Returns:
    The files of each split.

  Raises:
    DataError: if files are missing or not images; names the first, and counts
      the others.
    UserError: if `down_factor` is larger than an image.
  """
  paths = [path for split in splits for path in split]
  try:
    headers = iter(map_files(read_header, paths))
  except errors.DataError:
    map_files(_try_decoding, paths)  # Counts those with valid headers as well.
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
) -> tuple[scenes.Images, list[scenes.LazyImages], list[bytes]]:
  """Decodes every image once, in parallel; keeps those of the first split.

  Pixels are decoded into place: there is no second copy of them. The images of
  the other splits are decoded to check them, and again whenever they are
  accessed.

  Args:
    train: the files whose images are kept.
    *others: files of other splits.

  Returns:
    The images of the first split, lazy images of each other split, and for
    each split a digest of its files.

  Raises:
    DataError: if files cannot be decoded, or memory does not suffice; names
      the first file, and counts the others.
  """
  total = int(np.sum(np.prod(sizes(train), axis=1)))
  _check_memory(train, total)
  images = scenes.Images(
    arrays.empty((total, channels(train)), _dtype(train)), sizes(train)
  )

  def decode_one(item: tuple[Files, int]) -> bytes:
    files, index = item
    image, digest = _decode_as_opened(files, index)
    if files is train:
      images[index][...] = _downscale(files, index, image)
    return digest

  splits = (train, *others)
  digests = iter(
    map_files(decode_one, [(f, i) for f in splits for i in range(len(f.paths))])
  )
  joined = [b''.join(next(digests) for _ in files.paths) for files in splits]
  return images, [_lazy(files) for files in others], joined


def load_splits(
  files: Sequence[Files],
  split_cameras: Sequence[cameras.Cameras],
  camera_sources: Sequence[bytes],
) -> tuple[scenes.Split[scenes.Images], list[scenes.Split[scenes.LazyImages]]]:
  """Decodes images, see `load`, and joins them with their cameras.

  Args:
    files: those of each split, the training split first.
    split_cameras: the cameras of each split.
    camera_sources: what each split's cameras were read from; with the files of
      the images it makes the splits' digests.

  Returns:
    The training split, and the other splits.

  Raises:
    DataError: see `load`.
  """
  images, held_out, image_digests = load(*files)
  digests = [
    hashlib.sha256(source + digest).hexdigest()
    for source, digest in zip(camera_sources, image_digests, strict=True)
  ]
  others = [
    scenes.Split(*parts)
    for parts in zip(held_out, split_cameras[1:], digests[1:], strict=True)
  ]
  return scenes.Split(images, split_cameras[0], digests[0]), others


def check_equal_sizes(splits: Sequence[Files]) -> None:
  """Checks that all images of a scene have one size.

  Raises:
    DataError: names an image whose size differs from that of most.
  """
  by_size: dict[tuple[int, int], list[pathlib.Path]] = {}
  for files in splits:
    for path, header in zip(files.paths, files.headers, strict=True):
      by_size.setdefault((header.width, header.height), []).append(path)
  if len(by_size) > 1:
    (usual, _), *_, (size, paths) = sorted(
      by_size.items(), key=lambda item: -len(item[1])
    )
    raise errors.DataError(
      f'{paths[0]}: is {size[0]}x{size[1]} pixels, most images are '
      f'{usual[0]}x{usual[1]}: all images of a scene must have one size.'
    )


def sizes(files: Files) -> np.ndarray:
  """Returns the downscaled heights and widths, `[N, 2]` int64 pixels."""
  full = full_sizes(files)
  if files.down_factor:
    return full // files.down_factor
  longest = full.max(axis=1, keepdims=True)
  reduced = np.rint(full * (MAX_SIDE / longest)).astype(np.int64)
  return np.where(longest > MAX_SIDE, np.maximum(reduced, 1), full)


def full_sizes(files: Files) -> np.ndarray:
  """Returns the heights and widths on disk, `[N, 2]` int64 pixels."""
  full = [(header.height, header.width) for header in files.headers]
  return np.reshape(np.array(full, np.int64), (-1, 2))


def _dtype(files: Files) -> type[np.unsignedinteger]:
  """Returns the type of stored colors.

  It is uint16 where averages would be rounded, but not for photographs that
  are reduced to save memory.
  """
  return np.uint16 if files.down_factor > 1 else np.uint8


def channels(files: Files) -> int:
  """Returns the number of channels: 4 if any image has alpha, or else 3."""
  return max((header.channels for header in files.headers), default=3)


def read(files: Files, index: int) -> np.ndarray:
  """Decodes and downscales one image.

  Returns:
    `[H, W, C]`, C being `channels(files)`: uint8 at full size or with a
    `down_factor` of 0, uint16 (0 to 65535) if it is downscaled otherwise, which
    averages straight colors, not multiplied by alpha. An image without alpha
    among others that have it is opaque.

  Raises:
    DataError: if the file cannot be decoded, or has changed.
  """
  return _downscale(files, index, _decode_as_opened(files, index)[0])


def _downscale(files: Files, index: int, image: np.ndarray) -> np.ndarray:
  """Returns a decoded image as `read` does."""
  if image.shape[2] < channels(files):
    image = np.pad(image, ((0, 0), (0, 0), (0, 1)), constant_values=255)
  height, width = map(int, sizes(files)[index])
  if files.down_factor <= 1 and image.shape[:2] == (height, width):
    return image
  return area_resize.downscale_to(
    image, height, width, white=255, dtype=_dtype(files)
  )


def notices(splits: Sequence[Files], folder: pathlib.Path) -> tuple[str, ...]:
  """Describes what decoding changes, a line for each kind of change.

  And a line where the images' exposures differ.

  Args:
    splits: files below `folder`.
    folder: what the files' names are relative to.
  """
  items = [
    (path, header, files)
    for files in splits
    for path, header in zip(files.paths, files.headers, strict=True)
  ]
  changes = [
    (
      ('is', 'are'),
      kind,
      [path for path, header, _ in items if kind in header.conversions],
    )
    for kind in (_GRAY, _PALETTE, _DEEP)
  ]
  changes += [
    (
      ('has', 'have'),
      'no alpha: taken as opaque',
      [path for path, header, f in items if header.channels < channels(f)],
    ),
    (
      ('has', 'have'),
      'a size that down_factor does not divide: rounded down, the focal length '
      'scaled by the real ratio of each axis',
      [
        path for path, header, f in items if not _divides(f.down_factor, header)
      ],
    ),
    (
      ('is', 'are'),
      f'larger than {MAX_SIDE} pixels: reduced to that (down_factor=0)',
      [
        path
        for path, header, f in items
        if not f.down_factor and max(header[:2]) > MAX_SIDE
      ],
    ),
  ]
  texts = tuple(
    f'{len(paths)} of {len(items)} images {verbs[len(paths) > 1]} {change}, '
    f'first {messages.printable(paths[0].relative_to(folder))}.'
    for verbs, change, paths in changes
    if paths
  )
  return texts + exposures.notices([header.stops for _, header, _ in items])


def map_files(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
  """Calls a function on each item, on several threads.

  Returns:
    The results, in the order of the items.

  Raises:
    DataError: the first one that a call raised, and how many others did.
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
  """Reads the header of an image file, and checks it without decoding.

  The checksums of a PNG are verified, which decoding omits: one flipped bit in
  seven would go unnoticed and change colors.

  Raises:
    DataError: if the file is missing, is not a single image, or is too large
      or of an unsupported kind.
  """
  with _file(path) as file, _opened(path, file) as image:
    depth, color_type = _png_kind(file)
    is_gray = (
      image.mode in _GRAY_MODES or (depth, color_type) == _PNG_DEEP_GRAY_A
    )
    conversions = [
      (_GRAY, is_gray),
      (_PALETTE, image.mode in _PALETTE_MODES),
      (_DEEP, depth == 16 or image.mode.startswith('I;16')),
    ]
    header = Header(
      height=image.height,
      width=image.width,
      channels=4 if image.has_transparency_data else 3,
      conversions=tuple(kind for kind, applies in conversions if applies),
      stops=exposures.read_stops(image.info.get('exif', b'')),
    )
    image.verify()
    return header


def decode(path: pathlib.Path) -> np.ndarray:
  """Decodes one file.

  Returns:
    `[H, W, C]` uint8; C is 3, or 4 with straight alpha.

  Raises:
    DataError: if the file cannot be decoded.
  """
  return _decode(path, _read_bytes(path))


def _decode(path: pathlib.Path, content: bytes) -> np.ndarray:
  file = io.BytesIO(content)
  with _opened(path, file) as image:
    if image.mode.startswith('I;16'):
      return _to_color(np.asarray(image)[..., None])
    if _png_kind(file)[0] == 16:
      return _to_color(_decode_deep_png(content))
    mode = 'RGBA' if image.has_transparency_data else 'RGB'
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _decode_as_opened(files: Files, index: int) -> tuple[np.ndarray, bytes]:
  """Decodes one image at full size, and checks that its header is the same.

  Returns:
    The image, and the SHA-256 of its file.
  """
  header, path = files.headers[index], files.paths[index]
  content = _read_bytes(path)
  image = _decode(path, content)
  if image.shape != (header.height, header.width, header.channels):
    raise errors.DataError(
      f'{path}: changed while the program was running: restart it.'
    )
  return image, hashlib.sha256(content).digest()


def _lazy(files: Files) -> scenes.LazyImages:
  return scenes.LazyImages(len(files.paths), lambda index: read(files, index))


def _try_decoding(path: pathlib.Path) -> None:
  read_header(path)
  decode(path)


def _check_kind(path: pathlib.Path, image: Image.Image, file: BinaryIO) -> None:
  """Refuses images that have no clear meaning as 8-bit photographs."""
  # A phone's MPO is a JPEG followed by a preview.
  frames = getattr(image, 'n_frames', 1)
  if frames > 1 and image.format != 'MPO':
    raise errors.DataError(f'{path}: holds {frames} images, expected one.')
  bits = max(getattr(image, 'tag_v2', {}).get(_TIFF_BITS_PER_SAMPLE, (8,)))
  # Transparency by a color or table, not by a channel.
  keyed = 'transparency' in image.info
  if image.mode not in _MODES:
    problem = f'of mode {image.mode}'
  elif image.mode.startswith('RGB') and bits > 8:
    problem = f'of {bits} bits'
  elif keyed and (_png_kind(file)[0] == 16 or image.mode.startswith('I;16')):
    problem = 'of 16 bits with a transparent color'
  else:
    return
  raise errors.DataError(
    f'{path}: a {image.format} {problem} cannot be used: save it as an 8-bit '
    'RGB or RGBA PNG.'
  )


def _check_memory(files: Files, num_pixels: int) -> None:
  """Checks that images fit into memory, if it is known how much there is."""
  needed = num_pixels * channels(files) * np.dtype(_dtype(files)).itemsize
  available = memory.available()
  if available is not None and needed > available:
    raise errors.DataError(
      f'{files.paths[0].parent}: the {len(files.paths)} training images need '
      f'{needed / 1e9:.1f} GB, but {available / 1e9:.1f} GB of memory are '
      'available: set a larger down_factor.'
    )


def _check_down_factor(files: Files) -> None:
  for path, (height, width, *_) in zip(files.paths, files.headers, strict=True):
    if files.down_factor > min(height, width):
      raise errors.UserError(
        f'down_factor={files.down_factor} is larger than a side of {path} '
        f'({width}x{height} pixels).'
      )


def _divides(factor: int, header: Header) -> bool:
  if not factor:
    return True
  return header.height % factor == 0 and header.width % factor == 0


def _png_kind(file: BinaryIO) -> tuple[int | None, int | None]:
  """Returns bits per channel and color type of a PNG; None for other files."""
  position = file.tell()  # Where the decoder goes on.
  file.seek(0)
  head = file.read(26)
  file.seek(position)
  if len(head) < 26 or not head.startswith(_PNG_SIGNATURE):
    return None, None
  return head[24], head[25]


def _decode_deep_png(content: bytes) -> np.ndarray:
  """Returns `[H, W, 1 to 4]` uint16; Pillow would truncate it to 8 bits."""
  tf = lazy_tensorflow.module()
  image: np.ndarray = tf.io.decode_png(content, dtype=tf.uint16).numpy()
  return image


def _to_color(image: np.ndarray) -> np.ndarray:
  """Converts `[H, W, 1 to 4]` uint16 to `[H, W, 3 or 4]` uint8."""
  # 65535 is 257 x 255. This rounds; a shift by 8 bits would truncate.
  image = np.rint(image / 257.0).astype(np.uint8)
  if image.shape[2] > 2:
    return image
  return image[..., [0, 0, 0, 1] if image.shape[2] == 2 else [0, 0, 0]]


def _read_bytes(path: pathlib.Path) -> bytes:
  with _name_errors(path):
    return safe_reading.read_bytes(path, _MAX_BYTES)


@contextlib.contextmanager
def _file(path: pathlib.Path) -> Iterator[BinaryIO]:
  with _name_errors(path):
    safe_reading.check_regular_file(path)
    with path.open('rb') as file:
      yield file


@contextlib.contextmanager
def _opened(path: pathlib.Path, file: BinaryIO) -> Iterator[Image.Image]:
  """Opens an image of a supported size and kind, without decoding it.

  Raises:
    DataError: if it is not supported, or what is done with it fails.
  """
  with _name_errors(path), Image.open(file, formats=_FORMATS) as image:
    if image.width * image.height > _MAX_PIXELS:
      raise _too_large(path, f'{image.width}x{image.height}')
    _check_kind(path, image, file)
    yield image


def _too_large(path: pathlib.Path, size: str) -> errors.DataError:
  return errors.DataError(
    f'{path}: has {size} pixels by its header; at most {_MAX_PIXELS} are '
    'supported: downscale it.'
  )


@contextlib.contextmanager
def _name_errors(path: pathlib.Path) -> Iterator[None]:
  """Turns errors of a decoder into errors that name the file."""
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
    raise _too_large(path, 'too many') from error
  except PIL.UnidentifiedImageError as error:
    raise errors.DataError(
      f'{path}: is not an image of a supported format.'
    ) from error
  except Exception as error:  # Broken files raise errors of many types.
    raise errors.DataError(
      f'{path}: cannot be decoded ({error}): copy or render it again.'
    ) from error

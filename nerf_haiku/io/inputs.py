"""Files from outside: what is read of them is bounded, and none of it is run.

Only regular files are opened, as a pipe may wait and a device may have no end.
"""

import contextlib
import io
import math
import os
import pathlib
import stat
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np

from nerf_haiku import errors

# Bytes. A json of poses takes a kilobyte for each view.
LARGEST_TEXT = 1 << 25
LARGEST_ARRAY = 1 << 32
_LONGEST_NAME = 1000  # Characters, in a message.
_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}


@contextlib.contextmanager
def named_errors() -> Iterator[None]:
  """Turns what the file system raises into an error that names the file.

  Raises:
    DataError: for any OSError.
  """
  try:
    yield
  except OSError as error:
    name = str(error.filename or 'A file')[:_LONGEST_NAME]
    raise errors.DataError(
      f'{name}: can not be read: {error.strerror}.'
    ) from error


def check_regular(path: pathlib.Path) -> None:
  """Sees that a path, or what it links to, is a file that has an end.

  Raises:
    DataError: it is something else.
    OSError: there is nothing, or it can not be looked at.
  """
  if not stat.S_ISREG(os.stat(path).st_mode):
    raise errors.DataError(
      f'{path}: can not be read: is a folder, pipe or device, not a file.'
    )


def read_bytes(path: pathlib.Path, most: int) -> bytes:
  """The content of a file of at most so many bytes.

  Raises:
    DataError: it is larger, or no file.
    OSError: it can not be read.
  """
  check_regular(path)
  with path.open('rb') as file:
    size = os.fstat(file.fileno()).st_size
    if size > most:
      raise errors.DataError(f'{path}: {_too_large(size, most)}')
    return file.read(size)


def read_npy(path: pathlib.Path) -> np.ndarray:
  """The array of a `.npy` file; nothing is unpickled.

  Raises:
    DataError: there is no such file, it is too large, or holds something else.
  """
  with _naming_arrays(path, 'array of numbers'):
    return _parse(read_bytes(path, LARGEST_ARRAY))


def read_npz(path: pathlib.Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
  """Those arrays of a `.npz` file that are there; nothing is unpickled.

  Their sizes are looked at before they are decompressed, and their checksums
  after.

  Raises:
    DataError: there is no such file, it is too large, or holds something else.
  """
  with _naming_arrays(path, '.npz of plain arrays'):
    check_regular(path)
    with zipfile.ZipFile(path) as archive:
      members = {x.filename: x for x in archive.infolist()}
      there = [(key, members.get(f'{key}.npy')) for key in keys]
      used = {key: member for key, member in there if member}
      size = sum(member.file_size for member in used.values())
      if size > LARGEST_ARRAY:
        raise ValueError(_too_large(size, LARGEST_ARRAY))
      return {key: _member(archive, key, used[key]) for key in used}


def _member(
  archive: zipfile.ZipFile, key: str, member: zipfile.ZipInfo
) -> np.ndarray:
  try:
    return _parse(archive.read(member))
  except Exception as error:  # Broken archives raise errors of many types.
    raise ValueError(f'{key}: {error}') from error


def _parse(content: bytes) -> np.ndarray:
  """The array of a `.npy` file, which must be as long as its header says.

  Raises:
    ValueError: it is not, or holds objects.
  """
  file = io.BytesIO(content)
  version = np.lib.format.read_magic(file)
  if version not in _HEADERS:
    raise ValueError(f'version {version} is not of plain arrays')
  shape, _, dtype = _HEADERS[version](file)
  said, there = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
  if dtype.hasobject or min(shape, default=0) < 0 or said != there:
    raise ValueError(
      f'its header says {list(shape)} of {dtype}, {said} bytes, and {there} '
      'bytes follow'
    )
  file.seek(0)
  return np.lib.format.read_array(file, allow_pickle=False)


@contextlib.contextmanager
def _naming_arrays(path: pathlib.Path, kind: str) -> Iterator[None]:
  try:
    yield
  except errors.DataError:
    raise
  except FileNotFoundError as error:
    raise errors.DataError(f'{path}: there is no such file.') from error
  except Exception as error:  # Broken files raise errors of many types.
    raise errors.DataError(
      f'{path}: is no {kind} ({error}): save it again.'
    ) from error


def _too_large(size: int, most: int) -> str:
  return (
    f'holds {size / 1e6:.0f} MB, which is more than the {most / 1e6:.0f} MB '
    'that are read of such a file.'
  )

"""Reads files from outside: bounded in size, and nothing in them is run.

Only regular files are opened: a pipe may block, and a device may have no end.
"""

import codecs
import contextlib
import io
import itertools
import json
import math
import os
import pathlib
import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from nerf_haiku import errors

# A JSON file of poses takes a kilobyte for each view.
MAX_TEXT_BYTES = 1 << 25
MAX_ARRAY_BYTES = 1 << 32
MAX_LINE_BYTES = 1 << 24
MAX_NAME_LENGTH = 1000  # Characters of a path in a message.
_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}


@contextlib.contextmanager
def wrap_os_errors() -> Iterator[None]:
  """Turns errors of the file system into errors that name the file.

  A context manager, or the decorator of a function.

  Raises:
    DataError: for any OSError.
  """
  try:
    yield
  except OSError as error:
    name = str(error.filename or 'A file')[:MAX_NAME_LENGTH]
    raise errors.DataError(
      f'{name}: cannot be read: {error.strerror}.'
    ) from error


def expand_user(path: str | os.PathLike[str]) -> pathlib.Path:
  """Expands a leading `~`, if there is such a user."""
  return pathlib.Path(os.path.expanduser(path))


def check_regular_file(path: pathlib.Path) -> None:
  """Checks that a path is, or links to, a regular file.

  Raises:
    DataError: if it is something else.
    OSError: if there is nothing, or it cannot be accessed.
  """
  if not stat.S_ISREG(os.stat(path).st_mode):
    raise errors.DataError(
      f'{path}: cannot be read: is a folder, pipe or device, not a file.'
    )


def read_bytes(path: pathlib.Path, max_bytes: int) -> bytes:
  """Reads a whole file of at most `max_bytes` bytes.

  Raises:
    DataError: if it is larger, or not a regular file.
    OSError: if it cannot be read.
  """
  with _open(path, max_bytes) as (file, size):
    return file.read(size)


@contextlib.contextmanager
def _open(path: pathlib.Path, max_bytes: int) -> Iterator[tuple[BinaryIO, int]]:
  """Opens a regular file, and returns its size too."""
  check_regular_file(path)
  with path.open('rb') as file:
    size = os.fstat(file.fileno()).st_size
    if size > max_bytes:
      raise errors.DataError(f'{path}: {_too_large(size, max_bytes)}')
    yield file, size


def read_lines(
  path: pathlib.Path, max_bytes: int
) -> Iterator[tuple[int, bytes]]:
  """Reads a text file line by line, without a byte order mark.

  Args:
    path: the file.
    max_bytes: of the file.

  Yields:
    The number of each line, from 1, and the line with its end.

  Raises:
    DataError: if the file is larger, is not a regular file, or has a line of
      more than `MAX_LINE_BYTES`.
    OSError: if it cannot be read.
  """
  with _open(path, max_bytes) as (file, _):
    for number in itertools.count(1):
      line = file.readline(MAX_LINE_BYTES + 1)
      if len(line) > MAX_LINE_BYTES:
        raise errors.DataError(
          f'{path}: line {number} has more than {MAX_LINE_BYTES} bytes: is it '
          'a text file?'
        )
      if not line:
        return
      yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


class BinaryReader:
  """Reads the fields of a binary file, one after the other.

  A number of records is checked against the size of the file before it is
  used, and every error names the file and the byte where reading stopped.
  """

  def __init__(self, path: pathlib.Path, file: BinaryIO, size: int):
    self._path, self._file, self._size = path, file, size
    self.offset = 0  # Of the next byte.

  def unpack(self, layout: struct.Struct, what: str) -> tuple[Any, ...]:
    """Reads fields of a fixed layout.

    Args:
      layout: their types.
      what: they are, for messages.

    Raises:
      DataError: if the file ends before.
    """
    content = self._file.read(layout.size)
    if len(content) != layout.size:
      raise self._ends_within(what)
    self.offset += layout.size
    return layout.unpack(content)

  def count(self, layout: struct.Struct, min_bytes: int, what: str) -> int:
    """Reads how many records follow, which must fit into the file.

    Args:
      layout: the type of the number.
      min_bytes: that each record takes, at least.
      what: the records are, for messages.

    Raises:
      DataError: if the file is too short for so many.
    """
    start = self.offset
    count: int = self.unpack(layout, f'the number of {what}')[0]
    if count * min_bytes > self._size - self.offset:
      raise errors.DataError(
        f'{self._path}: byte {start}: {count} {what} are declared, but '
        f'{self._size - self.offset} bytes follow: the file is cut off or '
        'damaged, write or copy it again.'
      )
    return count

  def skip(self, num_bytes: int, what: str) -> None:
    """Passes over bytes, without reading them.

    Raises:
      DataError: if the file ends before.
    """
    if num_bytes > self._size - self.offset:
      raise self._ends_within(what)
    self._file.seek(num_bytes, os.SEEK_CUR)
    self.offset += num_bytes

  def text(self, max_bytes: int, what: str) -> bytes:
    """Reads text that a zero byte ends, and returns it without that.

    Raises:
      DataError: if there is no zero byte within `max_bytes`.
    """
    content = self._file.read(max_bytes)
    length = content.find(b'\0')
    if length < 0:
      raise errors.DataError(
        f'{self._path}: byte {self.offset}: {what} has no end within '
        f'{len(content)} bytes: the file is cut off or damaged, write or copy '
        'it again.'
      )
    self._file.seek(length + 1 - len(content), os.SEEK_CUR)
    self.offset += length + 1
    return content[:length]

  def finish(self) -> None:
    """Checks that nothing follows.

    Raises:
      DataError: if something does.
    """
    if self.offset != self._size:
      raise errors.DataError(
        f'{self._path}: byte {self.offset}: the file should end here, but '
        f'{self._size - self.offset} bytes follow: a number of records in it '
        'is wrong, write or copy it again.'
      )

  def _ends_within(self, what: str) -> errors.DataError:
    return errors.DataError(
      f'{self._path}: byte {self._size}: ends within {what}, which begins at '
      f'byte {self.offset}: the file is cut off or damaged, write or copy it '
      'again.'
    )


@contextlib.contextmanager
def open_binary(path: pathlib.Path, max_bytes: int) -> Iterator[BinaryReader]:
  """Opens a binary file of at most `max_bytes` bytes, to read its fields.

  Raises:
    DataError: if it is larger, or not a regular file.
    OSError: if it cannot be read.
  """
  with _open(path, max_bytes) as (file, size):
    yield BinaryReader(path, file, size)


def read_text(path: pathlib.Path) -> str:
  """Reads a text file in UTF-8, with or without a byte order mark.

  Raises:
    DataError: if the file is missing, too large, or not text.
  """
  try:
    return read_bytes(path, MAX_TEXT_BYTES).decode('utf-8-sig')
  except errors.DataError:
    raise
  except FileNotFoundError as error:
    raise errors.DataError(f'{path}: no such file.') from error
  except (OSError, ValueError) as error:
    raise errors.DataError(f'{path}: cannot be read: {error}.') from error


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file.

  Raises:
    DataError: if the file is missing, or not JSON; names the line.
  """
  text = read_text(path)
  try:
    return json.loads(text)
  except json.JSONDecodeError as error:
    raise errors.DataError(
      f'{path}: line {error.lineno} is not JSON: {error.msg}.'
    ) from error
  except (ValueError, RecursionError) as error:
    raise errors.DataError(f'{path}: cannot be read: {error}.') from error


def read_npy(path: pathlib.Path) -> np.ndarray:
  """Reads the array of a `.npy` file; nothing is unpickled.

  Raises:
    DataError: if the file is missing, too large, or holds something else.
  """
  with _name_array_errors(path, '.npy file of numbers'):
    return _parse_npy(read_bytes(path, MAX_ARRAY_BYTES))


def read_npz(
  path: pathlib.Path, keys: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Reads arrays of a `.npz` file; nothing is unpickled.

  Their sizes are checked before they are decompressed, their checksums after.

  Args:
    path: the file.
    keys: names of arrays.

  Returns:
    Those of the arrays that the file holds, and the names of others in it.

  Raises:
    DataError: if the file is missing, too large, or holds something else.
  """
  with _name_array_errors(path, '.npz file of plain arrays'):
    check_regular_file(path)
    with zipfile.ZipFile(path) as archive:
      stored = {info.filename: info for info in archive.infolist()}
      members = {
        key: stored[f'{key}.npy'] for key in keys if f'{key}.npy' in stored
      }
      size = sum(member.file_size for member in members.values())
      if size > MAX_ARRAY_BYTES:
        raise ValueError(_too_large(size, MAX_ARRAY_BYTES))
      arrays = {
        key: _read_member(archive, key, member)
        for key, member in members.items()
      }
      others = stored.keys() - {f'{key}.npy' for key in keys}
      return arrays, sorted(name.removesuffix('.npy') for name in others)


def _read_member(
  archive: zipfile.ZipFile, key: str, member: zipfile.ZipInfo
) -> np.ndarray:
  try:
    return _parse_npy(archive.read(member))
  except Exception as error:  # Broken archives raise errors of many types.
    raise ValueError(f'{key}: {error}') from error


def _parse_npy(content: bytes) -> np.ndarray:
  """Parses a `.npy` file, which must be as long as its header declares.

  Raises:
    ValueError: if it is not, or holds objects.
  """
  file = io.BytesIO(content)
  version = np.lib.format.read_magic(file)
  if version not in _HEADERS:
    raise ValueError(f'version {version} is not of plain arrays')
  shape, _, dtype = _HEADERS[version](file)
  declared = math.prod(shape) * dtype.itemsize
  following = len(content) - file.tell()
  if dtype.hasobject or min(shape, default=0) < 0 or declared != following:
    raise ValueError(
      f'its header declares {list(shape)} of {dtype}, {declared} bytes, and '
      f'{following} bytes follow'
    )
  file.seek(0)
  return np.lib.format.read_array(file, allow_pickle=False)


@contextlib.contextmanager
def _name_array_errors(path: pathlib.Path, kind: str) -> Iterator[None]:
  try:
    yield
  except errors.DataError:
    raise
  except FileNotFoundError as error:
    raise errors.DataError(f'{path}: no such file.') from error
  except Exception as error:  # Broken files raise errors of many types.
    raise errors.DataError(
      f'{path}: is not a {kind} ({error}): save it again.'
    ) from error


def _too_large(size: int, max_bytes: int) -> str:
  return (
    f'is of {size / 1e6:.0f} MB; at most {max_bytes / 1e6:.0f} MB are read '
    'from such a file.'
  )

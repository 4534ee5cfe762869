"""Writes files atomically, and finds files that were damaged later."""

import hashlib
import json
import os
import pathlib

from nerf_haiku import errors

_DIGESTS = 'digests.json'


def write(path: str | os.PathLike[str], content: bytes) -> None:
  """Writes a file atomically: whole, or not at all.

  A process that is killed while writing leaves a hidden `.tmp` file at most.

  Args:
    path: the file, in an existing folder; an existing file is replaced.
    content: the whole content.

  Raises:
    WriteError: if the file cannot be written; an existing one is unchanged.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    temporary.write_bytes(content)
    temporary.replace(path)
  except OSError as error:
    raise errors.WriteError(error.errno, error.strerror, str(path)) from error
  finally:
    temporary.unlink(missing_ok=True)


def write_digests(folder: pathlib.Path) -> None:
  """Writes digests of all files in a folder, for `find_corruption`.

  Raises:
    OSError: if a file cannot be read, or the digests cannot be written.
  """
  write(folder / _DIGESTS, json.dumps(_digests(folder), indent=1).encode())


def has_digests(folder: pathlib.Path) -> bool:
  """Returns whether `write_digests` was called on a folder."""
  return (folder / _DIGESTS).exists()


def find_corruption(folder: pathlib.Path) -> str | None:
  """Returns what changed in a folder since `write_digests`; None if nothing.

  Of several changes it names the first. Files added later are ignored.
  """
  try:
    expected = json.loads((folder / _DIGESTS).read_bytes())
    actual = _digests(folder)
    for name in expected:
      if name not in actual:
        return f'{name} is missing'
      if actual[name] != expected[name]:
        return f'{name} is not as it was written'
  except (OSError, ValueError, TypeError) as error:
    return f'{_DIGESTS} or a file it names cannot be read ({error})'
  return None


def _digests(folder: pathlib.Path) -> dict[str, str]:
  """Returns the SHA-256 of each file, by its path in the folder."""
  digests = {}
  for path in sorted(folder.rglob('*')):
    if path.is_file() and path != folder / _DIGESTS:
      with path.open('rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
      digests[path.relative_to(folder).as_posix()] = digest
  return digests

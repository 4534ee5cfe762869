"""Files that are there whole, or not at all, and are as they were written."""

import hashlib
import json
import os
import pathlib

from nerf_haiku import errors

# What the files of a sealed folder held.
_SEAL = 'digests.json'


def write(path: str | os.PathLike[str], content: bytes) -> None:
  """Writes a file; one that was there is replaced in one go.

  Args:
    path: the file; its folder exists. A process killed while writing leaves
      nothing there but a hidden `.tmp` file beside it.
    content: all of it.

  Raises:
    WriteError: if the file cannot be written; an older one is left as it was.
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
  """Writes down digests of all files of a folder, for `find_corruption`.

  Raises:
    OSError: if they can not be read, or the digests not be written.
  """
  write(folder / _SEAL, json.dumps(_digests(folder), indent=1).encode())


def has_digests(folder: pathlib.Path) -> bool:
  """Whether `write_digests` has been here."""
  return (folder / _SEAL).exists()


def find_corruption(folder: pathlib.Path) -> str | None:
  """What is not as it was when a folder was sealed; None if all is.

  Of two faults one is told. Files that came later do not matter.
  """
  try:
    expected = json.loads((folder / _SEAL).read_bytes())
    found = _digests(folder)
    for name in expected:
      if name not in found:
        return f'{name} is missing'
      if found[name] != expected[name]:
        return f'{name} is not as it was written'
  except (OSError, ValueError, TypeError) as error:
    return f'{_SEAL} or a file it names can not be read ({error})'
  return None


def _digests(folder: pathlib.Path) -> dict[str, str]:
  """SHA-256 of each file, by its path in the folder, but for the seal."""
  digests = {}
  for path in sorted(folder.rglob('*')):
    if path.is_file() and path != folder / _SEAL:
      with path.open('rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
      digests[path.relative_to(folder).as_posix()] = digest
  return digests

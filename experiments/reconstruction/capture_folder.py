"""The folder that a reconstruction is written to.

All work is done in a hidden folder inside it. What is finished is then moved
out of that, the report last: a folder with a report is whole. Only the hidden
folder is ever deleted.
"""

import contextlib
import hashlib
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.outputs import json_files
from experiments.processes import locks
from nerf_haiku import errors
from nerf_haiku.io import messages

REPORT = 'photos.json'
IMAGES = 'images'
MODEL = 'sparse/0'
WORK = '.photos_work'
_LOCK = 'lock'
_MOVED = (IMAGES, 'sparse', REPORT)  # In this order.
_CURE = 'Choose another folder, or delete this one.'


def check_places(photos: pathlib.Path, out: pathlib.Path) -> None:
  """Checks that photographs exist, and that the output is not around them.

  Raises:
    UserError: if not.
  """
  if not photos.exists():
    raise errors.UserError(f'--photos: there is no folder or video {photos}.')
  if out.exists() and not out.is_dir():
    raise errors.UserError(f'--out: {out} is a file, not a folder.')
  if photos.is_dir() and photos.resolve().is_relative_to(out.resolve()):
    raise errors.UserError(
      f'--out: {out} holds the photographs of --photos: choose another folder.'
    )


def digest(paths: Sequence[pathlib.Path], folder: pathlib.Path) -> str:
  """Returns the SHA-256 of files: of their names below a folder and content.

  Raises:
    OSError: if one cannot be read.
  """
  result = hashlib.sha256()
  for path in paths:
    name = messages.printable(path.relative_to(folder))
    result.update(f'{name}\0'.encode())
    with path.open('rb') as file:
      result.update(hashlib.file_digest(file, 'sha256').digest())
  return result.hexdigest()


def read_finished(
  out: pathlib.Path, identity: dict[str, Any]
) -> dict[str, Any] | None:
  """Returns the report of a finished folder; None if it is not finished.

  Args:
    out: the folder.
    identity: fields of the report that the photographs and settings determine.

  Raises:
    UserError: if the folder was made of other photographs or with other
      settings, or files of it are missing.
  """
  path = out / REPORT
  if not path.exists():
    return None
  report = json_files.read_json(
    path,
    *identity,
    'registered',
    'not_registered',
    'cameras',
    option='--out',
    cure=_CURE,
  )
  for field, value in identity.items():
    if report[field] != value:
      raise errors.UserError(
        f'--out: {out} was made {_describe_other(field, report[field], value)}'
        f'. {_CURE}'
      )
  for name in (
    f'{MODEL}/images.bin',
    *(f'{IMAGES}/{x}' for x in report['registered']),
  ):
    if not (out / name).is_file():
      raise errors.UserError(f'--out: {out / name} is missing. {_CURE}')
  return report


def _describe_other(field: str, old: Any, new: Any) -> str:
  if field != 'settings' or not isinstance(old, dict):
    return 'of other photographs'
  changed = [
    f'--{name}={old.get(name)}' for name in new if old.get(name) != new[name]
  ]
  return f'with {", ".join(changed)}'


@contextlib.contextmanager
def workspace(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """A context with an empty folder for work, which is deleted at the end.

  Call `finish` for its results. The output folder is made, and removed at the
  end if it is still empty.

  Raises:
    UserError: if the output folder holds anything else, or another process
      works in it.
    OSError: if it cannot be written.
  """
  existed = out.exists()
  _check_entries(out)
  work = out / WORK
  work.mkdir(parents=True, exist_ok=True)
  message = (
    f'--out: another process works in {out}. Wait until it ends, or choose '
    'another folder.'
  )
  with locks.locked(work / _LOCK, message):
    try:
      for path in work.iterdir():
        if path.name != _LOCK:
          shutil.rmtree(path) if path.is_dir() else path.unlink()
      yield work
    finally:
      shutil.rmtree(work, ignore_errors=True)
      if not existed:
        with contextlib.suppress(OSError):
          out.rmdir()


def finish(out: pathlib.Path) -> None:
  """Moves results out of the folder for work, if its report is written.

  The last thing that is written there is the report. A process that is killed
  before has no results; one that is killed here leaves the rest to the next.

  Raises:
    OSError: if something is in the way.
  """
  work = out / WORK
  if (work / REPORT).exists():
    for name in _MOVED:
      if (work / name).exists():
        (work / name).rename(out / name)
    shutil.rmtree(work, ignore_errors=True)


def _check_entries(out: pathlib.Path) -> None:
  names = sorted(x.name for x in out.iterdir()) if out.exists() else []
  foreign = [name for name in names if not name.startswith('.')]
  if foreign:
    raise errors.UserError(
      f'--out: {out} holds {messages.shorten(foreign[0])}, which this program '
      'did not write. Choose a folder that is new or empty.'
    )

"""Locks of folders, which the system releases when a process ends."""

import contextlib
import pathlib
from collections.abc import Iterator

from nerf_haiku import errors

try:
  import fcntl
except ImportError:  # Windows, where two processes go unnoticed.
  fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(path: pathlib.Path, message: str) -> Iterator[None]:
  """A context in which no other process holds a lock.

  The system releases it when a process ends, in whatever way. Over NFS it holds
  for all hosts, if the server has locks. A file system without locks does not
  notice a second process.

  Args:
    path: the file of the lock, made if it does not exist.
    message: of the error.

  Raises:
    UserError: if another process holds the lock.
    OSError: if the file cannot be written.
  """
  with path.open('a') as file:
    try:
      if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise errors.UserError(message) from error
    except OSError:
      pass  # The file system has no locks.
    yield

"""Files that are there whole, or not at all."""

import os
import pathlib


def write(path: str | os.PathLike[str], content: bytes) -> None:
  """Writes a file; one that was there is replaced in one go.

  Args:
    path: the file; its folder exists. A process killed while writing leaves
      nothing there but a hidden `.tmp` file beside it.
    content: all of it.

  Raises:
    OSError: if the file can not be written; an older one is left as it was.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    temporary.write_bytes(content)
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)

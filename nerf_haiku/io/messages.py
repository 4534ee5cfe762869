"""Text from outside, made fit to stand in a message."""

import pathlib
from typing import Any

_MAX_LENGTH = 100  # Characters of a quoted value.


def shorten(value: Any) -> str:
  """Returns the `repr` of a value, cut to fit a message; None is 'nothing'."""
  text = 'nothing' if value is None else repr(value)
  return text if len(text) < _MAX_LENGTH else f'{text[: _MAX_LENGTH - 4]} ...'


def printable(path: pathlib.Path) -> str:
  """Returns a path that can be printed, even if it is not valid Unicode."""
  return path.as_posix().encode('utf-8', 'backslashreplace').decode()

"""Text from outside, made fit to stand in a message."""

import pathlib
from collections.abc import Sequence
from typing import Any

_MAX_LENGTH = 100  # Characters of a quoted value.
_MAX_NAMES = 20  # In a list.


def shorten(value: Any) -> str:
  """Returns the `repr` of a value, cut to fit a message; None is 'nothing'."""
  text = 'nothing' if value is None else repr(value)
  return text if len(text) < _MAX_LENGTH else f'{text[: _MAX_LENGTH - 4]} ...'


def list_names(names: Sequence[str]) -> str:
  """Returns the first names of a list, and the number of the others."""
  shown = ', '.join(shorten(name) for name in names[:_MAX_NAMES])
  more = len(names) - _MAX_NAMES
  return f'{shown} and {more} more' if more > 0 else shown


def printable(path: pathlib.Path) -> str:
  """Returns a path that can be printed, even if it is not valid Unicode."""
  return path.as_posix().encode('utf-8', 'backslashreplace').decode()

r"""Finds files by names that another program, or another system, wrote.

Such a name may have backslashes or a drive (`C:\lego\train\r_0.png`), another
Unicode form or case than the file, or no suffix.
"""

import os
import pathlib
import re
import unicodedata
from collections.abc import Iterator, Sequence

_DRIVE = re.compile(r'^[A-Za-z]:(?=[/\\])')


class Finder:
  """Finds files below a folder, which is listed when that is first needed.

  Args:
    folder: where names begin.
    suffixes: that a name may lack, in lower case, in order of preference.
  """

  def __init__(self, folder: pathlib.Path, suffixes: Sequence[str] = ()):
    self._folder = pathlib.Path(os.path.abspath(folder))
    self._given = folder
    self._suffixes = tuple(suffixes)
    self._listings: dict[str, dict[str, list[str]]] = {}

  def find(self, name: str) -> pathlib.Path | None:
    """Returns the file of a name, or None if there is none in the folder.

    A name that exists as it is written comes first, with or without a suffix.
    Otherwise backslashes separate folders, and neither case nor Unicode's form
    matters where one file alone fits. Of an absolute name that is not below the
    folder, the longest end that exists there counts.
    """
    for parts in self._candidates(name):
      path = self._exact(parts) or self._similar(parts)
      if path is not None:
        return path
    return None

  def is_outside(self, name: str) -> bool:
    """Returns whether a name leads out of the folder, by `..` alone."""
    return not any(True for _ in self._candidates(name))

  def _candidates(self, name: str) -> Iterator[tuple[str, ...]]:
    """Yields the parts of names below the folder, the likeliest first."""
    for text in dict.fromkeys((name, name.replace('\\', '/'))):
      plain = _DRIVE.sub('', text)
      if plain.startswith('/'):
        yield from self._ends(plain)
      else:
        inside = self._inside(os.path.join(self._folder, plain))
        if inside:
          yield inside

  def _ends(self, name: str) -> Iterator[tuple[str, ...]]:
    inside = self._inside(name)
    if inside:
      yield inside
      return
    parts = pathlib.PurePosixPath(os.path.normpath(name)).parts[1:]
    for start in range(len(parts)):
      yield parts[start:]

  def _inside(self, path: str) -> tuple[str, ...]:
    """Returns the parts of a path below the folder; none if it is outside."""
    path = os.path.normpath(path)
    for folder in (self._folder, os.path.realpath(self._folder)):
      pure = pathlib.PurePosixPath(path)
      if pure.is_relative_to(folder):
        return pure.relative_to(folder).parts
    return ()

  def _exact(self, parts: tuple[str, ...]) -> pathlib.Path | None:
    path = self._given.joinpath(*parts)
    for suffix in ('', *self._suffixes, *(x.upper() for x in self._suffixes)):
      if os.path.isfile(f'{path}{suffix}'):  # pathlib's raises for some names.
        return pathlib.Path(f'{path}{suffix}')
    return None

  def _similar(self, parts: tuple[str, ...]) -> pathlib.Path | None:
    folder = self._given
    for part in parts[:-1]:
      names = self._entries(folder).get(normalize(part), [])
      name = part if part in names else names[0] if len(names) == 1 else None
      if name is None:
        return None
      folder = folder / name
    last = normalize(parts[-1])
    for suffix in ('', *self._suffixes):
      names = self._entries(folder).get(last + suffix, [])
      if len(names) == 1 and os.path.isfile(folder / names[0]):
        return folder / names[0]
    return None

  def _entries(self, folder: pathlib.Path) -> dict[str, list[str]]:
    """Returns the names in a folder, by their normalized form."""
    key = os.fspath(folder)
    if key not in self._listings:
      listing: dict[str, list[str]] = {}
      try:
        names = sorted(os.listdir(folder))
      except (OSError, ValueError):
        names = []
      for name in names:
        listing.setdefault(normalize(name), []).append(name)
      self._listings[key] = listing
    return self._listings[key]


def normalize(name: str) -> str:
  """Returns a name in one Unicode form (NFC), without difference of case."""
  folded = unicodedata.normalize('NFD', name).casefold()
  return unicodedata.normalize('NFC', folded)

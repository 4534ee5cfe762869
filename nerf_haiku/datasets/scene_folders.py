"""Finds the folder of a scene below the root of a data set."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterable

from nerf_haiku import errors
from nerf_haiku.io import file_names, messages, safe_reading

_MAX_NAMES = 20  # In a message.


def find_scene(
  data_dir: str,
  shape: str,
  *,
  collection: str,
  is_scene: Callable[[pathlib.Path], bool],
  required_file: str,
) -> tuple[pathlib.Path, tuple[str, ...]]:
  """Finds the folder of a scene: `shape`, `collection/shape`, or the root.

  Args:
    data_dir: the root.
    shape: name of the scene.
    collection: folder that the data set is distributed in.
    is_scene: whether a folder holds a scene.
    required_file: a file that every scene has, for messages.

  Returns:
    The folder, and notices for the user about the choice.

  Raises:
    DataError: if there is no such scene; lists those that there are.
  """
  root = check_folder(data_dir)
  for parent in (root, root / collection):
    folder = similar(parent, shape)
    if shape and is_scene(folder):
      return folder, ()
  if is_scene(root):
    name = root.resolve().name
    if not shape or file_names.normalize(name) == file_names.normalize(shape):
      return root, ()
    return root, (
      f'data_dir={messages.shorten(data_dir)} is itself a scene: '
      f'shape={messages.shorten(shape)} is ignored.',
    )
  names = list_scenes((root, root / collection), is_scene)
  raise errors.DataError(
    f'shape={messages.shorten(shape)} is not a scene with {required_file} in '
    f'data_dir={messages.shorten(data_dir)}. Available scenes: {names}.'
  )


def similar(parent: pathlib.Path, name: str) -> pathlib.Path:
  """Returns a path in a folder, whatever case and Unicode form it is in.

  If nothing there has such a name, or several have, it is the path of the name
  as it is given.
  """
  path = parent / name
  if not os.path.lexists(path) and os.path.isdir(parent):
    wanted = file_names.normalize(name)
    found = [x for x in parent.iterdir() if _has_name(x, wanted)]
    if len(found) == 1:
      return found[0]
  return path


def _has_name(path: pathlib.Path, normalized: str) -> bool:
  return file_names.normalize(path.name) == normalized


def list_scenes(
  folders: Iterable[pathlib.Path], is_scene: Callable[[pathlib.Path], bool]
) -> str:
  """Returns the names of the scenes in some folders, for a message."""
  names = set()
  for path in (path for folder in folders for path in folder.glob('*')):
    with contextlib.suppress(OSError):  # A folder that may not be read.
      if is_scene(path):
        names.add(path.name)
  shown, num_more = sorted(names)[:_MAX_NAMES], len(names) - _MAX_NAMES
  if num_more > 0:
    shown[-1] += f' and {num_more} more'
  return ', '.join(shown) or 'none'


def target_outside(
  folder: pathlib.Path, path: pathlib.Path
) -> pathlib.Path | None:
  """Returns what a file is outside its scene, beyond a symbolic link.

  Folders directly in the scene's folder may be links: the user made them.

  Args:
    folder: of the scene.
    path: of a file below it.

  Returns:
    None if the file is in the scene's folder.
  """
  root = os.path.realpath(folder)
  first, *rest = path.relative_to(folder).parts
  roots = (root, os.path.realpath(folder / first)) if rest else (root,)
  target = pathlib.Path(os.path.realpath(path))
  return None if any(target.is_relative_to(root) for root in roots) else target


def check_folder(data_dir: str) -> pathlib.Path:
  """Returns the root of a data set, `~` expanded.

  Raises:
    DataError: if it is not a folder.
  """
  root = safe_reading.expand_user(data_dir)
  if not os.path.isdir(root):  # pathlib's raises for some strings.
    raise errors.DataError(
      f'data_dir={messages.shorten(data_dir)} is not a folder.'
    )
  return root

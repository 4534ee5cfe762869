"""What all readers ask of settings, folders and poses."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeGuard

import numpy as np

from nerf_haiku import errors
from nerf_haiku.datasets import image_files
from nerf_haiku.io import inputs

# Scene units from the origin, or pixels: its square is far from float32's end.
LARGEST = 1e9
_MOST_NAMES = 20  # In a message.
MOST_POSES = 100_000  # Of a path.
_SMALLEST_FOCAL = 1e-3  # Pixels: of an image that sees all of its half space.
_RIGID_TOLERANCE = 1e-3  # Of R R^T = I; files with few digits are off by 1e-4.

Box = Sequence[Sequence[float]] | np.ndarray | None


def settings(
  *,
  near: float | None,
  far: float | None,
  testskip: int = 1,
  down_factor: int = 1,
  num_poses: int = 1,
  num_train: int = 1,
  hold: int = 0,
) -> None:
  """Checks what a reader is asked for; None is left to the data.

  Raises:
    UserError: names the setting, its value and what is allowed.
  """
  for name, value, least in (
    ('testskip', testskip, 0),
    ('down_factor', down_factor, 1),
    ('num_poses', num_poses, 1),
    ('num_train', num_train, 1),
    ('hold', hold, 0),
  ):
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least:
      raise errors.UserError(
        f'{name} must be a whole number, {least} or more, got {value!r}.'
      )
  if num_poses > MOST_POSES:
    raise errors.UserError(
      f'num_poses must be up to {MOST_POSES}, got {num_poses}.'
    )
  for name, bound in (('near', near), ('far', far)):
    if bound is not None and not (is_finite(bound) and bound > 0):
      raise errors.UserError(f'{name} must be a number over 0, got {bound!r}.')
  if near is not None and far is not None:
    bounds(near, far)


def bounds(near: float, far: float) -> None:
  """Checks where rays begin and end.

  Raises:
    UserError: unless 0 < near < far, in the range of `LARGEST`.
  """
  if not (is_finite(near) and is_finite(far) and 0 < near < far):
    raise errors.UserError(
      f'near and far must be 0 < near < far, got near={near!r}, far={far!r}.'
    )
  if far > LARGEST or near < 1 / LARGEST:
    raise errors.UserError(
      f'near and far must be {1 / LARGEST:g} to {LARGEST:g} scene units, got '
      f'near={near!r}, far={far!r}: set near and far.'
    )


def focal(field: str, lengths: np.ndarray) -> None:
  """Checks focal lengths, pixels.

  Raises:
    DataError: one is too small or large for any ray to be cast.
  """
  if not np.all((lengths >= _SMALLEST_FOCAL) & (lengths <= LARGEST)):
    raise errors.DataError(
      f'{field}: is a focal length of {lengths[0]:g} pixels; must be '
      f'{_SMALLEST_FOCAL:g} to {LARGEST:g}.'
    )


def place(field: str, centres: np.ndarray) -> None:
  """Checks where cameras are.

  Raises:
    DataError: one is farther from the origin than `LARGEST`.
  """
  distance = np.max(np.abs(centres))
  if distance > LARGEST:
    raise errors.DataError(
      f'{field} is {distance:.3g} from the origin; must be up to {LARGEST:g} '
      'scene units: move the scene to the origin, or scale it.'
    )


def box(corners: Box) -> np.ndarray | None:
  """The corners as `[2, 3]` float32, or None.

  Raises:
    UserError: they are no corners, or not the lower one first.
  """
  if corners is None:
    return None
  result = matrix(np.asarray(corners, object).tolist())
  if result is None or result.shape != (2, 3):
    raise errors.UserError(
      f'box must be two corners of three numbers, got {corners!r}.'
    )
  result = result.astype(np.float32)
  if not np.all(result[0] < result[1]):
    raise errors.UserError(
      f'box must have its lower corner first, each number less than that of '
      f'the upper corner, got {corners!r}.'
    )
  return result


def find_scene(
  data_dir: str,
  shape: str,
  collection: str,
  is_scene: Callable[[pathlib.Path], bool],
  mark: str,
) -> tuple[pathlib.Path, tuple[str, ...]]:
  """Finds the folder of a scene, `shape` or `collection/shape` or the root.

  Args:
    data_dir: the root.
    shape: name of the scene.
    collection: folder that the data set comes in.
    is_scene: tells a scene's folder.
    mark: the file that a scene's folder has, for messages.

  Returns:
    The folder, and what the user should know of the choice.

  Raises:
    DataError: there is no such scene; says which there are.
  """
  root = existing_folder(data_dir)
  for folder in (root / shape, root / collection / shape):
    if shape and is_scene(folder):
      return folder, ()
  if is_scene(root):
    if root.resolve().name == shape:
      return root, ()
    return root, (
      f'data_dir={short(data_dir)} is a scene itself: '
      f'shape={short(shape)} is not looked for.',
    )
  found = scenes_in((root, root / collection), is_scene)
  raise errors.DataError(
    f'shape={short(shape)} is not a scene with {mark} in '
    f'data_dir={short(data_dir)}. Scenes there: {found}.'
  )


def scenes_in(
  folders: Iterable[pathlib.Path], is_scene: Callable[[pathlib.Path], bool]
) -> str:
  """Names what is seen of the scenes in some folders, for a message."""
  names = set()
  for path in (path for folder in folders for path in folder.glob('*')):
    with contextlib.suppress(OSError):  # A neighbour that may not be read.
      if is_scene(path):
        names.add(path.name)
  shown, more = sorted(names)[:_MOST_NAMES], len(names) - _MOST_NAMES
  if more > 0:
    shown[-1] += f' and {more} more'
  return ', '.join(shown) or 'none'


def existing_folder(data_dir: str) -> pathlib.Path:
  """The root of a data set.

  Raises:
    DataError: if it is no folder.
  """
  root = home(data_dir)
  if not os.path.isdir(root):  # Of any string: pathlib's raises for some.
    raise errors.DataError(f'data_dir={short(data_dir)} is not a folder.')
  return root


def home(path: str | os.PathLike[str]) -> pathlib.Path:
  """The path, with `~` expanded where there is such a user."""
  return pathlib.Path(os.path.expanduser(path))


def read_text(path: pathlib.Path) -> str:
  """The text of a file.

  Raises:
    DataError: there is no such file, it is no text, or too large.
  """
  try:
    return inputs.read_bytes(path, inputs.LARGEST_TEXT).decode('utf-8-sig')
  except errors.DataError:
    raise
  except FileNotFoundError as error:
    raise errors.DataError(f'{path}: there is no such file.') from error
  except (OSError, ValueError) as error:
    raise errors.DataError(f'{path}: can not be read: {error}.') from error


def read_json(path: pathlib.Path) -> Any:
  """What a JSON file holds.

  Raises:
    DataError: there is no such file, or it is no JSON; names the line.
  """
  text = read_text(path)
  try:
    return json.loads(text)
  except json.JSONDecodeError as error:
    raise errors.DataError(
      f'{path}: line {error.lineno} is not JSON: {error.msg}.'
    ) from error
  except (ValueError, RecursionError) as error:
    raise errors.DataError(f'{path}: can not be read: {error}.') from error


def one_size(splits: Sequence[image_files.Files]) -> None:
  """Checks that all images of a scene have one size.

  Raises:
    DataError: names one that has another size than most.
  """
  found: dict[tuple[int, int], list[pathlib.Path]] = {}
  for files in splits:
    for path, header in zip(files.paths, files.headers, strict=True):
      found.setdefault((header.width, header.height), []).append(path)
  if len(found) > 1:
    (most, _), *_, (size, names) = sorted(
      found.items(), key=lambda item: -len(item[1])
    )
    raise errors.DataError(
      f'{names[0]}: is {size[0]}x{size[1]} pixels, most images are '
      f'{most[0]}x{most[1]}: all images of a scene must have one size.'
    )


def pose(field: str, value: Any) -> np.ndarray:
  """A pose of a file, which must be a rigid motion.

  Args:
    field: what stands before the message of an error: file and place.
    value: rows of a `[3, 4]` or `[4, 4]` matrix, as lists.

  Returns:
    `[4, 4]` camera-to-world, float32.

  Raises:
    DataError: it is none; says why.
  """
  result = matrix(value)
  if result is None or result.shape not in ((3, 4), (4, 4)):
    raise errors.DataError(
      f'{field} must be 4 rows of 4 finite numbers, got {short(value)}.'
    )
  last = result[3:]
  result = np.concatenate([result[:3], [[0.0, 0.0, 0.0, 1.0]]])
  if np.any(np.abs(last - result[3]) > _RIGID_TOLERANCE):
    raise errors.DataError(
      f'{field} is not a rigid motion: its last row is {last[0].tolist()}, '
      'must be [0, 0, 0, 1]: are rows and columns exchanged?'
    )
  rotation = result[:3, :3]
  with np.errstate(over='ignore', invalid='ignore'):
    deviation = np.max(np.abs(rotation @ rotation.T - np.eye(3)))
  if not deviation <= _RIGID_TOLERANCE:
    raise errors.DataError(
      f'{field} is not a rigid motion: its columns are not of length 1 and '
      f'perpendicular, R R^T differs from the identity by {deviation:.3g}: '
      'take scale and shear out of the pose.'
    )
  if np.linalg.det(rotation) < 0:
    raise errors.DataError(
      f'{field} is not a rigid motion but mirrors (its determinant is -1): '
      'flip the sign of one column, axes are x right, y up, z back.'
    )
  place(field, result[:3, 3])
  return result.astype(np.float32)


def matrix(value: Any) -> np.ndarray | None:
  """A matrix of finite float32 numbers from lists; None where it is not one."""
  if not isinstance(value, list) or not value:
    return None
  if not all(isinstance(row, list) for row in value):
    return None
  if len({len(row) for row in value}) > 1:
    return None
  if not all(is_finite(x) for row in value for x in row):
    return None
  return np.array(value, np.float64)


def is_finite(value: Any) -> TypeGuard[float]:
  """Whether it is a number that float32 can hold, not a bool."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return False
  return abs(value) <= float(np.finfo(np.float32).max)  # False for NaN.


def short(value: Any) -> str:
  """What stands in a file, cut to fit a message."""
  text = 'nothing' if value is None else repr(value)
  return text if len(text) < 100 else f'{text[:96]} ...'

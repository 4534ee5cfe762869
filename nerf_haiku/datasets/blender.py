"""Scenes in the layout of NeRF-synthetic: `transforms_*.json` and images."""

import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from nerf_haiku import cameras, paths
from nerf_haiku.datasets import base, image_files

_SPLITS = ('train', 'val', 'test')
_EXTENSIONS = (
  '', '.png', '.PNG', '.jpg', '.JPG', '.jpeg', '.JPEG', '.webp', '.tif',
  '.tiff', '.bmp',
)  # fmt: skip
_RIGID_TOLERANCE = 1e-3  # Of R R^T = I; files with few digits are off by 1e-4.


class _Views(NamedTuple):
  """The `N` views of one split that are used, as the json has them."""

  json: pathlib.Path
  angle: float  # camera_angle_x, the horizontal field of view in radians.
  names: tuple[str, ...]  # of the images, relative to the folder of the json.
  poses: np.ndarray  # [N, 4, 4] float32, camera to world.


def load(
  data_dir: str,
  shape: str,
  *,
  testskip: int,
  down_factor: int,
  num_poses: int,
  near: float,
  far: float,
  box: Sequence[Sequence[float]] | np.ndarray | None,
) -> base.Scene:
  """Loads a scene; checks and decodes every image that is used.

  The training images are kept: uint8, or uint16 where they are reduced. Those
  of the other splits are read again when they are used.

  Args:
    data_dir: holds the folder `shape`, or `nerf_synthetic/<shape>`, or is the
      scene itself.
    shape: name of the scene.
    testskip: of validation and test every `testskip`-th view is used; 0 and 1
      are all of them. The training views are all used.
    down_factor: images are reduced by it, by area averaging.
    num_poses: cameras on the circle of the render video; they have the size
      and intrinsics of the first training image.
    near: where rays begin, scene units along the optical axis.
    far: where rays end.
    box: `[2, 3]` corners that rays are clipped to, scene units, or None.

  Raises:
    DataError: a file is missing or can not be used.
    ValueError: a setting is out of its range.
  """
  _check_settings(
    testskip=testskip, down_factor=down_factor, num_poses=num_poses,
    near=near, far=far,
  )  # fmt: skip
  corners = _check_box(box)
  folder, notices = _find_scene(data_dir, shape)
  skip = max(testskip, 1)
  views = [
    _read_views(folder / f'transforms_{split}.json', every)
    for split, every in zip(_SPLITS, (1, skip, skip), strict=True)
  ]
  files = image_files.open_splits(
    _find_images(folder, views, skip), down_factor=down_factor
  )
  notices += image_files.notices(files, folder)
  taken = [_cameras(v, f) for v, f in zip(views, files, strict=True)]
  images, held_out = image_files.load(*files)
  val, test = map(base.Split, held_out, taken[1:])
  path = _path(num_poses, taken[0])
  return base.Scene(
    base.Split(images, taken[0]), val, test, near, far, corners, path, notices
  )


def _check_settings(
  *, testskip: int, down_factor: int, num_poses: int, near: float, far: float
) -> None:
  for name, value, least in (
    ('testskip', testskip, 0),
    ('down_factor', down_factor, 1),
    ('num_poses', num_poses, 1),
  ):
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least:
      raise ValueError(
        f'{name} must be a whole number, {least} or more, got {value!r}.'
      )
  if not (_is_finite(near) and _is_finite(far) and 0 < near < far):
    raise ValueError(
      f'near and far must be 0 < near < far, got near={near!r}, far={far!r}.'
    )


def _check_box(
  box: Sequence[Sequence[float]] | np.ndarray | None,
) -> np.ndarray | None:
  """`[2, 3]` float32, or None."""
  if box is None:
    return None
  corners = _matrix(np.asarray(box, object).tolist())
  if corners is None or corners.shape != (2, 3):
    raise ValueError(f'box must be two corners of three numbers, got {box!r}.')
  if not np.all(corners[0] < corners[1]):
    raise ValueError(
      f'box must have its lower corner first, each number less than that of '
      f'the upper corner, got {box!r}.'
    )
  return corners.astype(np.float32)


def _find_scene(
  data_dir: str, shape: str
) -> tuple[pathlib.Path, tuple[str, ...]]:
  """The folder of a scene, and what the user should know of the choice."""
  root = pathlib.Path(data_dir).expanduser()
  if not root.is_dir():
    raise base.DataError(f'data_dir={data_dir!r} is not a folder.')
  for folder in (root / shape, root / 'nerf_synthetic' / shape):
    if shape and _is_scene(folder):
      return folder, ()
  if _is_scene(root):
    if root.resolve().name == shape:
      return root, ()
    return root, (f'data_dir={data_dir!r} is a scene itself: shape={shape!r} '
                  'is not looked for.',)  # fmt: skip
  parents = (root, root / 'nerf_synthetic')
  scenes = [p for parent in parents for p in parent.glob('*') if _is_scene(p)]
  found = ', '.join(sorted(p.name for p in scenes))
  raise base.DataError(
    f'shape={shape!r} is not a scene with transforms_train.json in '
    f'data_dir={data_dir!r}. Scenes there: {found or "none"}.'
  )


def _is_scene(folder: pathlib.Path) -> bool:
  """Whether any json is there: if others are not, an error will say which."""
  return any((folder / f'transforms_{s}.json').is_file() for s in _SPLITS)


def _read_views(path: pathlib.Path, skip: int) -> _Views:
  """Reads and checks every `skip`-th frame of a json."""
  content = _read_json(path)
  if not isinstance(content, dict):
    raise base.DataError(f'{path}: must hold an object {{...}} with frames.')
  angle = content.get('camera_angle_x')
  if not (_is_finite(angle) and 0 < angle < math.pi):
    raise base.DataError(
      f'{path}: camera_angle_x must be an angle in radians, more than 0 and '
      f'less than pi, got {_short(angle)}.'
    )
  frames = content.get('frames')
  if not isinstance(frames, list):
    raise base.DataError(
      f'{path}: frames must be a list, got {_short(frames)}.'
    )
  if not frames:
    raise base.DataError(f'{path}: there are no frames.')
  used = range(0, len(frames), skip)
  names = tuple(_image_name(path, i, frames[i]) for i in used)
  poses = [
    _pose(f'{path}: frames[{i}].transform_matrix (of {name})', frames[i])
    for i, name in zip(used, names, strict=True)
  ]
  return _Views(path, float(angle), names, np.stack(poses))


def _read_json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text('utf-8-sig'))
  except FileNotFoundError as error:
    raise base.DataError(
      f'{path}: no such file; a scene has transforms_train.json, '
      'transforms_val.json and transforms_test.json.'
    ) from error
  except json.JSONDecodeError as error:
    raise base.DataError(
      f'{path}: line {error.lineno} is not JSON: {error.msg}.'
    ) from error
  except (OSError, ValueError, RecursionError) as error:
    raise base.DataError(f'{path}: can not be read: {error}.') from error


def _image_name(path: pathlib.Path, index: int, frame: Any) -> str:
  """The name of a frame's image, which must be below the scene's folder."""
  if not isinstance(frame, dict):
    raise base.DataError(
      f'{path}: frames[{index}] must be an object, got {_short(frame)}.'
    )
  name = frame.get('file_path')
  field = f'{path}: frames[{index}].file_path'
  if not isinstance(name, str) or not name:
    raise base.DataError(f'{field} must be a name, got {_short(name)}.')
  pure = pathlib.PurePosixPath(name)
  if pure.is_absolute() or '..' in pure.parts:
    raise base.DataError(
      f'{field} must stay in the folder of the scene, got {_short(name)}.'
    )
  return str(pure)


def _pose(field: str, frame: dict[str, Any]) -> np.ndarray:
  """The `[4, 4]` pose of a frame, which must be a rigid motion."""
  value = frame.get('transform_matrix')
  pose = _matrix(value)
  if pose is None or pose.shape not in ((3, 4), (4, 4)):
    raise base.DataError(
      f'{field} must be 4 rows of 4 finite numbers, got {_short(value)}.'
    )
  last = pose[3:]
  pose = np.concatenate([pose[:3], [[0.0, 0.0, 0.0, 1.0]]])
  if np.any(np.abs(last - pose[3]) > _RIGID_TOLERANCE):
    raise base.DataError(
      f'{field} is not a rigid motion: its last row is {last[0].tolist()}, '
      'must be [0, 0, 0, 1]: are rows and columns exchanged?'
    )
  rotation = pose[:3, :3]
  with np.errstate(over='ignore', invalid='ignore'):
    deviation = np.max(np.abs(rotation @ rotation.T - np.eye(3)))
  if not deviation <= _RIGID_TOLERANCE:
    raise base.DataError(
      f'{field} is not a rigid motion: its columns are not of length 1 and '
      f'perpendicular, R R^T differs from the identity by {deviation:.3g}: '
      'take scale and shear out of the pose.'
    )
  if np.linalg.det(rotation) < 0:
    raise base.DataError(
      f'{field} is not a rigid motion but mirrors (its determinant is -1): '
      'flip the sign of one column, axes are x right, y up, z back.'
    )
  return pose.astype(np.float32)


def _matrix(value: Any) -> np.ndarray | None:
  """A matrix of finite float32 numbers from lists; None where it is not one."""
  if not isinstance(value, list) or not value:
    return None
  if not all(isinstance(row, list) for row in value):
    return None
  if len({len(row) for row in value}) > 1:
    return None
  if not all(_is_finite(x) for row in value for x in row):
    return None
  return np.array(value, np.float64)


def _is_finite(value: Any) -> TypeGuard[float]:
  """Whether it is a number that float32 can hold, not a bool."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return False
  return abs(value) <= float(np.finfo(np.float32).max)  # False for NaN.


def _short(value: Any) -> str:
  """What stands in a file, cut to fit a message."""
  text = 'nothing' if value is None else repr(value)
  return text if len(text) < 100 else f'{text[:96]} ...'


def _find_images(
  folder: pathlib.Path, views: Sequence[_Views], testskip: int
) -> list[list[pathlib.Path]]:
  """The image files of each split.

  Raises:
    DataError: images are missing: the first, how many more, and the testskip
      that would read those which are there, if there is one.
  """
  found = [[_find_image(folder, name) for name in v.names] for v in views]
  missing = [
    f'{folder / name}: no such image ({view.json.name} names it; looked for '
    f'{", ".join(_EXTENSIONS[1:])})'
    for view, split in zip(views, found, strict=True)
    for name, path in zip(view.names, split, strict=True)
    if path is None
  ]
  if missing:
    more = f', and {len(missing) - 1} more' if len(missing) > 1 else ''
    hint = _testskip_hint(found, testskip)
    raise base.DataError(f'{missing[0]}{more}.{hint}')
  return [[path for path in split if path] for split in found]


def _find_image(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  for extension in _EXTENSIONS:
    path = f'{folder / name}{extension}'
    if os.path.isfile(path):  # Of any string: pathlib's raises for some.
      return pathlib.Path(path)
  return None


def _testskip_hint(
  found: Sequence[Sequence[pathlib.Path | None]], testskip: int
) -> str:
  """Whether just every so many of the views that are looked for are there."""
  train, *others = [[bool(path) for path in split] for split in found]
  for skip in range(2, max(map(len, others)) + 1):
    every = [[i % skip == 0 for i in range(len(split))] for split in others]
    if all(train) and others == every:
      return (
        f' Of validation and test, every {skip * testskip}th view is there: '
        f'set testskip={skip * testskip}.'
      )
  return ''


def _cameras(views: _Views, files: image_files.Files) -> cameras.Cameras:
  """Cameras of the reduced images; the angle spans the width of each."""
  full = image_files.full_sizes(files)
  focal = 0.5 * full[:, 1] / math.tan(0.5 * views.angle)
  taken = cameras.pinhole(views.poses, full, focal)
  return cameras.scale(taken, image_files.sizes(files))


def _path(num_poses: int, train: cameras.Cameras) -> cameras.Cameras:
  """The circle of the render video, taken with the first training camera."""
  return cameras.Cameras(
    paths.circle(num_poses),
    np.repeat(train.intrinsics[:1], num_poses, axis=0),
    np.repeat(train.sizes[:1], num_poses, axis=0),
  )

"""Scenes in the layout of NeRF-synthetic: `transforms_*.json` and images."""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nerf_haiku import camera_paths, cameras, errors, scenes
from nerf_haiku.datasets import checks, image_files
from nerf_haiku.io import inputs

_SPLITS = ('train', 'val', 'test')
_EXTENSIONS = (
  '',
  '.png',
  '.PNG',
  '.jpg',
  '.JPG',
  '.jpeg',
  '.JPEG',
  '.webp',
  '.tif',
  '.tiff',
  '.bmp',
)
_LONGEST_PATH = 1000  # Characters, in a message.


class _Views(NamedTuple):
  """The `N` views of one split that are used, as the json has them."""

  json: pathlib.Path
  angle: float  # camera_angle_x, the horizontal field of view in radians.
  names: tuple[str, ...]  # of the images, relative to the folder of the json.
  poses: np.ndarray  # [N, 4, 4] float32, camera to world.


@inputs.named_errors()
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
  follow_links: bool = False,
) -> scenes.Scene:
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
    follow_links: whether an image may be a symbolic link out of the scene, or
      lie beyond one. The scene itself, and a folder in it, may be links anyway.

  Raises:
    DataError: a file is missing or can not be used.
    ValueError: a setting is out of its range.
  """
  checks.settings(
    testskip=testskip,
    down_factor=down_factor,
    num_poses=num_poses,
    near=near,
    far=far,
  )
  corners = checks.box(box)
  folder, notices = checks.find_scene(
    data_dir, shape, 'nerf_synthetic', _is_scene, 'transforms_train.json'
  )
  skip = max(testskip, 1)
  views = [
    _read_views(folder / f'transforms_{split}.json', every)
    for split, every in zip(_SPLITS, (1, skip, skip), strict=True)
  ]
  images_found = _find_images(folder, views, skip)
  if not follow_links:
    _check_inside(folder, views, images_found)
  _check_twice(views, images_found)
  files = image_files.open_splits(images_found, down_factor=down_factor)
  notices += image_files.notices(files, folder)
  taken = [_cameras(v, f) for v, f in zip(views, files, strict=True)]
  images, held_out = image_files.load(*files)
  val, test = map(scenes.Split, held_out, taken[1:])
  path = cameras.with_poses(camera_paths.circle(num_poses), taken[0])
  return scenes.Scene(
    scenes.Split(images, taken[0]), val, test, near, far, corners, path, notices
  )


def _is_scene(folder: pathlib.Path) -> bool:
  """Whether any json is there: if others are not, an error will say which."""
  return any((folder / f'transforms_{s}.json').is_file() for s in _SPLITS)


def _read_views(path: pathlib.Path, skip: int) -> _Views:
  """Reads and checks every `skip`-th frame of a json."""
  content = _read_json(path)
  if not isinstance(content, dict):
    raise errors.DataError(f'{path}: must hold an object {{...}} with frames.')
  angle = content.get('camera_angle_x')
  if not (checks.is_finite(angle) and 0 < angle < math.pi):
    raise errors.DataError(
      f'{path}: camera_angle_x must be an angle in radians, more than 0 and '
      f'less than pi, got {checks.short(angle)}.'
    )
  frames = content.get('frames')
  if not isinstance(frames, list):
    raise errors.DataError(
      f'{path}: frames must be a list, got {checks.short(frames)}.'
    )
  if not frames:
    raise errors.DataError(f'{path}: there are no frames.')
  used = range(0, len(frames), skip)
  names = tuple(_image_name(path, i, frames[i]) for i in used)
  poses = [
    checks.pose(
      f'{path}: frames[{i}].transform_matrix (of {name})',
      frames[i].get('transform_matrix'),
    )
    for i, name in zip(used, names, strict=True)
  ]
  return _Views(path, float(angle), names, np.stack(poses))


def _read_json(path: pathlib.Path) -> Any:
  try:
    return checks.read_json(path)
  except errors.DataError as error:
    if not isinstance(error.__cause__, FileNotFoundError):
      raise
    raise errors.DataError(
      f'{path}: no such file; a scene has transforms_train.json, '
      'transforms_val.json and transforms_test.json.'
    ) from error


def _image_name(path: pathlib.Path, index: int, frame: Any) -> str:
  """The name of a frame's image, which must be below the scene's folder."""
  if not isinstance(frame, dict):
    raise errors.DataError(
      f'{path}: frames[{index}] must be an object, got {checks.short(frame)}.'
    )
  name = frame.get('file_path')
  field = f'{path}: frames[{index}].file_path'
  if not isinstance(name, str) or not name:
    raise errors.DataError(f'{field} must be a name, got {checks.short(name)}.')
  pure = pathlib.PurePosixPath(name)
  if pure.is_absolute() or '..' in pure.parts:
    raise errors.DataError(
      f'{field} must stay in the folder of the scene, got {checks.short(name)}.'
    )
  return str(pure)


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
    f'{str(folder / name)[:_LONGEST_PATH]}: no such image ({view.json.name} '
    f'names it; looked for {", ".join(_EXTENSIONS[1:])})'
    for view, split in zip(views, found, strict=True)
    for name, path in zip(view.names, split, strict=True)
    if path is None
  ]
  if missing:
    more = f', and {len(missing) - 1} more' if len(missing) > 1 else ''
    hint = _testskip_hint(found, testskip)
    raise errors.DataError(f'{missing[0]}{more}.{hint}')
  return [[path for path in split if path] for split in found]


def _check_inside(
  folder: pathlib.Path,
  views: Sequence[_Views],
  found: Sequence[Sequence[pathlib.Path]],
) -> None:
  """Sees that no image lies outside of the scene, beyond a symbolic link.

  A folder that stands in the scene's is the user's word, and may be a link.

  Raises:
    DataError: one does.
  """
  root = os.path.realpath(folder)
  for view, paths_ in zip(views, found, strict=True):
    for name, path in zip(view.names, paths_, strict=True):
      first, *rest = pathlib.PurePosixPath(name).parts
      homes = (root, os.path.realpath(folder / first)) if rest else (root,)
      real = pathlib.Path(os.path.realpath(path))
      if not any(real.is_relative_to(home) for home in homes):
        raise errors.DataError(
          f'{path}: is a link out of the scene, to {real} ({view.json.name} '
          'names it): set blender.follow_links=True if this is meant.'
        )


def _check_twice(
  views: Sequence[_Views], found: Sequence[Sequence[pathlib.Path]]
) -> None:
  """Sees that no image has two poses, of which one must be wrong.

  Raises:
    DataError: one has.
  """
  first: dict[str, tuple[str, np.ndarray]] = {}
  for view, paths_ in zip(views, found, strict=True):
    for path, pose in zip(paths_, view.poses, strict=True):
      name, other = first.setdefault(
        os.path.realpath(path), (view.json.name, pose)
      )
      if not np.allclose(pose, other, atol=1e-4):
        raise errors.DataError(
          f'{view.json}: {path} has two poses, another one in {name}: leave '
          'one out.'
        )


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
  checks.focal(f'{views.json}: camera_angle_x={views.angle:g}', focal)
  taken = cameras.pinhole(views.poses, full, focal)
  return cameras.scale(taken, image_files.sizes(files))

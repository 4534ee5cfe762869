"""Reads scenes in the layout of NeRF-synthetic: `transforms_*.json` files."""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nerf_haiku import camera_checks, camera_paths, cameras, errors, scenes
from nerf_haiku.datasets import checks, image_files, scene_folders
from nerf_haiku.io import messages, safe_reading

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


class _Frames(NamedTuple):
  """The `N` used frames of one split, from its JSON file."""

  json: pathlib.Path
  angle: float  # camera_angle_x, the horizontal field of view in radians.
  names: tuple[str, ...]  # of the images, relative to the scene's folder.
  poses: np.ndarray  # [N, 4, 4] float32, camera-to-world.


@safe_reading.wrap_os_errors()
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

  The training images are kept in memory: uint8, or uint16 if they are
  downscaled. Those of the other splits are read whenever they are accessed.

  Args:
    data_dir: holds the folder `shape`, or `nerf_synthetic/<shape>`, or is the
      scene itself.
    shape: name of the scene.
    testskip: every `testskip`-th view of validation and test is used; 0 and 1
      mean all. Training views are all used.
    down_factor: factor that images are downscaled by, by area averaging.
    num_poses: cameras on the circle of the rendered video; they have the size
      and intrinsics of the first training image.
    near: where rays begin, scene units along the optical axis.
    far: where rays end.
    box: `[2, 3]` corners that rays are clipped to, scene units, or None.
    follow_links: whether an image may be a symbolic link out of the scene, or
      be beyond one. The scene, and a folder in it, may always be links.

  Returns:
    The scene; images of three or four channels.

  Raises:
    DataError: if a file is missing or cannot be used.
    UserError: if a setting is out of range.
  """
  checks.check_settings(
    testskip=testskip,
    down_factor=down_factor,
    num_poses=num_poses,
    near=near,
    far=far,
  )
  corners = checks.parse_box(box)
  folder, notices = scene_folders.find_scene(
    data_dir,
    shape,
    collection='nerf_synthetic',
    is_scene=_is_scene,
    required_file='transforms_train.json',
  )
  stride = max(testskip, 1)
  frames = [
    _read_frames(folder / f'transforms_{split}.json', every)
    for split, every in zip(_SPLITS, (1, stride, stride), strict=True)
  ]
  paths = _find_images(folder, frames, stride)
  if not follow_links:
    _check_inside(folder, frames, paths)
  _check_one_pose_each(frames, paths)
  files = image_files.open_splits(paths, down_factor=down_factor)
  split_cameras = [_cameras(*x) for x in zip(frames, files, strict=True)]
  train, (val, test) = image_files.load_splits(files, split_cameras)
  circle = camera_paths.circle(num_poses)
  return scenes.Scene(
    train=train,
    val=val,
    test=test,
    near=near,
    far=far,
    box=corners,
    path=cameras.with_poses(circle, split_cameras[0]),
    notices=notices + image_files.notices(files, folder),
  )


def _is_scene(folder: pathlib.Path) -> bool:
  """Returns whether any JSON file exists; missing ones are reported later."""
  return any((folder / f'transforms_{s}.json').is_file() for s in _SPLITS)


def _read_frames(path: pathlib.Path, stride: int) -> _Frames:
  """Reads and checks every `stride`-th frame of a JSON file."""
  content = _read_json(path)
  if not isinstance(content, dict):
    raise errors.DataError(f'{path}: must hold an object {{...}} with frames.')
  angle = content.get('camera_angle_x')
  if not (camera_checks.is_finite(angle) and 0 < angle < math.pi):
    raise errors.DataError(
      f'{path}: camera_angle_x must be an angle in radians, more than 0 and '
      f'less than pi, got {messages.shorten(angle)}.'
    )
  frames = content.get('frames')
  if not isinstance(frames, list):
    raise errors.DataError(
      f'{path}: frames must be a list, got {messages.shorten(frames)}.'
    )
  if not frames:
    raise errors.DataError(f'{path}: there are no frames.')
  used = range(0, len(frames), stride)
  names = tuple(_image_name(path, i, frames[i]) for i in used)
  poses = [
    camera_checks.parse_pose(
      f'{path}: frames[{i}].transform_matrix (of {name})',
      frames[i].get('transform_matrix'),
    )
    for i, name in zip(used, names, strict=True)
  ]
  return _Frames(
    json=path, angle=float(angle), names=names, poses=np.stack(poses)
  )


def _read_json(path: pathlib.Path) -> Any:
  try:
    return safe_reading.read_json(path)
  except errors.DataError as error:
    if not isinstance(error.__cause__, FileNotFoundError):
      raise
    raise errors.DataError(
      f'{path}: no such file; a scene has transforms_train.json, '
      'transforms_val.json and transforms_test.json.'
    ) from error


def _image_name(path: pathlib.Path, index: int, frame: Any) -> str:
  """Returns the name of a frame's image, below the scene's folder."""
  if not isinstance(frame, dict):
    raise errors.DataError(
      f'{path}: frames[{index}] must be an object, got '
      f'{messages.shorten(frame)}.'
    )
  name = frame.get('file_path')
  field = f'{path}: frames[{index}].file_path'
  if not isinstance(name, str) or not name:
    raise errors.DataError(
      f'{field} must be a name, got {messages.shorten(name)}.'
    )
  pure = pathlib.PurePosixPath(name)
  if pure.is_absolute() or '..' in pure.parts:
    raise errors.DataError(
      f'{field} must be inside the folder of the scene, got '
      f'{messages.shorten(name)}.'
    )
  return str(pure)


def _find_images(
  folder: pathlib.Path, frames: Sequence[_Frames], stride: int
) -> list[list[pathlib.Path]]:
  """Finds the image files of each split.

  Raises:
    DataError: if images are missing; names the first, counts the others, and
      suggests a testskip that uses only existing ones, if there is one.
  """
  found = [[_find_image(folder, name) for name in x.names] for x in frames]
  missing = [
    f'{str(folder / name)[: safe_reading.MAX_NAME_LENGTH]}: no such image '
    f'({split.json.name} names it; looked for {", ".join(_EXTENSIONS[1:])})'
    for split, paths in zip(frames, found, strict=True)
    for name, path in zip(split.names, paths, strict=True)
    if path is None
  ]
  if missing:
    more = f', and {len(missing) - 1} more' if len(missing) > 1 else ''
    hint = _testskip_hint(found, stride)
    raise errors.DataError(f'{missing[0]}{more}.{hint}')
  return [[path for path in paths if path] for paths in found]


def _check_inside(
  folder: pathlib.Path,
  frames: Sequence[_Frames],
  split_paths: Sequence[Sequence[pathlib.Path]],
) -> None:
  """Checks that no image is outside the scene, beyond a symbolic link.

  Folders directly in the scene's folder may be links: the user made them.

  Raises:
    DataError: names an image outside.
  """
  root = os.path.realpath(folder)
  for split, paths in zip(frames, split_paths, strict=True):
    for name, path in zip(split.names, paths, strict=True):
      first, *rest = pathlib.PurePosixPath(name).parts
      roots = (root, os.path.realpath(folder / first)) if rest else (root,)
      target = pathlib.Path(os.path.realpath(path))
      if not any(target.is_relative_to(root) for root in roots):
        raise errors.DataError(
          f'{path}: is a link out of the scene, to {target} '
          f'({split.json.name} names it): set blender.follow_links=True if '
          'this is intended.'
        )


def _check_one_pose_each(
  frames: Sequence[_Frames], split_paths: Sequence[Sequence[pathlib.Path]]
) -> None:
  """Checks that no image has two different poses.

  Raises:
    DataError: names an image that does.
  """
  first: dict[str, tuple[str, np.ndarray]] = {}
  for split, paths in zip(frames, split_paths, strict=True):
    for path, pose in zip(paths, split.poses, strict=True):
      json_name, first_pose = first.setdefault(
        os.path.realpath(path), (split.json.name, pose)
      )
      if not np.allclose(pose, first_pose, atol=1e-4):
        raise errors.DataError(
          f'{split.json}: {path} has two poses, the other one in {json_name}: '
          'remove one.'
        )


def _find_image(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  for extension in _EXTENSIONS:
    path = f'{folder / name}{extension}'
    if os.path.isfile(path):  # pathlib's raises for some strings.
      return pathlib.Path(path)
  return None


def _testskip_hint(
  found: Sequence[Sequence[pathlib.Path | None]], stride: int
) -> str:
  """Suggests a testskip if exactly every so many held-out views exist."""
  train, *others = [[bool(path) for path in split] for split in found]
  for factor in range(2, max(map(len, others)) + 1):
    every = [[i % factor == 0 for i in range(len(x))] for x in others]
    if all(train) and others == every:
      return (
        f' Of validation and test, every {factor * stride}th view exists: '
        f'set testskip={factor * stride}.'
      )
  return ''


def _cameras(frames: _Frames, files: image_files.Files) -> cameras.Cameras:
  """Returns cameras of the downscaled images; the angle spans each width."""
  full = image_files.full_sizes(files)
  focal = 0.5 * full[:, 1] / math.tan(0.5 * frames.angle)
  camera_checks.check_focal_lengths(
    f'{frames.json}: camera_angle_x={frames.angle:g}', focal
  )
  cams = cameras.pinhole(frames.poses, full, focal)
  return cameras.scale(cams, image_files.sizes(files))

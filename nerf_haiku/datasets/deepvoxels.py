"""Reads scenes in the layout of DeepVoxels: a text file for each pose.

`{train,validation,test}/SCENE` each hold `rgb/*.png`, `pose/*.txt` and
`intrinsics.txt` (Sitzmann et al. 2019). The images are on white.
"""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nerf_haiku import camera_checks, cameras, errors, scenes
from nerf_haiku.datasets import checks, image_files, scene_folders
from nerf_haiku.datasets import splits as splits_lib
from nerf_haiku.io import messages, safe_reading

_SPLITS = ('train', 'validation', 'test')
_INTRINSICS = 'intrinsics.txt'
_RADIUS = 1.0  # Of the ball around the origin that holds the object.
# From the files' axes (x right, y down, z forward) to OpenGL's.
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


class _Lens(NamedTuple):
  """The contents of a split's `intrinsics.txt`, in pixels."""

  focal: float  # for images of this height and width.
  cx: float
  cy: float
  height: float
  width: float
  world_to_camera: bool  # whether poses are the inverse of camera-to-world.
  unused: bool  # whether center, near plane or scale are not the usual ones.


class _Views(NamedTuple):
  """`N` views of one split."""

  lens: _Lens
  poses: np.ndarray  # [N, 4, 4] float32, camera-to-world, OpenGL's axes.
  images: tuple[pathlib.Path, ...]

  def source(self) -> bytes:
    """Returns what the cameras are made from, for a digest."""
    return self.poses.tobytes() + repr(tuple(self.lens)).encode()

  def take(self, index: Sequence[int]) -> '_Views':
    """Returns some of the views."""
    images = tuple(self.images[i] for i in index)
    return self._replace(poses=self.poses[list(index)], images=images)


@safe_reading.wrap_os_errors()
def load(
  data_dir: str,
  shape: str,
  *,
  testskip: int,
  down_factor: int,
  near: float | None = None,
  far: float | None = None,
  box: checks.Box = None,
  holdout: int = 8,
) -> scenes.Scene:
  """Loads a scene; checks and decodes every image that is used.

  The rendered video follows the test cameras. Poses and images are paired in
  the order of their names. Where there are no validation views the test views
  replace them, and the other way round; without both they are every
  `holdout`-th training view.

  Args:
    data_dir: holds the folders `train`, `validation` and `test`, or a folder
      `deepvoxels` with them.
    shape: name of the scene, a folder in each of these.
    testskip: every `testskip`-th view of validation and test is used; 0 and 1
      mean all. Training views are all used.
    down_factor: factor that images are downscaled by, by area averaging.
    near: where rays begin, scene units along the optical axis. None: 1 less
      than the cameras' mean distance from the origin.
    far: where rays end. None: 1 more than that distance.
    box: `[2, 3]` corners that rays are clipped to, scene units, or None.
    holdout: see above; 2 or more. `testskip` does not apply to such views.

  Returns:
    The scene.

  Raises:
    DataError: if a file is missing or cannot be used.
    UserError: if a setting is out of range.
  """
  checks.check_settings(
    testskip=testskip,
    down_factor=down_factor,
    near=near,
    far=far,
    holdout=holdout,
  )
  corners = checks.parse_box(box)
  root = _find_root(data_dir, shape)
  splits = _read_splits(root, shape, max(testskip, 1), holdout)
  views = [splits.train, splits.val, splits.test]
  if splits.val is splits.test:
    del views[1]
  files = image_files.open_splits(
    [split.images for split in views], down_factor=down_factor
  )
  image_files.check_equal_sizes(files)
  split_cameras = [_cameras(*parts) for parts in zip(views, files, strict=True)]
  poses = np.concatenate([split.poses for split in views])
  near, far = _find_bounds(root / _SPLITS[0] / shape, poses, near, far)
  train, others = image_files.load_splits(
    files, split_cameras, [split.source() for split in views]
  )
  return scenes.Scene(
    train=train,
    val=others[0],
    test=others[-1],
    near=near,
    far=far,
    box=corners,
    path=others[-1].cameras,
    notices=(
      *splits.notices,
      *_describe_unused(views),
      *image_files.notices(files, root),
    ),
  )


def _read_splits(
  root: pathlib.Path, shape: str, stride: int, holdout: int
) -> splits_lib.Splits[_Views]:
  """Reads the views of all splits, and makes those that are missing."""
  folders = [root / split / shape for split in _SPLITS]
  train = _read_views(folders[0], folders[0], 1)
  val, test = (
    _read_held_out(folder, folders[0], stride) for folder in folders[1:]
  )
  return splits_lib.complete(
    train, val, test, count=len(train.images), holdout=holdout, take=_Views.take
  )


def _read_held_out(
  folder: pathlib.Path, train: pathlib.Path, stride: int
) -> splits_lib.HeldOut[_Views]:
  """Reads validation or test views; a folder without images is no split."""
  name = f'{folder.parent.name}/{folder.name}'
  if not os.path.lexists(folder):
    return splits_lib.HeldOut(None, f'there is no folder {name}')
  images = folder / 'rgb'
  if not os.path.lexists(images) or not _find_files(images, '.png'):
    return splits_lib.HeldOut(None, f'{name} has no images (rgb/*.png)')
  return splits_lib.HeldOut(_read_views(folder, train, stride))


def _read_views(
  folder: pathlib.Path, train: pathlib.Path, stride: int
) -> _Views:
  """Reads every `stride`-th view of a split."""
  pairs = _pair_files(folder, stride)
  lens = _read_lens(_find_intrinsics(folder, train))
  poses = [_read_pose(text, lens.world_to_camera) for text, _ in pairs]
  return _Views(lens, np.stack(poses), tuple(image for _, image in pairs))


def _describe_unused(views: Sequence[_Views]) -> tuple[str, ...]:
  if not any(split.lens.unused for split in views):
    return ()
  return (
    f'Lines 2 to 4 of {_INTRINSICS} (center, near plane and scale) are not '
    'used: near and far are measured from the origin, in the units of the '
    'poses.',
  )


def _find_root(data_dir: str, shape: str) -> pathlib.Path:
  root = scene_folders.check_folder(data_dir)
  roots = root, root / 'deepvoxels'
  # A path out of a split's folder would make all splits one folder.
  name = pathlib.PurePath(shape)
  is_below = shape and not name.is_absolute() and '..' not in name.parts
  for folder in roots:
    if is_below and (folder / _SPLITS[0] / shape).is_dir():
      return folder
  names = scene_folders.list_scenes(
    [folder / _SPLITS[0] for folder in roots], pathlib.Path.is_dir
  )
  raise errors.DataError(
    f'shape={messages.shorten(shape)} is not a folder of {_SPLITS[0]} in '
    f'data_dir={messages.shorten(data_dir)}. Available scenes: {names}.'
  )


def _find_bounds(
  folder: pathlib.Path, poses: np.ndarray, near: float | None, far: float | None
) -> tuple[float, float]:
  """Returns near and far, by default from the cameras' mean distance.

  Raises:
    DataError: if the cameras are too near to the origin for the defaults.
    UserError: if the bounds are out of range.
  """
  distance = float(np.mean(np.linalg.norm(poses[:, :3, 3], axis=-1)))
  near, far = near or distance - _RADIUS, far or distance + _RADIUS
  if not 0 < near < far:
    raise errors.DataError(
      f'{folder}: the mean distance of the cameras from the origin is '
      f'{distance:.3g}, so near and far are {near:.3g} and {far:.3g}, but must '
      'be 0 < near < far. Set near and far.'
    )
  checks.check_bounds(near, far)
  return near, far


def _pair_files(
  folder: pathlib.Path, stride: int
) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """Returns every `stride`-th pair of pose and image, in the order of names."""
  texts = _list_files(folder / 'pose', '.txt')
  images = _list_files(folder / 'rgb', '.png')
  stems = [{path.stem for path in paths} for paths in (texts, images)]
  # If no name is shared, the two kinds of names are paired in order.
  differ = stems[0] & stems[1] and stems[0] != stems[1]
  if len(texts) != len(images) or differ:
    unpaired = sorted(
      [path.name for path in texts if path.stem not in stems[1]]
      + [path.name for path in images if path.stem not in stems[0]]
    )
    shown = ', '.join(unpaired[:5]) + (' ...' if len(unpaired) > 5 else '')
    raise errors.DataError(
      f'{folder}: holds {len(texts)} poses (pose/*.txt) and {len(images)} '
      f'images (rgb/*.png); unpaired: {shown or "none by name"}.'
    )
  if not stems[0] & stems[1]:
    texts = sorted(texts, key=_natural_key)
    images = sorted(images, key=_natural_key)
  return list(zip(texts, images, strict=True))[::stride]


def _natural_key(path: pathlib.Path) -> list[tuple[int, str]]:
  """Returns a key that sorts numbers in names by value: 9 before 10."""
  parts = re.findall(r'(\d+)|(\D+)', path.stem)
  return [(int(number or -1), text) for number, text in parts]


def _list_files(folder: pathlib.Path, suffix: str) -> list[pathlib.Path]:
  if not folder.is_dir():
    raise errors.DataError(f'{folder}: no such folder.')
  found = _find_files(folder, suffix)
  if not found:
    raise errors.DataError(f'{folder}: has no {suffix} files.')
  return found


def _find_files(folder: pathlib.Path, suffix: str) -> list[pathlib.Path]:
  return sorted(
    path
    for path in folder.iterdir()
    if path.suffix.lower() == suffix and not path.name.startswith('.')
  )


def _read_pose(path: pathlib.Path, world_to_camera: bool) -> np.ndarray:
  """Reads a `[4, 4]` pose, and converts it to OpenGL's axes."""
  numbers = _parse_numbers(path, safe_reading.read_text(path).split())
  if len(numbers) != 16:
    raise errors.DataError(
      f'{path}: must hold 16 numbers, a matrix row by row, got {len(numbers)}.'
    )
  rows = np.reshape(numbers, (4, 4)).tolist()
  pose: np.ndarray = camera_checks.parse_pose(f'{path}: the pose', rows)
  pose = pose.astype(np.float32)
  if world_to_camera:
    pose = np.linalg.inv(pose.astype(np.float64))
  return (pose @ _FLIP).astype(np.float32)


def _find_intrinsics(folder: pathlib.Path, train: pathlib.Path) -> pathlib.Path:
  """Returns the file of a split, or else that of the training split.

  The reference implementation always reads that of the training split.
  """
  own = folder / _INTRINSICS
  return own if own.exists() else train / _INTRINSICS


def _read_lens(path: pathlib.Path) -> _Lens:
  """Reads lines 1 and 5: focal length, cx and cy; height and width.

  Between them are the scene's center, near plane and scale, which the
  reference implementation reads and does not use. A sixth line of 1 says that
  poses are world-to-camera.
  """
  lines = [line.split() for line in safe_reading.read_text(path).splitlines()]
  for i, min_words in enumerate((3, 3, 1, 1, 2)):
    num_words = len(lines[i]) if i < len(lines) else 0
    if num_words < min_words:
      raise errors.DataError(
        f'{path}: line {i + 1} must hold at least {min_words} numbers, got '
        f'{num_words}.'
      )
  focal, cx, cy, height, width = _parse_numbers(
    path, [*lines[0][:3], *lines[4][:2]]
  )
  if min(focal, height, width) <= 0:
    raise errors.DataError(
      f'{path}: focal length, height and width must be over 0, got {focal:g}, '
      f'{height:g} and {width:g}.'
    )
  camera_checks.check_focal_lengths(f'{path}: focal length', np.array([focal]))
  largest = max(abs(cx), abs(cy), height, width)
  if largest > camera_checks.MAX_MAGNITUDE or min(height, width) < 1:
    raise errors.DataError(
      f'{path}: cx, cy, height and width must be at most '
      f'{camera_checks.MAX_MAGNITUDE:g} pixels, the last two at least 1, got '
      f'{cx:g}, {cy:g}, {height:g} and {width:g}.'
    )
  flag = lines[5] if len(lines) > 5 else []
  if flag not in ([], ['0'], ['1']):
    raise errors.DataError(
      f'{path}: line 6 must be 1 if poses are world-to-camera, or else 0, got '
      f'{messages.shorten(" ".join(flag))}.'
    )
  middle = _parse_numbers(path, [*lines[1][:3], lines[2][0], lines[3][0]])
  return _Lens(
    focal=focal,
    cx=cx,
    cy=cy,
    height=height,
    width=width,
    world_to_camera=flag == ['1'],
    unused=middle != [0, 0, 0, 1, 1],
  )


def _parse_numbers(path: pathlib.Path, words: list[str]) -> list[float]:
  numbers = []
  for word in words:
    try:
      numbers.append(float(word))
    except ValueError:
      raise errors.DataError(
        f'{path}: holds {messages.shorten(word)}, which is not a number.'
      ) from None
    if not camera_checks.is_finite(numbers[-1]):
      raise errors.DataError(
        f'{path}: holds {word[:80]}, which is not a finite number.'
      )
  return numbers


def _cameras(views: _Views, files: image_files.Files) -> cameras.Cameras:
  """Returns cameras of the downscaled images.

  Images may have been resized to squares: as in the reference implementation,
  the focal length is scaled by the height alone.
  """
  lens = views.lens
  full = image_files.full_sizes(files)
  cams = cameras.pinhole(
    views.poses, full, lens.focal * full[:, 0] / lens.height
  )
  intrinsics = np.array(cams.intrinsics)
  intrinsics[:, 2] = lens.cx * full[:, 1] / lens.width
  intrinsics[:, 3] = lens.cy * full[:, 0] / lens.height
  camera_checks.check_focal_lengths(
    f'{files.paths[0]}: by intrinsics.txt, this', intrinsics[:, 0]
  )
  cams = cams._replace(intrinsics=intrinsics)
  return cameras.scale(cams, image_files.sizes(files))

"""Reads scenes in the layout of DeepVoxels: a text file for each pose.

`{train,validation,test}/SCENE` each hold `rgb/*.png`, `pose/*.txt` and
`intrinsics.txt` (Sitzmann et al. 2019). The images are on white.
"""

import pathlib
import re
from typing import NamedTuple

import numpy as np

from nerf_haiku import camera_checks, cameras, errors, scenes
from nerf_haiku.datasets import checks, image_files, scene_folders
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
) -> scenes.Scene:
  """Loads a scene; checks and decodes every image that is used.

  The rendered video follows the test cameras. Poses and images are paired in
  the order of their names.

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

  Returns:
    The scene.

  Raises:
    DataError: if a file is missing or cannot be used.
    UserError: if a setting is out of range.
  """
  checks.check_settings(
    testskip=testskip, down_factor=down_factor, near=near, far=far
  )
  corners = checks.parse_box(box)
  root = _find_root(data_dir, shape)
  folders = [root / split / shape for split in _SPLITS]
  stride = max(testskip, 1)
  pairs = [
    _pair_files(folder, every)
    for folder, every in zip(folders, (1, stride, stride), strict=True)
  ]
  poses = [np.stack([_read_pose(text) for text, _ in split]) for split in pairs]
  lenses = [
    _read_lens(_find_intrinsics(folder, folders[0])) for folder in folders
  ]
  files = image_files.open_splits(
    [[image for _, image in split] for split in pairs], down_factor=down_factor
  )
  image_files.check_equal_sizes(files)
  split_cameras = [
    _cameras(*parts) for parts in zip(poses, lenses, files, strict=True)
  ]
  near, far = _find_bounds(folders[0], np.concatenate(poses), near, far)
  train, (val, test) = image_files.load_splits(files, split_cameras)
  return scenes.Scene(
    train=train,
    val=val,
    test=test,
    near=near,
    far=far,
    box=corners,
    path=test.cameras,
    notices=image_files.notices(files, root),
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
  found = sorted(
    path
    for path in folder.iterdir()
    if path.suffix.lower() == suffix and not path.name.startswith('.')
  )
  if not found:
    raise errors.DataError(f'{folder}: has no {suffix} files.')
  return found


def _read_pose(path: pathlib.Path) -> np.ndarray:
  """Reads a `[4, 4]` pose, and converts it to OpenGL's axes."""
  numbers = _parse_numbers(path, safe_reading.read_text(path).split())
  if len(numbers) != 16:
    raise errors.DataError(
      f'{path}: must hold 16 numbers, a matrix row by row, got {len(numbers)}.'
    )
  rows = np.reshape(numbers, (4, 4)).tolist()
  pose = camera_checks.parse_pose(f'{path}: the pose', rows)
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
  reference implementation reads and does not use.
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
  return _Lens(focal=focal, cx=cx, cy=cy, height=height, width=width)


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


def _cameras(
  poses: np.ndarray, lens: _Lens, files: image_files.Files
) -> cameras.Cameras:
  """Returns cameras of the downscaled images.

  Images may have been resized to squares: as in the reference implementation,
  the focal length is scaled by the height alone.
  """
  full = image_files.full_sizes(files)
  cams = cameras.pinhole(poses, full, lens.focal * full[:, 0] / lens.height)
  intrinsics = np.array(cams.intrinsics)
  intrinsics[:, 2] = lens.cx * full[:, 1] / lens.width
  intrinsics[:, 3] = lens.cy * full[:, 0] / lens.height
  camera_checks.check_focal_lengths(
    f'{files.paths[0]}: by intrinsics.txt, this', intrinsics[:, 0]
  )
  cams = cams._replace(intrinsics=intrinsics)
  return cameras.scale(cams, image_files.sizes(files))

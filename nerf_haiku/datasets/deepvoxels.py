"""Scenes in the layout of DeepVoxels: a text file for each pose.

`{train,validation,test}/SCENE` each hold `rgb/*.png`, `pose/*.txt` and
`intrinsics.txt` (Sitzmann et al. 2019). The images are on white.
"""

import pathlib
import re
from typing import NamedTuple

import numpy as np

from nerf_haiku import cameras, errors, scenes
from nerf_haiku.datasets import checks, image_files
from nerf_haiku.io import inputs

_SPLITS = ('train', 'validation', 'test')
_INTRINSICS = 'intrinsics.txt'
# The object is within 1 of the origin.
_RADIUS = 1.0
# From the files' axes (x right, y down, z forward) to OpenGL's.
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


class _Lens(NamedTuple):
  """What `intrinsics.txt` says of the cameras of a split."""

  focal: float  # pixels of an image of this height and width.
  cx: float
  cy: float
  height: float
  width: float


@inputs.named_errors()
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

  The render path is that of the test cameras. Poses and images belong together
  in the order of their names.

  Args:
    data_dir: holds the folders `train`, `validation` and `test`, or a folder
      `deepvoxels` with them.
    shape: name of the scene, a folder in each of these.
    testskip: of validation and test every `testskip`-th view is used; 0 and 1
      are all of them. The training views are all used.
    down_factor: images are reduced by it, by area averaging.
    near: where rays begin. None: 1 less than the cameras' mean distance from
      the origin.
    far: where rays end. None: 1 more than that distance.
    box: `[2, 3]` corners that rays are clipped to, scene units, or None.

  Raises:
    DataError: a file is missing or can not be used.
    ValueError: a setting is out of its range.
  """
  checks.settings(
    testskip=testskip, down_factor=down_factor, near=near, far=far
  )
  corners = checks.box(box)
  root = _find_root(data_dir, shape)
  folders = [root / split / shape for split in _SPLITS]
  skip = max(testskip, 1)
  pairs = [
    _pairs(folder, every)
    for folder, every in zip(folders, (1, skip, skip), strict=True)
  ]
  found = [np.stack([_read_pose(text) for text, _ in split]) for split in pairs]
  lenses = [_read_lens(_intrinsics(folder, folders[0])) for folder in folders]
  files = image_files.open_splits(
    [[image for _, image in split] for split in pairs], down_factor=down_factor
  )
  checks.one_size(files)
  taken = [_cameras(*parts) for parts in zip(found, lenses, files, strict=True)]
  centres = np.concatenate(found)[:, :3, 3]
  distance = float(np.mean(np.linalg.norm(centres, axis=-1)))
  near, far = near or distance - _RADIUS, far or distance + _RADIUS
  if not 0 < near < far:
    raise errors.DataError(
      f'{folders[0]}: the cameras are {distance:.3g} from the origin on '
      f'average, so near and far are {near:.3g} and {far:.3g}: must be 0 < '
      'near < far. Set near and far.'
    )
  checks.bounds(near, far)
  images, held_out = image_files.load(*files)
  val, test = map(scenes.Split, held_out, taken[1:])
  return scenes.Scene(
    scenes.Split(images, taken[0]),
    val,
    test,
    near,
    far,
    corners,
    taken[2],
    image_files.notices(files, root),
  )


def _find_root(data_dir: str, shape: str) -> pathlib.Path:
  root = checks.existing_folder(data_dir)
  roots = root, root / 'deepvoxels'
  # Of a path that leads elsewhere, all splits would be one folder.
  name = pathlib.PurePath(shape)
  below = shape and not name.is_absolute() and '..' not in name.parts
  for folder in roots:
    if below and (folder / _SPLITS[0] / shape).is_dir():
      return folder
  there = checks.scenes_in(
    [folder / _SPLITS[0] for folder in roots], pathlib.Path.is_dir
  )
  raise errors.DataError(
    f'shape={checks.short(shape)} is not a folder of {_SPLITS[0]} in '
    f'data_dir={checks.short(data_dir)}. Scenes there: {there}.'
  )


def _pairs(
  folder: pathlib.Path, every: int
) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """Every so many of a split's poses and images, in the order of names."""
  texts = _files(folder / 'pose', '.txt')
  images = _files(folder / 'rgb', '.png')
  stems = [{path.stem for path in paths} for paths in (texts, images)]
  # Names of two kinds, of which none is shared, belong together in order.
  differ = stems[0] & stems[1] and stems[0] != stems[1]
  if len(texts) != len(images) or differ:
    alone = sorted(
      [path.name for path in texts if path.stem not in stems[1]]
      + [path.name for path in images if path.stem not in stems[0]]
    )
    shown = ', '.join(alone[:5]) + (' ...' if len(alone) > 5 else '')
    raise errors.DataError(
      f'{folder}: holds {len(texts)} poses (pose/*.txt) and {len(images)} '
      f'images (rgb/*.png); without a partner: {shown or "none by name"}.'
    )
  if not stems[0] & stems[1]:
    texts, images = sorted(texts, key=_natural), sorted(images, key=_natural)
  return list(zip(texts, images, strict=True))[::every]


def _natural(path: pathlib.Path) -> list[tuple[int, str]]:
  """A key that sorts numbers in names by their value: 9 before 10."""
  parts = re.findall(r'(\d+)|(\D+)', path.stem)
  return [(int(number or -1), text) for number, text in parts]


def _files(folder: pathlib.Path, suffix: str) -> list[pathlib.Path]:
  if not folder.is_dir():
    raise errors.DataError(f'{folder}: there is no such folder.')
  found = sorted(
    path
    for path in folder.iterdir()
    if path.suffix.lower() == suffix and not path.name.startswith('.')
  )
  if not found:
    raise errors.DataError(f'{folder}: holds no files *{suffix}.')
  return found


def _read_pose(path: pathlib.Path) -> np.ndarray:
  """The `[4, 4]` pose of a file, with OpenGL's axes."""
  numbers = _numbers(path, checks.read_text(path).split())
  if len(numbers) != 16:
    raise errors.DataError(
      f'{path}: must hold 16 numbers, a matrix row by row, got {len(numbers)}.'
    )
  rows = np.reshape(numbers, (4, 4)).tolist()
  pose = checks.pose(f'{path}: the pose', rows)
  return (pose @ _FLIP).astype(np.float32)


def _intrinsics(folder: pathlib.Path, train: pathlib.Path) -> pathlib.Path:
  """The file of a split; the original takes that of the training split."""
  own = folder / _INTRINSICS
  return own if own.exists() else train / _INTRINSICS


def _read_lens(path: pathlib.Path) -> _Lens:
  """Lines 1 and 5: focal length, cx and cy; height and width.

  Between them are the scene's middle, near plane and scale, which the original
  reads and does not use.
  """
  lines = [line.split() for line in checks.read_text(path).splitlines()]
  for i, least in enumerate((3, 3, 1, 1, 2)):
    there = len(lines[i]) if i < len(lines) else 0
    if there < least:
      raise errors.DataError(
        f'{path}: line {i + 1} must hold {least} or more numbers, got {there}.'
      )
  focal, cx, cy, height, width = _numbers(path, [*lines[0][:3], *lines[4][:2]])
  if min(focal, height, width) <= 0:
    raise errors.DataError(
      f'{path}: focal length, height and width must be over 0, got {focal:g}, '
      f'{height:g} and {width:g}.'
    )
  checks.focal(f'{path}: focal length', np.array([focal]))
  most = max(abs(cx), abs(cy), height, width)
  if most > checks.LARGEST or min(height, width) < 1:
    raise errors.DataError(
      f'{path}: cx, cy, height and width must be pixels up to '
      f'{checks.LARGEST:g}, the last two 1 or more, got {cx:g}, {cy:g}, '
      f'{height:g} and {width:g}.'
    )
  return _Lens(focal, cx, cy, height, width)


def _numbers(path: pathlib.Path, words: list[str]) -> list[float]:
  numbers = []
  for word in words:
    try:
      numbers.append(float(word))
    except ValueError:
      raise errors.DataError(
        f'{path}: holds what is no number: {checks.short(word)}.'
      ) from None
    if not checks.is_finite(numbers[-1]):
      raise errors.DataError(
        f'{path}: holds {word[:80]}, which is no finite number.'
      )
  return numbers


def _cameras(
  found: np.ndarray, lens: _Lens, files: image_files.Files
) -> cameras.Cameras:
  """Cameras of the images as read.

  Images may have been made square: the height alone scales the focal length,
  as in the original.
  """
  full = image_files.full_sizes(files)
  taken = cameras.pinhole(found, full, lens.focal * full[:, 0] / lens.height)
  taken.intrinsics[:, 2] = lens.cx * full[:, 1] / lens.width
  taken.intrinsics[:, 3] = lens.cy * full[:, 0] / lens.height
  checks.focal(
    f'{files.paths[0]}: as intrinsics.txt says, this', taken.intrinsics[:, 0]
  )
  return cameras.scale(taken, image_files.sizes(files))

"""Photographs with poses from structure from motion: `poses_bounds.npy`.

The layout of LLFF (Mildenhall et al. 2019), which the paper's real scenes have.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nerf_haiku import camera_paths, cameras, errors, poses, scenes
from nerf_haiku.datasets import checks, image_files
from nerf_haiku.io import inputs

_FILE = 'poses_bounds.npy'
_EXTENSIONS = ('.jpg', '.jpeg', '.png')
# The least depth, times this, becomes one scene unit: the near plane of device
# coordinates is in front of all there is.
_BOUND_FACTOR = 0.75
_LARGEST = 1_000_000  # Pixels of an image's side, or of its focal length.
# What near is of the nearest bound.
_NEAR_FACTOR = 0.9
# How far the sides' ratio of an image may be off that of its pose.
_RATIO_TOLERANCE = 0.02


class _Shots(NamedTuple):
  """What `poses_bounds.npy` says of `N` photographs."""

  camera_to_world: np.ndarray  # [N, 3, 4] float64.
  sizes: np.ndarray  # [N, 2] height and width of the originals, pixels.
  focal: np.ndarray  # [N] pixels of the originals.
  bounds: np.ndarray  # [N, 2] least and greatest depth.


@inputs.named_errors()
def load(
  data_dir: str,
  shape: str,
  *,
  down_factor: int,
  hold: int,
  spherify: bool,
  num_poses: int,
  near: float | None = None,
  far: float | None = None,
  box: checks.Box = None,
) -> scenes.Scene:
  """Loads a scene; checks and decodes every image.

  Scene units are the file's, divided by 0.75 times the least depth. The frame
  is the cameras' mean pose, or with `spherify` that of `poses.spherify`.

  Args:
    data_dir: holds the folder `shape`, or `nerf_llff_data/<shape>`, or is the
      scene itself.
    shape: name of the scene.
    down_factor: the images are those of `images_{down_factor}`, or else those
      of `images`, reduced by area averaging.
    hold: every `hold`-th view is for validation and test, from the first on; 0
      for the view nearest to the mean pose alone.
    spherify: for cameras all around; without it they must face one way, and
      rays are in normalised device coordinates.
    num_poses: of the spiral of the render video, or of the circle.
    near: where rays begin; the near plane of device coordinates. None: 0.9 of
      the least depth; a near plane at 1.
    far: where rays end; in device coordinates what depth is limited to.
      None: the greatest depth.
    box: `[2, 3]` corners that rays are clipped to, scene units, or None;
      not with device coordinates.

  Raises:
    DataError: a file is missing or can not be used.
    UserError: a setting is out of its range, or does not fit the cameras.
  """
  checks.settings(
    down_factor=down_factor, hold=hold, num_poses=num_poses, near=near, far=far
  )
  corners = checks.box(box)
  if corners is not None and not spherify:
    raise errors.UserError(
      f'box={corners.tolist()}: must be none with normalised device '
      'coordinates, whose rays are bounded already; use it with spherify.'
    )
  folder, notices = checks.find_scene(
    data_dir, shape, 'nerf_llff_data', _is_scene, _FILE
  )
  shots = _read(folder / _FILE)
  names, factor, notice = _find_images(folder, down_factor)
  _check_count(folder / _FILE, shots, names)
  shots = _normalise(shots, folder / _FILE, spherify)
  notices += (notice,)
  if spherify:
    shots = _spherify(shots, folder / _FILE)
  train, test = _split(shots, hold)
  files = image_files.open_splits(
    [[names[i] for i in split] for split in (train, test)], down_factor=factor
  )
  checks.one_size(files)
  notices += image_files.notices(files, folder)
  taken = [
    _cameras(shots, split, file)
    for split, file in zip((train, test), files, strict=True)
  ]
  least, greatest = shots.bounds.min(), shots.bounds.max()
  near_plane = near or 1.0
  near = near or float(_NEAR_FACTOR * least)
  far = far or float(greatest)
  checks.bounds(near, far)
  found = shots.camera_to_world
  if spherify:
    ndc, path = None, camera_paths.orbit(found, np.eye(3, 4), num_poses)
  else:
    _check_directions(taken, [names[i] for i in (*train, *test)])
    ndc = cameras.Ndc(_focal_of_halves(taken[0]), near_plane)
    path = camera_paths.spiral(found, _NEAR_FACTOR * least, greatest, num_poses)
  images, (held_out,) = image_files.load(*files)
  held_out_split = scenes.Split(held_out, taken[1])
  return scenes.Scene(
    scenes.Split(images, taken[0]),
    held_out_split,
    held_out_split,
    near,
    far,
    corners,
    cameras.with_poses(path, taken[0]),
    notices,
    ndc,
  )


def _is_scene(folder: pathlib.Path) -> bool:
  return (folder / _FILE).is_file()


def _read(path: pathlib.Path) -> _Shots:
  """Reads and checks poses and bounds, and turns axes to OpenGL's."""
  rows = inputs.read_npy(path)
  if rows.dtype.kind not in 'fiu':
    raise errors.DataError(f'{path}: must hold one array of real numbers.')
  if rows.ndim != 2 or rows.shape[1] != 17 or not len(rows):
    raise errors.DataError(
      f'{path}: must be of shape [N, 17] (3 x 5 of pose, height, width and '
      f'focal length; then near and far), got {list(rows.shape)}.'
    )
  rows = rows.astype(np.float64)
  for i, row in enumerate(rows):
    if not np.all(np.abs(row) <= np.finfo(np.float32).max):  # Fails for NaN.
      raise errors.DataError(
        f'{path}: row {i} (of the image of that number, from 0) holds a NaN, '
        'an infinity or a number that is too large.'
      )
  matrices = rows[:, :15].reshape(-1, 3, 5)
  down, right, backward, centre, size = np.moveaxis(matrices, -1, 0)
  camera_to_world = np.stack([right, -down, backward, centre], axis=-1)
  bounds = rows[:, 15:]
  for i, matrix in enumerate(camera_to_world):
    checks.pose(f'{path}: the pose of row {i}', matrix.tolist())
    if not 0 < bounds[i, 0] < bounds[i, 1]:
      raise errors.DataError(
        f'{path}: near and far of row {i} must be 0 < near < far, got '
        f'{bounds[i].tolist()}.'
      )
    if not np.all((size[i] >= 1) & (size[i] <= _LARGEST)):
      raise errors.DataError(
        f'{path}: height, width and focal length of row {i} must be from 1 to '
        f'{_LARGEST} pixels, got {size[i].tolist()}.'
      )
  return _Shots(camera_to_world, size[:, :2], size[:, 2], bounds)


def _find_images(
  folder: pathlib.Path, down_factor: int
) -> tuple[list[pathlib.Path], int, str]:
  """The images, what they are to be reduced by, and what to say of it."""
  reduced = folder / f'images_{down_factor}'
  whole = folder / 'images'
  if down_factor > 1 and reduced.is_dir():
    return _images_in(reduced), 1, f'Images are those of {reduced.name}.'
  if whole.is_dir():
    notice = 'Images are those of images'
    if down_factor > 1:
      notice += (
        f', reduced by {down_factor} by area: there is no {reduced.name}'
      )
    return _images_in(whole), down_factor, f'{notice}.'
  factors = sorted(
    int(path.name.removeprefix('images_'))
    for path in folder.glob('images_*')
    if path.is_dir() and path.name.removeprefix('images_').isdecimal()
  )
  factors = [n for n in factors if n > 1]
  there = ', '.join(f'images_{n}' for n in factors) or 'no folder of images'
  cure = f': set down_factor={factors[0]}' if factors else ''
  raise errors.DataError(
    f'{folder}: has no folder images{"" if down_factor == 1 else " or "}'
    f'{"" if down_factor == 1 else reduced.name}, but {there}{cure}.'
  )


def _images_in(folder: pathlib.Path) -> list[pathlib.Path]:
  found = sorted(
    path
    for path in folder.iterdir()
    if path.suffix.lower() in _EXTENSIONS and not path.name.startswith('.')
  )
  if not found:
    raise errors.DataError(
      f'{folder}: holds no images ({", ".join(_EXTENSIONS)}).'
    )
  return found


def _check_count(
  path: pathlib.Path, shots: _Shots, names: Sequence[pathlib.Path]
) -> None:
  num = len(shots.focal)
  if num == len(names):
    return
  extra = _without_partner(names, num)
  text = (
    f'{path}: holds {num} poses, {names[0].parent} holds {len(names)} images'
  )
  if num < len(names):
    text += f': without a pose, in the order of names, {extra}'
  else:
    text += f', {names[0].name} to {names[-1].name}'
  raise errors.DataError(f'{text}. Each image needs its pose, in that order.')


def _without_partner(names: Sequence[pathlib.Path], num: int) -> str:
  """Images that are too many: not in a folder that has the right number."""
  extra = list(names[num:])
  for folder in sorted(names[0].parents[1].glob('images*')):
    stems = {p.stem for p in folder.iterdir()} if folder.is_dir() else set()
    others = [path for path in names if path.stem not in stems]
    if len(names) - len(others) == num:
      extra = others
  shown = ', '.join(path.name for path in extra[:5])
  return shown + (f' and {len(extra) - 5} more' if len(extra) > 5 else '')


def _normalise(shots: _Shots, path: pathlib.Path, spherify: bool) -> _Shots:
  """Scales and recentres: the mean pose becomes the identity.

  Cameras all around may have no mean direction: for `spherify` the mean place
  will do.

  Raises:
    UserError: they have none without `spherify`.
  """
  factor = 1.0 / (_BOUND_FACTOR * shots.bounds.min())
  moved = shots.camera_to_world.copy()
  moved[:, :, 3] *= factor
  try:
    middle = poses.mean(moved)
  except errors.UserError as error:
    if not spherify:
      raise errors.UserError(
        f'llff.spherify=False: {path}: {error} Set llff.spherify=True.'
      ) from error
    place = moved[:, :, 3].mean(0)
    middle = np.concatenate([np.eye(3), place[:, None]], axis=1)
  moved = poses.relative_to(middle, moved)
  checks.place(
    f'{path}: once the least depth, {shots.bounds.min():.3g}, is made '
    f'{1 / _BOUND_FACTOR:.3g}, a camera',
    moved[:, :, 3],
  )
  return shots._replace(camera_to_world=moved, bounds=shots.bounds * factor)


def _spherify(shots: _Shots, path: pathlib.Path) -> _Shots:
  try:
    moved, factor = poses.spherify(shots.camera_to_world)
  except errors.UserError as error:
    raise errors.DataError(
      f'{path}: llff.spherify=True does not fit: {error} Set '
      'llff.spherify=False.'
    ) from error
  return shots._replace(camera_to_world=moved, bounds=shots.bounds * factor)


def _split(shots: _Shots, hold: int) -> tuple[list[int], list[int]]:
  """Which views are for training, and which for validation and test.

  Raises:
    UserError: if one of them has none.
  """
  num = len(shots.focal)
  if hold:
    test = list(range(0, num, hold))
  else:
    centres = shots.camera_to_world[:, :, 3]
    test = [int(np.argmin(np.sum((centres - centres.mean(0)) ** 2, axis=-1)))]
  train = [i for i in range(num) if i not in test]
  if not train:
    raise errors.UserError(
      f'llff.hold={hold} leaves none of {num} views to train on: allowed are '
      '0, and 2 or more, with two views or more.'
    )
  return train, test


def _cameras(
  shots: _Shots, split: Sequence[int], files: image_files.Files
) -> cameras.Cameras:
  """Cameras of the images as read; the focal length follows their size."""
  index = list(split)
  full, sizes = shots.sizes[index], image_files.sizes(files)
  rows, columns = (sizes / full).T
  off = np.abs(rows / columns - 1)
  for i in np.flatnonzero(off > _RATIO_TOLERANCE + 1.5 / sizes.min(axis=1)):
    height, width = sizes[i]
    raise errors.DataError(
      f'{files.paths[i]}: is {width}x{height} pixels, but its pose is of an '
      f'image of {full[i, 1]:g}x{full[i, 0]:g}: the sides have another ratio. '
      'Is it cropped, or turned (orientation tags are not applied)?'
    )
  taken = cameras.pinhole(
    shots.camera_to_world[index], full, shots.focal[index]
  )
  taken = cameras.scale(taken, sizes)
  checks.focal(f'{files.paths[0]}: by its pose, this', taken.intrinsics[:, 0])
  return taken


def _check_directions(
  taken: Sequence[cameras.Cameras], names: Sequence[pathlib.Path]
) -> None:
  """In device coordinates every ray must go towards -z.

  Raises:
    UserError: names a camera that faces another way, and the cure.
  """
  cosines = np.concatenate([cameras.min_cosines(views) for views in taken])
  worst = int(np.argmin(cosines))
  if cosines[worst] < cameras.MIN_COSINE:
    angle = np.rad2deg(np.arccos(cosines[worst]))
    raise errors.UserError(
      f'llff.spherify=False: the cameras do not face one way (a ray of '
      f'{names[worst]} is {angle:.0f} degrees off their mean direction), as '
      'normalised device coordinates need it: set llff.spherify=True.'
    )


def _focal_of_halves(views: cameras.Cameras) -> tuple[float, float]:
  """Focal lengths of the first camera, in halves of its image's sides."""
  fx, fy = views.intrinsics[0, :2]
  height, width = views.sizes[0]
  return float(2 * fx / width), float(2 * fy / height)

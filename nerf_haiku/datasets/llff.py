"""Reads photographs with poses from structure from motion.

The layout is that of LLFF (Mildenhall et al. 2019) and the paper's real scenes:
`poses_bounds.npy` beside a folder of images.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nerf_haiku import (
  camera_checks,
  camera_paths,
  cameras,
  errors,
  poses,
  scenes,
)
from nerf_haiku.datasets import checks, image_files, scene_folders
from nerf_haiku.io import safe_reading

_FILE = 'poses_bounds.npy'
_EXTENSIONS = ('.jpg', '.jpeg', '.png')
# The smallest depth, times this, becomes one scene unit: the near plane of
# device coordinates is then in front of the whole scene.
_BOUND_FACTOR = 0.75
_MAX_PIXELS = 1_000_000  # Of an image's side, or of its focal length.
_NEAR_FACTOR = 0.9  # Default near, as a fraction of the smallest depth.
# Largest relative difference between the aspect ratios of image and pose.
_RATIO_TOLERANCE = 0.02


class _Views(NamedTuple):
  """The contents of `poses_bounds.npy`, for `N` photographs."""

  camera_to_world: np.ndarray  # [N, 3, 4] float64.
  sizes: np.ndarray  # [N, 2] height and width of the originals, pixels.
  focal: np.ndarray  # [N] pixels of the originals.
  bounds: np.ndarray  # [N, 2] smallest and largest depth, scene units.


@safe_reading.wrap_os_errors()
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

  Scene units are those of the file, divided by 0.75 times the smallest depth.
  The frame is the cameras' mean pose, or with `spherify` that of
  `poses.spherify`.

  Args:
    data_dir: holds the folder `shape`, or `nerf_llff_data/<shape>`, or is the
      scene itself.
    shape: name of the scene.
    down_factor: images are those of `images_{down_factor}`, or else those of
      `images`, downscaled by area averaging.
    hold: every `hold`-th view, from the first on, is for validation and test;
      0: only the view nearest to the mean position.
    spherify: for cameras all around. Without it they must be forward-facing,
      and rays are in normalized device coordinates.
    num_poses: cameras on the spiral, or circle, of the rendered video.
    near: where rays begin; the near plane of device coordinates. None: 0.9 of
      the smallest depth, and a near plane at 1.
    far: where rays end; in device coordinates, the largest depth reported.
      None: the largest depth.
    box: `[2, 3]` corners that rays are clipped to, scene units, or None; not
      allowed with device coordinates.

  Returns:
    The scene; validation and test are the same views.

  Raises:
    DataError: if a file is missing or cannot be used.
    UserError: if a setting is out of range, or does not fit the cameras.
  """
  checks.check_settings(
    down_factor=down_factor, hold=hold, num_poses=num_poses, near=near, far=far
  )
  corners = checks.parse_box(box)
  if corners is not None and not spherify:
    raise errors.UserError(
      f'box={corners.tolist()}: must be none with normalized device '
      'coordinates, whose rays are bounded already; use it with spherify.'
    )
  folder, notices = scene_folders.find_scene(
    data_dir,
    shape,
    collection='nerf_llff_data',
    is_scene=_is_scene,
    required_file=_FILE,
  )
  table = folder / _FILE
  views = _read(table)
  source = b''.join(np.ascontiguousarray(x).tobytes() for x in views)
  paths, factor, notice = _find_images(folder, down_factor)
  _check_count(table, views, paths)
  views = _to_scene_frame(views, table, spherify)
  splits = _split(views, hold)
  files = image_files.open_splits(
    [[paths[i] for i in index] for index in splits], down_factor=factor
  )
  image_files.check_equal_sizes(files)
  split_cameras = [_cameras(views, *x) for x in zip(splits, files, strict=True)]
  near_plane = near or 1.0
  near, far = _find_bounds(views, near, far)
  ndc = None if spherify else _make_ndc(split_cameras, files, near_plane)
  path = _make_path(views, spherify, num_poses)
  # All poses decide the frame of all splits.
  sources = [source + repr(index).encode() for index in splits]
  train, (test,) = image_files.load_splits(files, split_cameras, sources)
  return scenes.Scene(
    train=train,
    val=test,
    test=test,
    near=near,
    far=far,
    box=corners,
    path=cameras.with_poses(path, split_cameras[0]),
    notices=(*notices, notice, *image_files.notices(files, folder)),
    ndc=ndc,
  )


def _to_scene_frame(
  views: _Views, table: pathlib.Path, spherify: bool
) -> _Views:
  """Moves and scales the views to the frame and units of the scene."""
  views = _recenter(views, table, spherify)
  return _spherify(views, table) if spherify else views


def _find_bounds(
  views: _Views, near: float | None, far: float | None
) -> tuple[float, float]:
  """Returns near and far, by default from the depths of the views."""
  near = near or float(_NEAR_FACTOR * views.bounds.min())
  far = far or float(views.bounds.max())
  checks.check_bounds(near, far)
  return near, far


def _make_path(views: _Views, spherify: bool, num_poses: int) -> np.ndarray:
  """Returns the poses `[P, 3, 4]` of the rendered video."""
  given = views.camera_to_world
  if spherify:
    return camera_paths.orbit(given, np.eye(3, 4), num_poses)
  near, far = _NEAR_FACTOR * views.bounds.min(), views.bounds.max()
  return camera_paths.spiral(given, near, far, num_poses)


def _is_scene(folder: pathlib.Path) -> bool:
  return (folder / _FILE).is_file()


def _read(path: pathlib.Path) -> _Views:
  """Reads and checks poses and bounds, and converts axes to OpenGL's."""
  rows = safe_reading.read_npy(path)
  if rows.dtype.kind not in 'fiu':
    raise errors.DataError(f'{path}: must hold one array of real numbers.')
  if rows.ndim != 2 or rows.shape[1] != 17 or not len(rows):
    raise errors.DataError(
      f'{path}: must be of shape [N, 17] (3 x 5 of pose, height, width and '
      f'focal length; then near and far), got {list(rows.shape)}.'
    )
  rows = rows.astype(np.float64)
  for i, row in enumerate(rows):
    if not np.all(np.abs(row) <= np.finfo(np.float32).max):  # False for NaN.
      raise errors.DataError(
        f'{path}: row {i} (of the image of that number, from 0) holds a NaN, '
        'an infinity or a number that is too large.'
      )
  matrices = rows[:, :15].reshape(-1, 3, 5)
  down, right, backward, center, size = np.moveaxis(matrices, -1, 0)
  views = _Views(
    camera_to_world=np.stack([right, -down, backward, center], axis=-1),
    sizes=size[:, :2],
    focal=size[:, 2],
    bounds=rows[:, 15:],
  )
  for i in range(len(rows)):
    _check_row(path, i, views, size[i])
  return views


def _check_row(
  path: pathlib.Path, row: int, views: _Views, size: np.ndarray
) -> None:
  camera_checks.parse_pose(
    f'{path}: the pose of row {row}', views.camera_to_world[row].tolist()
  )
  near, far = views.bounds[row].tolist()
  if not 0 < near < far:
    raise errors.DataError(
      f'{path}: near and far of row {row} must be 0 < near < far, got '
      f'{[near, far]}.'
    )
  if not np.all((size >= 1) & (size <= _MAX_PIXELS)):
    raise errors.DataError(
      f'{path}: height, width and focal length of row {row} must be from 1 to '
      f'{_MAX_PIXELS} pixels, got {size.tolist()}.'
    )


def _find_images(
  folder: pathlib.Path, down_factor: int
) -> tuple[list[pathlib.Path], int, str]:
  """Returns the images, the factor to downscale them by, and a notice."""
  downscaled = folder / f'images_{down_factor}'
  full = folder / 'images'
  if down_factor > 1 and downscaled.is_dir():
    return _list_images(downscaled), 1, f'Images are from {downscaled.name}.'
  if full.is_dir():
    notice = 'Images are from images'
    if down_factor > 1:
      notice += (
        f', downscaled by {down_factor} by area averaging: there is no '
        f'{downscaled.name}'
      )
    return _list_images(full), down_factor, f'{notice}.'
  factors = sorted(
    int(path.name.removeprefix('images_'))
    for path in folder.glob('images_*')
    if path.is_dir() and path.name.removeprefix('images_').isdecimal()
  )
  factors = [n for n in factors if n > 1]
  existing = ', '.join(f'images_{n}' for n in factors) or 'no folder of images'
  cure = f': set down_factor={factors[0]}' if factors else ''
  expected = 'images' if down_factor == 1 else f'images or {downscaled.name}'
  raise errors.DataError(
    f'{folder}: has no folder {expected}, but {existing}{cure}.'
  )


def _list_images(folder: pathlib.Path) -> list[pathlib.Path]:
  found = sorted(
    path
    for path in folder.iterdir()
    if path.suffix.lower() in _EXTENSIONS and not path.name.startswith('.')
  )
  if not found:
    raise errors.DataError(
      f'{folder}: has no images ({", ".join(_EXTENSIONS)}).'
    )
  return found


def _check_count(
  table: pathlib.Path, views: _Views, paths: Sequence[pathlib.Path]
) -> None:
  """Checks that there is one image for each pose."""
  num_poses = len(views.focal)
  if num_poses == len(paths):
    return
  text = (
    f'{table}: holds {num_poses} poses, but {paths[0].parent} holds '
    f'{len(paths)} images'
  )
  if num_poses < len(paths):
    extra = _name_extra(paths, num_poses)
    text += f': without a pose, in the order of names, {extra}'
  else:
    text += f', {paths[0].name} to {paths[-1].name}'
  raise errors.DataError(f'{text}. Each image needs its pose, in that order.')


def _name_extra(paths: Sequence[pathlib.Path], num_poses: int) -> str:
  """Names images without a pose: those missing in a folder of `num_poses`."""
  extra = list(paths[num_poses:])
  for folder in sorted(paths[0].parents[1].glob('images*')):
    stems = {p.stem for p in folder.iterdir()} if folder.is_dir() else set()
    missing = [path for path in paths if path.stem not in stems]
    if len(paths) - len(missing) == num_poses:
      extra = missing
  shown = ', '.join(path.name for path in extra[:5])
  return shown + (f' and {len(extra) - 5} more' if len(extra) > 5 else '')


def _recenter(views: _Views, table: pathlib.Path, spherify: bool) -> _Views:
  """Scales the scene, and makes the mean pose the identity.

  Cameras all around may have no mean direction: with `spherify` the mean
  position suffices.

  Raises:
    DataError: if a camera is then too far from the origin.
    UserError: if there is no mean direction, without `spherify`.
  """
  min_depth = views.bounds.min()
  factor = 1.0 / (_BOUND_FACTOR * min_depth)
  moved = views.camera_to_world.copy()
  moved[:, :, 3] *= factor
  try:
    mean = poses.mean(moved)
  except errors.UserError as error:
    if not spherify:
      raise errors.UserError(
        f'llff.spherify=False: {table}: {error} Set llff.spherify=True.'
      ) from error
    position = moved[:, :, 3].mean(0)
    mean = np.concatenate([np.eye(3), position[:, None]], axis=1)
  moved = poses.relative_to(mean, moved)
  camera_checks.check_positions(
    f'{table}: once the smallest depth, {min_depth:.3g}, is scaled to '
    f'{1 / _BOUND_FACTOR:.3g}, a camera',
    moved[:, :, 3],
  )
  return views._replace(camera_to_world=moved, bounds=views.bounds * factor)


def _spherify(views: _Views, table: pathlib.Path) -> _Views:
  try:
    moved, factor = poses.spherify(views.camera_to_world)
  except errors.UserError as error:
    raise errors.DataError(
      f'{table}: llff.spherify=True does not fit: {error} Set '
      'llff.spherify=False.'
    ) from error
  return views._replace(camera_to_world=moved, bounds=views.bounds * factor)


def _split(views: _Views, hold: int) -> tuple[list[int], list[int]]:
  """Returns the indices of the training views, and of the held-out views.

  Raises:
    UserError: if there is no training view.
  """
  num_views = len(views.focal)
  if hold:
    test = list(range(0, num_views, hold))
  else:
    centers = views.camera_to_world[:, :, 3]
    test = [int(np.argmin(np.sum((centers - centers.mean(0)) ** 2, axis=-1)))]
  train = [i for i in range(num_views) if i not in test]
  if not train:
    raise errors.UserError(
      f'llff.hold={hold} leaves none of {num_views} views for training: it '
      'must be 0, or at least 2, with two views or more.'
    )
  return train, test


def _cameras(
  views: _Views, index: list[int], files: image_files.Files
) -> cameras.Cameras:
  """Returns cameras of the images as read; their size scales focal lengths."""
  full, sizes = views.sizes[index], image_files.sizes(files)
  rows, columns = (sizes / full).T
  deviations = np.abs(rows / columns - 1)
  tolerances = _RATIO_TOLERANCE + 1.5 / sizes.min(axis=1)
  for i in np.flatnonzero(deviations > tolerances):
    height, width = sizes[i]
    raise errors.DataError(
      f'{files.paths[i]}: is {width}x{height} pixels, but its pose is of an '
      f'image of {full[i, 1]:g}x{full[i, 0]:g}: the aspect ratios differ. Is '
      'it cropped, or rotated (orientation tags are not applied)?'
    )
  cams = cameras.pinhole(views.camera_to_world[index], full, views.focal[index])
  cams = cameras.scale(cams, sizes)
  camera_checks.check_focal_lengths(
    f'{files.paths[0]}: by its pose, this', np.asarray(cams.intrinsics[:, 0])
  )
  return cams


def _make_ndc(
  split_cameras: Sequence[cameras.Cameras],
  files: Sequence[image_files.Files],
  near_plane: float,
) -> cameras.Ndc:
  """Returns device coordinates, after checking that every ray goes towards -z.

  Raises:
    UserError: names a camera that faces another way.
  """
  paths = [path for split_files in files for path in split_files.paths]
  cosines = np.concatenate([cameras.min_cosines(x) for x in split_cameras])
  worst = int(np.argmin(cosines))
  if cosines[worst] < cameras.MIN_COSINE:
    angle = np.rad2deg(np.arccos(cosines[worst]))
    raise errors.UserError(
      f'llff.spherify=False: the cameras are not forward-facing (a ray of '
      f'{paths[worst]} is {angle:.0f} degrees off their mean direction), as '
      'normalized device coordinates require: set llff.spherify=True.'
    )
  return cameras.Ndc(_focal_in_halves(split_cameras[0]), near_plane)


def _focal_in_halves(cams: cameras.Cameras) -> tuple[float, float]:
  """Returns the first camera's focal lengths, in halves of image sides."""
  fx, fy = cams.intrinsics[0, :2]
  height, width = cams.sizes[0]
  return float(2 * fx / width), float(2 * fy / height)

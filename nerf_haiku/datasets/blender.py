"""Reads scenes in the layout of NeRF-synthetic: `transforms_*.json` files."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nerf_haiku import camera_checks, camera_paths, cameras, errors, scenes
from nerf_haiku.datasets import checks, image_files, lens_fields, scene_folders
from nerf_haiku.datasets import splits as splits_lib
from nerf_haiku.io import file_names, messages, safe_reading

_SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.tif', '.tiff', '.bmp')
_TRAIN, _WHOLE = 'transforms_train.json', 'transforms.json'
# Lists of file names in a file of all views, which say how they are split.
_NAME_LISTS = ('train_filenames', 'val_filenames', 'test_filenames')
# Fields that tell how a file was made, and change neither rays nor pixels.
_HARMLESS = (
  'applied_scale',
  'applied_transform',
  'colmap_im_id',
  'rotation',
  'sharpness',
)
_USED = frozenset(
  (
    'frames',
    'file_path',
    'transform_matrix',
    *_NAME_LISTS,
    *_HARMLESS,
    *lens_fields.FIELDS,
  )
)


class _Frames(NamedTuple):
  """`N` frames of a JSON file."""

  json: pathlib.Path
  names: tuple[str, ...]  # of the images, as the file has them.
  images: tuple[pathlib.Path | None, ...]  # None: there is no such file.
  poses: np.ndarray  # [N, 4, 4] float32, camera-to-world.
  lenses: tuple[lens_fields.Lens, ...]
  unused: frozenset[str]  # fields that have no effect.

  def source(self) -> bytes:
    """Returns what the cameras are made from, for a digest."""
    lenses = [sorted(lens.values.items()) for lens in self.lenses]
    return self.poses.tobytes() + repr(lenses).encode()

  def take(self, index: Sequence[int]) -> '_Frames':
    """Returns some of the frames."""
    return self._replace(
      names=tuple(self.names[i] for i in index),
      images=tuple(self.images[i] for i in index),
      poses=self.poses[list(index)],
      lenses=tuple(self.lenses[i] for i in index),
    )


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
  holdout: int = 8,
  pixel_center: bool = True,
  original_path: bool = False,
) -> scenes.Scene:
  """Loads a scene; checks and decodes every image that is used.

  Where there are no validation views the test views replace them, and the
  other way round. Without both, or with a single `transforms.json` that does
  not list them, they are every `holdout`-th training view. The training images
  are kept in memory: uint8, or uint16 if they are downscaled. Those of the
  other splits are read whenever they are accessed.

  Args:
    data_dir: holds the folder `shape`, or `nerf_synthetic/<shape>`, or is the
      scene itself.
    shape: name of the scene.
    testskip: every `testskip`-th view of validation and test is used; 0 and 1
      mean all. Training views are all used.
    down_factor: factor that images are downscaled by, by area averaging.
    num_poses: cameras on the path of the rendered video; they have the size
      and intrinsics of the first training image.
    near: where rays begin, scene units along the optical axis.
    far: where rays end.
    box: `[2, 3]` corners that rays are clipped to, scene units, or None.
    follow_links: whether an image may be a symbolic link out of the scene, or
      be beyond one. The scene, and a folder in it, may always be links.
    holdout: see above; 2 or more. `testskip` does not apply to such views.
    pixel_center: whether rays pass through the centers of pixels. A file with
      `cx` or `cy`, which are counted from the corner of the image, needs it.
    original_path: see `make_path`.

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
    holdout=holdout,
  )
  corners = checks.parse_box(box)
  folder, notices = scene_folders.find_scene(
    data_dir,
    shape,
    collection='nerf_synthetic',
    is_scene=_is_scene,
    required_file=_TRAIN,
  )
  splits = _read_splits(folder, max(testskip, 1), holdout)
  frames = [splits.train, splits.val, splits.test]
  if splits.val is splits.test:
    del frames[1]
  paths = _check_images(folder, frames, max(testskip, 1))
  if not follow_links:
    _check_inside(folder, frames, paths)
  _check_one_pose_each(frames, paths)
  _check_pixel_center(frames, pixel_center)
  files = image_files.open_splits(paths, down_factor=down_factor)
  split_cameras = [_cameras(*x) for x in zip(frames, files, strict=True)]
  train, others = image_files.load_splits(
    files, split_cameras, [split.source() for split in frames]
  )
  return scenes.Scene(
    train=train,
    val=others[0],
    test=others[-1],
    near=near,
    far=far,
    box=corners,
    path=make_path(split_cameras[0], num_poses, original_path),
    notices=(
      *notices,
      *splits.notices,
      *_describe_unused(frames),
      *image_files.notices(files, folder),
    ),
  )


def make_path(
  cams: cameras.Cameras, num_poses: int, original: bool
) -> cameras.Cameras:
  """Returns the cameras of the rendered video.

  Args:
    cams: the training cameras.
    num_poses: number of cameras, with the first one's lens and image size.
    original: whether they are on the reference implementation's circle of
      radius 4 around the origin. Else they follow the training cameras, see
      `camera_paths.around`.
  """
  if original:
    path = camera_paths.circle(num_poses)
  else:
    path = camera_paths.around(np.asarray(cams.camera_to_world), num_poses)
  return cameras.with_poses(path, cams)


def _is_scene(folder: pathlib.Path) -> bool:
  """Returns whether any JSON file exists; missing ones are reported later."""
  names = _TRAIN, 'transforms_val.json', 'transforms_test.json', _WHOLE
  return any((folder / name).is_file() for name in names)


def _read_splits(
  folder: pathlib.Path, stride: int, holdout: int
) -> splits_lib.Splits[_Frames]:
  """Reads the frames of all splits, and makes those that are missing."""
  finder = file_names.Finder(folder, _SUFFIXES)
  if not (folder / _TRAIN).exists() and (folder / _WHOLE).is_file():
    return _split_whole(folder / _WHOLE, finder, holdout)
  train = _read_frames(folder / _TRAIN, 1, finder)
  val, test = (
    _read_held_out(folder / f'transforms_{split}.json', stride, finder)
    for split in ('val', 'test')
  )
  return _complete(train, val, test, holdout)


def _complete(
  train: _Frames,
  val: splits_lib.HeldOut[_Frames],
  test: splits_lib.HeldOut[_Frames],
  holdout: int,
) -> splits_lib.Splits[_Frames]:
  return splits_lib.complete(
    train, val, test, count=len(train.names), holdout=holdout, take=_Frames.take
  )


def _read_held_out(
  path: pathlib.Path, stride: int, finder: file_names.Finder
) -> splits_lib.HeldOut[_Frames]:
  """Reads validation or test views; a path without images is no split."""
  if not os.path.lexists(path):
    return splits_lib.HeldOut(None, f'there is no {path.name}')
  frames = _read_frames(path, stride, finder)
  if not any(frames.images):
    return splits_lib.HeldOut(None, f'no image of {path.name} exists')
  return splits_lib.HeldOut(frames)


def _split_whole(
  path: pathlib.Path, finder: file_names.Finder, holdout: int
) -> splits_lib.Splits[_Frames]:
  """Splits the frames of one file, by its own lists of names if it has any."""
  frames = _read_frames(path, 1, finder)
  content = _read_object(path)
  missing = splits_lib.HeldOut[_Frames](None, f'{path.name} has all views')
  if not any(name in content for name in _NAME_LISTS):
    return _complete(frames, missing, missing, holdout)
  train, val, test = (
    _take_named(frames, content, name, finder) for name in _NAME_LISTS
  )
  if train.views is None:
    raise errors.DataError(
      f'{path}: has val_filenames or test_filenames, so it must have '
      'train_filenames with a name or more.'
    )
  return _complete(train.views, val, test, holdout)


def _take_named(
  frames: _Frames,
  content: Mapping[str, Any],
  field: str,
  finder: file_names.Finder,
) -> splits_lib.HeldOut[_Frames]:
  """Returns the frames that a list in the file names."""
  names = content.get(field) or []
  if not isinstance(names, list) or not all(isinstance(x, str) for x in names):
    raise errors.DataError(
      f'{frames.json}: {field} must be a list of names, got '
      f'{messages.shorten(names)}.'
    )
  index = {name: i for i, name in enumerate(frames.names)}
  index |= {str(path): i for i, path in enumerate(frames.images) if path}
  found = []
  for name in names:
    i = index.get(name, index.get(str(finder.find(name))))
    if i is None:
      raise errors.DataError(
        f'{frames.json}: {field} has {messages.shorten(name)}, which is no '
        'file_path of a frame.'
      )
    found.append(i)
  if not found:
    return splits_lib.HeldOut(None, f'{frames.json.name} has no {field}')
  return splits_lib.HeldOut(frames.take(found))


def _read_frames(
  path: pathlib.Path, stride: int, finder: file_names.Finder
) -> _Frames:
  """Reads and checks every `stride`-th frame of a JSON file."""
  content = _read_object(path)
  shared = {k: v for k, v in content.items() if k in lens_fields.FIELDS}
  frames = content.get('frames')
  # An error of the file's own lens is not one of each frame.
  if shared or not frames:
    lens_fields.parse(str(path), shared)
  if not isinstance(frames, list):
    raise errors.DataError(
      f'{path}: frames must be a list, got {messages.shorten(frames)}.'
    )
  if not frames:
    raise errors.DataError(f'{path}: there are no frames.')
  used = range(0, len(frames), stride)
  names = tuple(_image_name(path, i, frames[i], finder) for i in used)
  poses, lenses = [], []
  for i, name in zip(used, names, strict=True):
    field, frame = f'{path}: frames[{i}]', frames[i]
    own = any(key in lens_fields.FIELDS for key in frame)
    lenses.append(
      lens_fields.parse(field if own else str(path), {**shared, **frame})
    )
    poses.append(
      camera_checks.parse_pose(
        f'{field}.transform_matrix (of {name})', frame.get('transform_matrix')
      )
    )
  fields = set(content).union(*(frames[i] for i in used))
  return _Frames(
    json=path,
    names=names,
    images=tuple(finder.find(name) for name in names),
    poses=np.stack(poses),
    lenses=tuple(lenses),
    unused=frozenset(fields - _USED),
  )


def _read_object(path: pathlib.Path) -> dict[str, Any]:
  try:
    content = safe_reading.read_json(path)
  except errors.DataError as error:
    if not isinstance(error.__cause__, FileNotFoundError):
      raise
    raise errors.DataError(
      f'{path}: no such file; a scene has {_TRAIN}, or one {_WHOLE}.'
    ) from error
  if not isinstance(content, dict):
    raise errors.DataError(f'{path}: must hold an object {{...}} with frames.')
  return content


def _image_name(
  path: pathlib.Path, index: int, frame: Any, finder: file_names.Finder
) -> str:
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
  is_absolute = pathlib.PurePosixPath(name.replace('\\', '/')).is_absolute()
  if finder.is_outside(name) or (is_absolute and finder.find(name) is None):
    raise errors.DataError(
      f'{field} must be inside the folder of the scene, got '
      f'{messages.shorten(name)}.'
    )
  return str(pathlib.PurePosixPath(name))


def _check_images(
  folder: pathlib.Path, frames: Sequence[_Frames], stride: int
) -> list[list[pathlib.Path]]:
  """Returns the image files of each split.

  Raises:
    DataError: if images are missing; names the first, counts the others, and
      suggests a testskip that uses only existing ones, if there is one.
  """
  missing = [
    f'{str(folder / name)[: safe_reading.MAX_NAME_LENGTH]}: no such image '
    f'({split.json.name} names it; looked for {", ".join(_SUFFIXES)})'
    for split in frames
    for name, path in zip(split.names, split.images, strict=True)
    if path is None
  ]
  if missing:
    more = f', and {len(missing) - 1} more' if len(missing) > 1 else ''
    hint = _testskip_hint([split.images for split in frames], stride)
    raise errors.DataError(f'{missing[0]}{more}.{hint}')
  return [[path for path in split.images if path] for split in frames]


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
    for path in paths:
      first, *rest = path.relative_to(folder).parts
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


def _check_pixel_center(frames: Sequence[_Frames], pixel_center: bool) -> None:
  """Checks that a principal point counts from where rays count.

  Raises:
    UserError: names a file with a principal point, without `pixel_center`.
  """
  for split in frames:
    if not pixel_center and any(x.has_principal_point for x in split.lenses):
      raise errors.UserError(
        f'pixel_center=False: {split.json} has cx or cy, which count from the '
        'corner of the image to the centers of pixels: set pixel_center=True.'
      )


def _describe_unused(frames: Sequence[_Frames]) -> tuple[str, ...]:
  """Returns a notice that lists fields without effect, if there are any."""
  unused = sorted(frozenset().union(*(split.unused for split in frames)))
  if not unused:
    return ()
  shown = ', '.join(messages.shorten(name) for name in unused[:8])
  more = f' and {len(unused) - 8} more' if len(unused) > 8 else ''
  return (
    f'Fields of {frames[0].json.name} and its like that are not used: '
    f'{shown}{more}.',
  )


def _cameras(frames: _Frames, files: image_files.Files) -> cameras.Cameras:
  """Returns cameras of the downscaled images."""
  full = image_files.full_sizes(files)
  intrinsics = lens_fields.intrinsics(frames.lenses, full, frames.names)
  cams = cameras.Cameras(
    camera_to_world=frames.poses[:, :3],
    intrinsics=intrinsics.astype(np.float32),
    sizes=full.astype(np.int32),
  )
  return cameras.scale(cams, image_files.sizes(files))

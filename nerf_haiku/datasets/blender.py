"""Reads scenes in the layout of NeRF-synthetic: `transforms_*.json` files."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nerf_haiku import camera_checks, camera_paths, cameras, errors, scenes
from nerf_haiku.datasets import (
  checks,
  image_files,
  lens_fields,
  scene_folders,
  transforms_json,
)
from nerf_haiku.datasets import splits as splits_lib
from nerf_haiku.io import file_names, messages, safe_reading

_TRAIN, _WHOLE = 'transforms_train.json', 'transforms.json'


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
      `cx`, `cy` or distortion, which count from the corner of the image, needs
      it.
    original_path: see `camera_paths.video_path`.

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
    path=camera_paths.video_path(split_cameras[0], num_poses, original_path),
    notices=(
      *notices,
      *splits.notices,
      *_describe_unused(frames),
      *image_files.notices(files, folder),
    ),
  )


def _is_scene(folder: pathlib.Path) -> bool:
  """Returns whether any JSON file exists; missing ones are reported later."""
  names = _TRAIN, 'transforms_val.json', 'transforms_test.json', _WHOLE
  return any((folder / name).is_file() for name in names)


def _read_splits(
  folder: pathlib.Path, stride: int, holdout: int
) -> splits_lib.Splits[transforms_json.Frames]:
  """Reads the frames of all splits, and makes those that are missing."""
  finder = file_names.Finder(folder, transforms_json.SUFFIXES)
  if not (folder / _TRAIN).exists() and (folder / _WHOLE).is_file():
    return _split_whole(folder / _WHOLE, finder, holdout)
  train = transforms_json.read(folder / _TRAIN, 1, finder)
  val, test = (
    _read_held_out(folder / f'transforms_{split}.json', stride, finder)
    for split in ('val', 'test')
  )
  return _complete(train, val, test, holdout)


def _complete(
  train: transforms_json.Frames,
  val: splits_lib.HeldOut[transforms_json.Frames],
  test: splits_lib.HeldOut[transforms_json.Frames],
  holdout: int,
) -> splits_lib.Splits[transforms_json.Frames]:
  return splits_lib.complete(
    train,
    val,
    test,
    count=len(train.names),
    holdout=holdout,
    take=transforms_json.Frames.take,
  )


def _read_held_out(
  path: pathlib.Path, stride: int, finder: file_names.Finder
) -> splits_lib.HeldOut[transforms_json.Frames]:
  """Reads validation or test views; a path without images is no split."""
  if not os.path.lexists(path):
    return splits_lib.HeldOut(None, f'there is no {path.name}')
  frames = transforms_json.read(path, stride, finder)
  if not any(frames.images):
    return splits_lib.HeldOut(None, f'no image of {path.name} exists')
  return splits_lib.HeldOut(frames)


def _split_whole(
  path: pathlib.Path, finder: file_names.Finder, holdout: int
) -> splits_lib.Splits[transforms_json.Frames]:
  """Splits the frames of one file, by its own lists of names if it has any.

  Frames are sorted by name. Those without an image are left out, as programs
  that make such files leave out photographs later.
  """
  content = transforms_json.read_object(path)
  all_frames = transforms_json.parse(path, content, 1, finder)
  frames, notices = _leave_out_missing(all_frames)
  missing = splits_lib.HeldOut[transforms_json.Frames](
    None, f'{path.name} has all views'
  )
  if not any(name in content for name in transforms_json.NAME_LISTS):
    splits = _complete(frames, missing, missing, holdout)
    return splits._replace(notices=notices + splits.notices)
  train, val, test = (
    _take_named(all_frames, content, name, finder)
    for name in transforms_json.NAME_LISTS
  )
  if train.views is None:
    raise transforms_json.no_training_names(path)
  splits = _complete(train.views, val, test, holdout)
  return splits._replace(notices=notices + splits.notices)


def _leave_out_missing(
  frames: transforms_json.Frames,
) -> tuple[transforms_json.Frames, tuple[str, ...]]:
  """Returns the frames that have an image, sorted by name, and notices.

  If none has one, all are kept, for the error.
  """
  order = sorted(range(len(frames.names)), key=frames.names.__getitem__)
  present = [i for i in order if frames.images[i]]
  lost = [frames.names[i] for i in order if not frames.images[i]]
  if not lost or not present:
    return frames.take(order), ()
  return frames.take(present), (
    f'{len(lost)} of {len(order)} frames of {frames.json.name} have no image, '
    f'and are left out: {messages.list_names(lost)}.',
  )


def _take_named(
  frames: transforms_json.Frames,
  content: Mapping[str, Any],
  field: str,
  finder: file_names.Finder,
) -> splits_lib.HeldOut[transforms_json.Frames]:
  """Returns the frames that a list in the file names, those with an image."""
  found = transforms_json.find_named(frames, content, field, finder)
  if not found:
    return splits_lib.HeldOut(None, f'{frames.json.name} has no {field}')
  return splits_lib.HeldOut(frames.take(found))


def _check_images(
  folder: pathlib.Path, frames: Sequence[transforms_json.Frames], stride: int
) -> list[list[pathlib.Path]]:
  """Returns the image files of each split.

  Raises:
    DataError: if images are missing; names the first, counts the others, and
      suggests a testskip that uses only existing ones, if there is one.
  """
  looked_for = ', '.join(transforms_json.SUFFIXES)
  missing = [
    f'{str(folder / name)[: safe_reading.MAX_NAME_LENGTH]}: no such image '
    f'({split.json.name} names it; looked for {looked_for})'
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
  frames: Sequence[transforms_json.Frames],
  split_paths: Sequence[Sequence[pathlib.Path]],
) -> None:
  """Checks that no image is outside the scene, beyond a symbolic link.

  Raises:
    DataError: names an image outside.
  """
  for split, paths in zip(frames, split_paths, strict=True):
    for path in paths:
      target = scene_folders.target_outside(folder, path)
      if target:
        raise errors.DataError(
          f'{path}: is a link out of the scene, to {target} '
          f'({split.json.name} names it): set blender.follow_links=True if '
          'this is intended.'
        )


def _check_one_pose_each(
  frames: Sequence[transforms_json.Frames],
  split_paths: Sequence[Sequence[pathlib.Path]],
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


def _check_pixel_center(
  frames: Sequence[transforms_json.Frames], pixel_center: bool
) -> None:
  """Checks that a principal point counts from where rays count.

  Raises:
    UserError: names a file with a principal point, without `pixel_center`.
  """
  for split in frames:
    if not pixel_center and any(x.needs_pixel_centers for x in split.lenses):
      raise errors.UserError(
        f'pixel_center=False: {split.json} has cx, cy or distortion, which '
        'count from the corner of the image to the centers of pixels: set '
        'pixel_center=True.'
      )


def _describe_unused(
  frames: Sequence[transforms_json.Frames],
) -> tuple[str, ...]:
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


def _cameras(
  frames: transforms_json.Frames, files: image_files.Files
) -> cameras.Cameras:
  """Returns cameras of the downscaled images."""
  full = image_files.full_sizes(files)
  intrinsics = lens_fields.intrinsics(frames.lenses, full, frames.names)
  cams = cameras.Cameras(
    camera_to_world=frames.poses[:, :3].astype(np.float32),
    intrinsics=intrinsics.astype(np.float32),
    sizes=full.astype(np.int32),
  )
  if any(lens.is_distorted for lens in frames.lenses):
    cams = cams._replace(
      distortion=np.array([x.distortion for x in frames.lenses], np.float32),
      fisheye=np.array([x.fisheye for x in frames.lenses]),
    )
    camera_checks.check_lenses(str(frames.json), cams, frames.names)
  return cameras.scale(cams, image_files.sizes(files))

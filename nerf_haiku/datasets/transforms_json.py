"""Reads the frames of a `transforms*.json` file: images, poses and lenses."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nerf_haiku import camera_checks, errors
from nerf_haiku.datasets import lens_fields
from nerf_haiku.io import file_names, messages, safe_reading

# That names of images may lack, in order of preference.
SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.tif', '.tiff', '.bmp')
# Lists of file names in a file of all views, which say how they are split.
NAME_LISTS = ('train_filenames', 'val_filenames', 'test_filenames')
_MASK = 'mask_path'
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
    *NAME_LISTS,
    *_HARMLESS,
    *lens_fields.FIELDS,
  )
)


class Frames(NamedTuple):
  """`N` frames of a file."""

  json: pathlib.Path
  names: tuple[str, ...]  # of the images, as the file has them.
  images: tuple[pathlib.Path | None, ...]  # None: there is no such file.
  poses: np.ndarray  # [N, 4, 4] float64, camera-to-world.
  lenses: tuple[lens_fields.Lens, ...]
  unused: frozenset[str]  # fields that have no effect.
  masks: tuple[str | None, ...] = ()  # their names, if they were requested.

  def source(self) -> bytes:
    """Returns what the cameras are made from, for a digest."""
    lenses = [
      (sorted(lens.values.items()), lens.distortion, lens.fisheye)
      if lens.is_distorted
      else sorted(lens.values.items())
      for lens in self.lenses
    ]
    return self.poses.astype(np.float32).tobytes() + repr(lenses).encode()

  def take(self, index: Sequence[int]) -> 'Frames':
    """Returns some of the frames."""
    return self._replace(
      names=tuple(self.names[i] for i in index),
      images=tuple(self.images[i] for i in index),
      poses=self.poses[list(index)],
      lenses=tuple(self.lenses[i] for i in index),
      masks=tuple(self.masks[i] for i in index) if self.masks else (),
    )


def read(path: pathlib.Path, stride: int, finder: file_names.Finder) -> Frames:
  """Reads and checks every `stride`-th frame of a JSON file, see `parse`."""
  return parse(path, read_object(path), stride, finder)


def parse(
  path: pathlib.Path,
  content: dict[str, Any],
  stride: int,
  finder: file_names.Finder,
  *,
  masks: bool = False,
) -> Frames:
  """Checks every `stride`-th frame of a file's content.

  Args:
    path: the file.
    content: what it holds, from `read_object`.
    stride: 1 or more.
    finder: finds the images, below the scene's folder.
    masks: whether masks may be named; else they are refused.

  Raises:
    DataError: if it is invalid; names the frame and field.
  """
  shared = {k: v for k, v in content.items() if k in lens_fields.FIELDS}
  frames = content.get('frames')
  # An error of the file's own lens is not one of each frame.
  if lens_fields.has_focal_length(shared) or not frames:
    lens_fields.parse(str(path), _without_mask(shared) if masks else shared)
  if not isinstance(frames, list):
    raise errors.DataError(
      f'{path}: frames must be a list, got {messages.shorten(frames)}.'
    )
  if not frames:
    raise errors.DataError(f'{path}: there are no frames.')
  used = range(0, len(frames), stride)
  names = tuple(_image_name(path, i, frames[i], finder) for i in used)
  poses, lenses, mask_names = [], [], []
  for i, name in zip(used, names, strict=True):
    field, frame = f'{path}: frames[{i}]', frames[i]
    own = any(key in lens_fields.FIELDS for key in frame)
    both = {**shared, **frame}
    if masks:
      mask_names.append(_check_mask(field, both.get(_MASK), finder))
      both = _without_mask(both)
    lenses.append(lens_fields.parse(field if own else str(path), both))
    poses.append(
      camera_checks.parse_pose(
        f'{field}.transform_matrix (of {name})', frame.get('transform_matrix')
      )
    )
  fields = set(content).union(*(frames[i] for i in used))
  return Frames(
    json=path,
    names=names,
    images=tuple(finder.find(name) for name in names),
    poses=np.stack(poses),
    lenses=tuple(lenses),
    unused=frozenset(fields - _USED),
    masks=tuple(mask_names),
  )


def read_object(path: pathlib.Path) -> dict[str, Any]:
  """Reads the whole file.

  Raises:
    DataError: if it is missing, or holds something else than an object.
  """
  try:
    content = safe_reading.read_json(path)
  except errors.DataError as error:
    if not isinstance(error.__cause__, FileNotFoundError):
      raise
    raise errors.DataError(
      f'{path}: no such file; a scene has transforms_train.json, or one '
      'transforms.json.'
    ) from error
  if not isinstance(content, dict):
    raise errors.DataError(f'{path}: must hold an object {{...}} with frames.')
  return content


def find_named(
  frames: Frames,
  content: Mapping[str, Any],
  field: str,
  finder: file_names.Finder,
) -> list[int]:
  """Returns the indices of frames that a list names, those with an image.

  Args:
    frames: all frames of the file.
    content: of the file.
    field: one of `NAME_LISTS`; may be missing.
    finder: that the frames were read with.

  Raises:
    DataError: if it is no list of names of the frames.
  """
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
    if frames.images[i]:
      found.append(i)
  return found


def no_training_names(path: pathlib.Path) -> errors.DataError:
  """Returns the error of a file that lists the views of other splits only."""
  return errors.DataError(
    f'{path}: has val_filenames or test_filenames, so it must have '
    'train_filenames with a name or more.'
  )


def _without_mask(fields: Mapping[str, Any]) -> dict[str, Any]:
  return {name: value for name, value in fields.items() if name != _MASK}


def _check_mask(field: str, name: Any, finder: file_names.Finder) -> str | None:
  """Returns the name of a mask, which is a file of the scene; None for none."""
  if not name:
    return None
  if not isinstance(name, str) or finder.find(name) is None:
    raise errors.DataError(
      f'{field}: {_MASK}={messages.shorten(name)} is no file in the folder of '
      'the scene: add the mask, or remove the field.'
    )
  return name


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

"""Reads the frames of a `transforms*.json` file: images, poses and lenses."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nerf_haiku import camera_checks, errors
from nerf_haiku.datasets import lens_fields
from nerf_haiku.io import file_names, messages, safe_reading

# That names of images may lack, in order of preference.
SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.tif', '.tiff', '.bmp')
# Lists of file names in a file of all views, which say how they are split.
NAME_LISTS = ('train_filenames', 'val_filenames', 'test_filenames')
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
  poses: np.ndarray  # [N, 4, 4] float32, camera-to-world.
  lenses: tuple[lens_fields.Lens, ...]
  unused: frozenset[str]  # fields that have no effect.

  def source(self) -> bytes:
    """Returns what the cameras are made from, for a digest."""
    lenses = [
      (sorted(lens.values.items()), lens.distortion, lens.fisheye)
      if lens.is_distorted
      else sorted(lens.values.items())
      for lens in self.lenses
    ]
    return self.poses.tobytes() + repr(lenses).encode()

  def take(self, index: Sequence[int]) -> 'Frames':
    """Returns some of the frames."""
    return self._replace(
      names=tuple(self.names[i] for i in index),
      images=tuple(self.images[i] for i in index),
      poses=self.poses[list(index)],
      lenses=tuple(self.lenses[i] for i in index),
    )


def read(path: pathlib.Path, stride: int, finder: file_names.Finder) -> Frames:
  """Reads and checks every `stride`-th frame of a JSON file, see `parse`."""
  return parse(path, read_object(path), stride, finder)


def parse(
  path: pathlib.Path,
  content: dict[str, Any],
  stride: int,
  finder: file_names.Finder,
) -> Frames:
  """Checks every `stride`-th frame of a file's content.

  Args:
    path: the file.
    content: what it holds, from `read_object`.
    stride: 1 or more.
    finder: finds the images, below the scene's folder.

  Raises:
    DataError: if it is invalid; names the frame and field.
  """
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
  return Frames(
    json=path,
    names=names,
    images=tuple(finder.find(name) for name in names),
    poses=np.stack(poses),
    lenses=tuple(lenses),
    unused=frozenset(fields - _USED),
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

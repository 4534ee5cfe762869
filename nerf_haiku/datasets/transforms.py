"""Reads captures with a `transforms.json` of instant-ngp or nerfstudio."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nerf_haiku import camera_checks, errors
from nerf_haiku.datasets import (
  captures,
  image_files,
  lens_fields,
  photo_files,
  transforms_json,
)
from nerf_haiku.io import file_names, messages

FILE = 'transforms.json'

# instant-ngp's unit cube, in which scenes are scaled and moved by default.
_SCALE, _OFFSET = 0.33, (0.5, 0.5, 0.5)


def is_scene(folder: pathlib.Path) -> bool:
  """Returns whether a folder holds such a capture."""
  return (folder / FILE).is_file()


def read(folder: pathlib.Path, down_factor: int) -> captures.Capture:
  """Reads the cameras of a capture, and finds its photographs.

  Args:
    folder: holds `transforms.json`.
    down_factor: see `load`.

  Raises:
    DataError: if the file cannot be used.
  """
  path = folder / FILE
  finder = file_names.Finder(folder, transforms_json.SUFFIXES)
  content = transforms_json.read_object(path)
  frames = transforms_json.parse(path, content, 1, finder, masks=True)
  names = [
    image.relative_to(folder).as_posix() if image else name
    for name, image in zip(frames.names, frames.images, strict=True)
  ]
  photos = photo_files.find(names, finder, down_factor)
  sizes = _sizes(frames, photos, down_factor)
  unused = frames.unused - {'aabb_scale', 'scale', 'offset'}
  notices = [f"Cameras are from {FILE} (dataset_type='transforms')."]
  if unused:
    notices.append(
      f'Fields of {FILE} that are not used: '
      f'{messages.list_names(sorted(unused))}.'
    )
  return captures.Capture(
    folder=folder,
    source=path,
    names=tuple(names),
    photos=photos,
    camera_to_world=frames.poses[:, :3],
    intrinsics=lens_fields.intrinsics(frames.lenses, sizes, names),
    distortion=np.array([x.distortion for x in frames.lenses]),
    fisheye=np.array([x.fisheye for x in frames.lenses]),
    sizes=sizes,
    points=np.zeros((0, 3)),
    masks=tuple(finder.find(x) if x else None for x in frames.masks),
    lists=_lists(frames._replace(images=photos.paths), names, content, finder),
    box=_box(path, content),
    notices=tuple(notices),
  )


def _sizes(
  frames: transforms_json.Frames, photos: photo_files.Photos, down_factor: int
) -> np.ndarray:
  """Returns the sizes `[N, 2]` that the lenses' pixels are of."""
  # Copies of photographs that are missing are smaller by the factor.
  factor = max(down_factor, 1) if photos.down_factor == 1 else 1
  files = [
    (image, 1) if image else (copy, factor)
    for image, copy in zip(frames.images, photos.paths, strict=True)
  ]
  # Only where the file does not say: reading headers takes time.
  needed = [
    i
    for i, (lens, (image, _)) in enumerate(
      zip(frames.lenses, files, strict=True)
    )
    if image and not {'w', 'h'} <= lens.values.keys()
  ]
  headers = image_files.map_files(
    lambda i: image_files.read_header(files[i][0] or pathlib.Path()), needed
  )
  found = np.ones((len(files), 2))
  for i, header in zip(needed, headers, strict=True):
    found[i] = np.array(header[:2]) * files[i][1]
  return lens_fields.sizes(frames.lenses, found)


def _lists(
  frames: transforms_json.Frames,
  names: Sequence[str],
  content: Mapping[str, Any],
  finder: file_names.Finder,
) -> dict[str, tuple[str, ...]]:
  """Returns the names of each split, none if the file does not list them."""
  if not any(name in content for name in transforms_json.NAME_LISTS):
    return {}
  lists = {
    split: tuple(
      names[i]
      for i in transforms_json.find_named(frames, content, field, finder)
    )
    for split, field in zip(
      captures.SPLITS, transforms_json.NAME_LISTS, strict=True
    )
  }
  if not lists['train']:
    raise transforms_json.no_training_names(frames.json)
  return lists


def _box(path: pathlib.Path, content: Mapping[str, Any]) -> np.ndarray | None:
  """Returns the box `[2, 3]` of instant-ngp, in the file's coordinates.

  There, the scene is in a cube of `aabb_scale` around (0.5, 0.5, 0.5), after
  its axes were cycled (y becomes x), scaled and moved.
  """
  if not content.get('aabb_scale'):
    return None
  side = _number(path, 'aabb_scale', content['aabb_scale'])
  scale = _number(path, 'scale', content.get('scale', _SCALE))
  offset = content.get('offset', list(_OFFSET))
  values = camera_checks.parse_matrix([offset])
  if values is None or values.shape != (1, 3):
    raise errors.DataError(
      f'{path}: offset must be 3 numbers, got {messages.shorten(offset)}.'
    )
  center = np.roll((0.5 - values[0]) / scale, 1)
  half = 0.5 * side / scale
  return np.stack([center - half, center + half])


def _number(path: pathlib.Path, field: str, value: Any) -> float:
  if not camera_checks.is_finite(value) or not value > 0:
    raise errors.DataError(
      f'{path}: {field} must be a number over 0, got {messages.shorten(value)}.'
    )
  return float(value)


# Loads a scene, see `captures.load`.
load = functools.partial(
  captures.load,
  captures.Reader(required_file=FILE, is_scene=is_scene, read=read),
)

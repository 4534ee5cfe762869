"""Reads captures with a model of COLMAP."""

import functools
import pathlib
from collections.abc import Sequence

from nerf_haiku import errors
from nerf_haiku.datasets import (
  captures,
  colmap_model,
  photo_files,
  transforms_json,
)
from nerf_haiku.io import file_names, messages

# Folders that programs keep photographs in, below that of the capture.
_PLACES = ('images', 'input', 'photos')
_MASKS = 'masks'


def is_scene(folder: pathlib.Path) -> bool:
  """Returns whether a folder holds such a capture."""
  return bool(colmap_model.find(folder))


def read(folder: pathlib.Path, down_factor: int) -> captures.Capture:
  """Reads the model of a capture, and finds its photographs.

  Args:
    folder: of the capture.
    down_factor: see `load`.

  Raises:
    DataError: if the model cannot be used.
  """
  model = colmap_model.read(folder)
  finder = file_names.Finder(folder, transforms_json.SUFFIXES)
  for name in model.names:
    if finder.is_outside(name):
      raise errors.DataError(
        f'{model.folder}: the image {messages.shorten(name)} leads out of the '
        'folder of the capture: rename it.'
      )
  place = _find_place(model.names, finder)
  names = [f'{place}/{name}' if place else name for name in model.names]
  photos = photo_files.find(names, finder, down_factor)
  where = model.folder.relative_to(folder).as_posix()
  notice = (
    f"Cameras are from the model of COLMAP in {where} (dataset_type='colmap')."
  )
  without_pose = _without_pose(folder, place, names, photos)
  return captures.Capture(
    folder=folder,
    source=model.folder,
    names=tuple(names),
    photos=photos,
    camera_to_world=model.camera_to_world,
    intrinsics=model.intrinsics,
    distortion=model.distortion,
    fisheye=model.fisheye,
    sizes=model.sizes,
    points=model.points,
    masks=tuple(_find_mask(name, finder) for name in model.names),
    lists={},
    box=None,
    notices=(notice, *model.notices, *without_pose),
  )


def _find_place(names: Sequence[str], finder: file_names.Finder) -> str:
  """Returns the folder that has most of the photographs; '' is that above."""

  def count(place: str) -> int:
    return sum(
      finder.find(f'{place}/{name}' if place else name) is not None
      for name in names
    )

  counts = {place: count(place) for place in (*_PLACES, '')}
  return max(counts, key=counts.__getitem__)


def _find_mask(name: str, finder: file_names.Finder) -> pathlib.Path | None:
  """Finds the mask of a photograph: `NAME.png`, or without the old suffix."""
  path = pathlib.PurePosixPath(_MASKS, name)
  return finder.find(f'{path}.png') or finder.find(
    str(path.with_suffix('.png'))
  )


def _without_pose(
  folder: pathlib.Path,
  place: str,
  names: Sequence[str],
  photos: photo_files.Photos,
) -> tuple[str, ...]:
  """Returns a notice of the photographs that have no pose, if there are any."""
  root = folder / place
  if not root.is_dir():
    return ()
  used = {str(path) for path in photos.paths if path}
  used |= {str(folder / name) for name in names}
  # Other folders beside a model are not of photographs.
  entries = root.rglob('*') if place else root.glob('*')
  others = sorted(
    path.relative_to(root).as_posix()
    for path in entries
    if path.suffix.lower() in transforms_json.SUFFIXES
    and not path.name.startswith('.')
    and str(path) not in used
    and path.is_file()
  )
  if not others:
    return ()
  total = len(others) + len(names)
  return (
    f'{len(others)} of {total} photographs have no pose in the model, and are '
    f'left out: {messages.list_names(others)}.',
  )


# Loads a scene, see `captures.load`.
load = functools.partial(
  captures.load,
  captures.Reader(
    required_file='a model of COLMAP', is_scene=is_scene, read=read
  ),
)

"""Reads a model of COLMAP: the poses and lenses of photographs, and points.

COLMAP reconstructs a scene as one model or several, each a folder of files
(`colmap_files`). Its cameras have x to the right, y down and z forward; its
poses are of the world in their axes. Files of rigs and frames are not needed:
each image has its own pose.
"""

import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial import transform

from nerf_haiku import camera_checks, errors, lenses
from nerf_haiku import poses as poses_lib
from nerf_haiku.datasets import colmap_files
from nerf_haiku.io import messages, safe_reading

# Where programs put models, below the folder of a capture.
_PLACES = ('sparse', 'colmap/sparse', '.')
_SUFFIXES = ('.bin', '.txt')  # In order of preference.
_FOCAL = ('fx', 'fy')
_CENTER = ('cx', 'cy')
_READABLE = frozenset(lenses.PERSPECTIVE_MODELS + lenses.FISHEYE_MODELS)
_DENOMINATOR = ('d4', 'd5', 'd6')  # Of FULL_OPENCV: must be 0.
_UNDISTORT = (
  "undistort the photographs with COLMAP's image_undistorter (pycolmap: "
  'undistort_images), and use the model that it writes'
)
_MAX_SIDE = 1_000_000  # Of an image, pixels.
_UNIT_TOLERANCE = 1e-3  # Of a quaternion's length; files may round.


class Model(NamedTuple):
  """`N` registered images, sorted by name, and `P` points."""

  folder: pathlib.Path  # that holds the model's files.
  names: tuple[str, ...]  # of the images, below their folder.
  camera_to_world: np.ndarray  # [N, 3, 4] float64, OpenGL's axes.
  intrinsics: np.ndarray  # [N, 4] float64 fx, fy, cx, cy in pixels.
  distortion: np.ndarray  # [N, 6] float64 k1, k2, k3, k4, p1, p2.
  fisheye: np.ndarray  # [N] bool: distortion is of the angle to the axis.
  sizes: np.ndarray  # [N, 2] int32, height and width of the model's cameras.
  points: np.ndarray  # [P, 3] float64.
  notices: tuple[str, ...]  # for the user, about what was chosen.


class Files(NamedTuple):
  """The files of a model."""

  folder: pathlib.Path
  cameras: pathlib.Path
  images: pathlib.Path
  points: pathlib.Path | None  # None: there is no such file.


class _Lens(NamedTuple):
  """A camera in the terms of `Model`."""

  intrinsics: list[float]
  distortion: list[float]
  fisheye: bool
  size: tuple[int, int]  # height, width.


def find(folder: pathlib.Path) -> tuple[Files, ...]:
  """Finds the models of a capture.

  `folder` is a model, or these are looked for in its folders `sparse` and
  `colmap/sparse` and then in itself: the first that is or holds models counts.

  Args:
    folder: of the capture, or of a model.

  Returns:
    Several if COLMAP could not join all images, none if there is no model.

  Raises:
    OSError: if a folder cannot be listed.
  """
  itself = _files(folder)
  if itself:
    return (itself,)
  for root in (folder / place for place in _PLACES):
    model = _files(root)
    models = (model,) if model else _models_in(root)
    if models:
      return models
  return ()


def _models_in(folder: pathlib.Path) -> tuple[Files, ...]:
  """Returns the models whose folders are in a folder; 10 comes after 9."""
  if not folder.is_dir():
    return ()
  folders = sorted(folder.iterdir(), key=lambda x: (len(x.name), x.name))
  return tuple(model for model in map(_files, folders) if model)


def _files(folder: pathlib.Path) -> Files | None:
  """Returns the files of the model in a folder, None if it holds none."""
  for suffix in _SUFFIXES:
    cameras, images, points = (
      folder / f'{stem}{suffix}' for stem in ('cameras', 'images', 'points3D')
    )
    if cameras.exists() and images.exists():
      return Files(folder, cameras, images, points if points.exists() else None)
  return None


@safe_reading.wrap_os_errors()
def read(folder: pathlib.Path) -> Model:
  """Reads the model of a capture that has the most registered images.

  Args:
    folder: of the capture, or of a model: see `find`.

  Raises:
    DataError: if there is no model, or it cannot be used; names the file, and
      the byte or line in it.
  """
  models = find(folder)
  if not models:
    raise errors.DataError(
      f'{folder}: holds no model of COLMAP: cameras.bin and images.bin (or '
      '.txt) are in none of it, sparse, colmap/sparse and the folders in these.'
    )
  all_images = [colmap_files.read_images(model.images) for model in models]
  counts = [len(images) for images in all_images]
  best = counts.index(max(counts))
  files = models[best]
  cameras = colmap_files.read_cameras(files.cameras)
  images = _sort(files, all_images[best])
  points, notices = np.zeros((0, 3)), _choice(folder, models, counts, best)
  if files.points is None:
    notices += (
      f'{files.folder}: there is no points3D{files.images.suffix}: the scene '
      'is placed by its cameras alone.',
    )
  else:
    points = colmap_files.read_points(files.points)
  return _assemble(files, cameras, images, points, notices)


def _choice(
  folder: pathlib.Path,
  models: Sequence[Files],
  counts: Sequence[int],
  best: int,
) -> tuple[str, ...]:
  """Returns a notice of which model is read, if there are several."""
  if len(models) == 1:
    return ()
  others = ', '.join(
    f'{model.folder.name} ({count})'
    for i, (model, count) in enumerate(zip(models, counts, strict=True))
    if i != best
  )
  return (
    f'{folder}: of {len(models)} models, {models[best].folder.name} is read, '
    f'with {counts[best]} registered images, the most; not read: {others}.',
  )


def _sort(
  files: Files, images: Sequence[colmap_files.Image]
) -> list[colmap_files.Image]:
  """Returns the images in the order of their names, which must differ."""
  if not images:
    raise errors.DataError(
      f'{files.images}: there are no registered images: reconstruct the scene '
      'again, from photographs that overlap more.'
    )
  images = sorted(images, key=lambda image: image.name)
  for i in range(1, len(images)):
    if images[i].name == images[i - 1].name:
      raise errors.DataError(
        f'{images[i].place}: two images have the name '
        f'{messages.shorten(images[i].name)}: remove one.'
      )
  return images


def _assemble(
  files: Files,
  cameras: dict[int, colmap_files.Camera],
  images: Sequence[colmap_files.Image],
  points: np.ndarray,
  notices: tuple[str, ...],
) -> Model:
  for image in images:
    _check_pose(image)
    if image.camera not in cameras:
      raise errors.DataError(
        f'{image.place}: the camera {image.camera} of image '
        f'{messages.shorten(image.name)} is not in {files.cameras}: copy both '
        'files again from one model.'
      )
  used = {image.camera for image in images}
  by_id = {number: _lens(number, cameras[number]) for number in sorted(used)}
  rows = [by_id[image.camera] for image in images]
  camera_to_world = _camera_to_world(np.array([x.pose for x in images]))
  for image, position in zip(images, camera_to_world[:, :, 3], strict=True):
    field = f'{image.place}: image {messages.shorten(image.name)}'
    camera_checks.check_positions(field, position)
  return Model(
    folder=files.folder,
    names=tuple(image.name for image in images),
    camera_to_world=camera_to_world,
    intrinsics=np.array([x.intrinsics for x in rows]),
    distortion=np.array([x.distortion for x in rows]),
    fisheye=np.array([x.fisheye for x in rows]),
    sizes=np.array([x.size for x in rows], np.int32),
    points=points,
    notices=notices,
  )


def _check_pose(image: colmap_files.Image) -> None:
  quaternion, translation = image.pose[:4], image.pose[4:]
  if not abs(math.hypot(*quaternion) - 1.0) <= _UNIT_TOLERANCE:
    raise errors.DataError(
      f'{image.place}: the quaternion of image {messages.shorten(image.name)} '
      f'must have length 1, got {messages.shorten(list(quaternion))}: write '
      'the model again.'
    )
  if not all(map(camera_checks.is_finite, translation)):
    raise errors.DataError(
      f'{image.place}: the translation of image {messages.shorten(image.name)} '
      f'must be 3 finite numbers, got {messages.shorten(list(translation))}: '
      'write the model again.'
    )


def _camera_to_world(poses: np.ndarray) -> np.ndarray:
  """Converts poses of COLMAP.

  Args:
    poses: `[N, 7]` unit quaternion, w first, and translation; world to camera.

  Returns:
    `[N, 3, 4]` camera-to-world, OpenGL's axes.
  """
  quaternions = np.roll(poses[:, :4], -1, axis=1)  # SciPy has w last.
  rotations = transform.Rotation.from_quat(quaternions).as_matrix()
  centers = -np.einsum('nji,nj->ni', rotations, poses[:, 4:])
  axes = np.swapaxes(rotations, 1, 2) @ poses_lib.OPENCV
  return np.concatenate([axes, centers[:, :, None]], axis=2)


def _lens(number: int, camera: colmap_files.Camera) -> _Lens:
  field = f'{camera.place}: camera {number}'
  names = colmap_files.CAMERA_MODELS[camera.model]
  params = dict(zip(names, camera.params, strict=True))
  denominator = [params.get(name, 0.0) for name in _DENOMINATOR]
  if camera.model not in _READABLE or any(denominator):
    values = ' with k4, k5 or k6' if any(denominator) else ''
    raise errors.DataError(
      f'{field} is of model {camera.model}{values}, which is not read: '
      f'{_UNDISTORT}.'
    )
  sides = camera.width, camera.height
  if not all(1 <= side <= _MAX_SIDE for side in sides):
    raise errors.DataError(
      f'{field}: width and height must be 1 to {_MAX_SIDE} pixels, got '
      f'{camera.width} and {camera.height}: write the model again.'
    )
  for name, value in params.items():
    if not abs(value) <= camera_checks.MAX_MAGNITUDE:
      raise errors.DataError(
        f'{field}: {name} must be a number, at most '
        f'{camera_checks.MAX_MAGNITUDE:g}, got {value:g}: write the model '
        'again.'
      )
  focal = [params.get(name, params.get('f', 0.0)) for name in _FOCAL]
  camera_checks.check_focal_lengths(field, np.array(focal))
  return _Lens(
    intrinsics=[*focal, *(params[name] for name in _CENTER)],
    distortion=[params.get(name, 0.0) for name in lenses.COEFFICIENTS],
    fisheye=camera.model in lenses.FISHEYE_MODELS,
    size=(camera.height, camera.width),
  )

"""The scene of the tiny NeRF notebook: one `.npz` of images and poses."""

import os
import pathlib

import numpy as np

from nerf_haiku import camera_paths, cameras, errors, scenes
from nerf_haiku.datasets import areas, checks
from nerf_haiku.io import inputs

_KEYS = ('images', 'poses', 'focal')
# Colours this near to multiples of 1 / 255 are those of 8 bits.
_ROUNDING = 1e-4


@inputs.named_errors()
def load(
  data_dir: str,
  shape: str,
  *,
  num_train: int = 100,
  testskip: int,
  down_factor: int,
  num_poses: int,
  near: float,
  far: float,
  box: checks.Box = None,
) -> scenes.Scene:
  """Loads a scene.

  The file holds `images` `[N, H, W, 3]` (or 4, with alpha), floats in [0, 1]
  or uint8; `poses` `[N, 4, 4]`, camera-to-world with OpenGL's axes; `focal`,
  pixels. Nothing in it is unpickled.

  Args:
    data_dir: the file, or a folder with `<shape>.npz`.
    shape: name of the file, without its ending.
    num_train: so many views, the first ones, are for training; the others for
      validation and test.
    testskip: of these every `testskip`-th view is used; 0 and 1 are all.
    down_factor: images are reduced by it, by area averaging.
    num_poses: cameras on the circle of the render video.
    near: where rays begin, scene units along the optical axis.
    far: where rays end.
    box: `[2, 3]` corners that rays are clipped to, scene units, or None.

  Raises:
    DataError: the file is missing or can not be used.
    UserError: a setting is out of its range.
  """
  checks.settings(
    testskip=testskip,
    down_factor=down_factor,
    num_poses=num_poses,
    num_train=num_train,
    near=near,
    far=far,
  )
  corners = checks.box(box)
  path = _find(data_dir, shape)
  images, found, focal = _read(path)
  if num_train >= len(images):
    raise errors.DataError(
      f'{path}: holds {len(images)} views, of which tiny.num_train={num_train} '
      'are to train on: there must be others to test on.'
    )
  height, width = images.shape[1:3]
  if down_factor > min(height, width):
    raise errors.UserError(
      f'down_factor={down_factor} is larger than a side of the images of '
      f'{path} ({width}x{height} pixels).'
    )
  full = np.tile((height, width), (len(images), 1))
  taken = cameras.pinhole(found, full, np.full(len(images), focal))
  taken = cameras.scale(taken, full // down_factor)
  stored = _stored(images, height // down_factor, width // down_factor)
  train = _split(stored, taken, slice(num_train))
  test = _split(stored, taken, slice(num_train, None, max(testskip, 1)))
  around = cameras.with_poses(camera_paths.circle(num_poses), taken)
  notices: tuple[str, ...] = ()
  if height % down_factor or width % down_factor:
    notices = (
      'The images have a size that down_factor does not divide: rounded down, '
      'the focal length scaled by the real ratio of each axis.',
    )
  return scenes.Scene(train, test, test, near, far, corners, around, notices)


def _find(data_dir: str, shape: str) -> pathlib.Path:
  root = checks.home(data_dir)
  if os.path.isfile(root):  # Of any string: pathlib's raises for some.
    return root
  root = checks.existing_folder(data_dir)
  path = root / f'{shape.removesuffix(".npz")}.npz'
  if not path.is_file():
    there = ', '.join(sorted(p.stem for p in root.glob('*.npz'))) or 'none'
    raise errors.DataError(
      f'{str(path)[:1000]}: no such file, for shape={checks.short(shape)} in '
      f'data_dir={checks.short(data_dir)}. Scenes there: {there}.'
    )
  return path


def _read(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray, float]:
  """Images `[N, H, W, C]` as stored, poses `[N, 4, 4]`, focal length."""
  arrays = inputs.read_npz(path, _KEYS)
  for key in _KEYS:
    if key not in arrays:
      raise errors.DataError(
        f'{path}: has no array {key!r}; it must hold {", ".join(_KEYS)}.'
      )
  images, found, focal = (arrays[key] for key in _KEYS)
  _check_images(path, images)
  if found.ndim != 3 or len(found) != len(images):
    raise errors.DataError(
      f'{path}: poses must be [N, 4, 4] for the {len(images)} images, got '
      f'{list(found.shape)}.'
    )
  checked = [
    checks.pose(f'{path}: poses[{i}]', x.tolist()) for i, x in enumerate(found)
  ]
  focal = focal.item() if focal.size == 1 else focal.tolist()
  if not (checks.is_finite(focal) and focal > 0):
    raise errors.DataError(
      f'{path}: focal must be one number over 0, pixels, got '
      f'{checks.short(focal)}.'
    )
  checks.focal(f'{path}: focal', np.array([focal]))
  return images, np.stack(checked), float(focal)


def _check_images(path: pathlib.Path, images: np.ndarray) -> None:
  shape = list(images.shape)
  if images.ndim != 4 or 0 in shape or shape[-1] not in (3, 4):
    raise errors.DataError(
      f'{path}: images must be [N, H, W, 3], or 4 with alpha, got {shape}.'
    )
  if images.dtype == np.uint8:
    return
  if images.dtype.kind != 'f':
    raise errors.DataError(
      f'{path}: images must be floats or uint8, got {images.dtype}.'
    )
  for i, image in enumerate(images):
    low, high = image.min(), image.max()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # Fails for NaN.
      raise errors.DataError(
        f'{path}: images[{i}] must be within [0, 1], got {low:g} to {high:g}.'
      )


def _split(
  images: np.ndarray, views: cameras.Cameras, which: slice
) -> scenes.Split[scenes.Images]:
  """Some of the images and their cameras."""
  taken = cameras.Cameras(*(x[which] for x in views))
  pixels = images[which].reshape(-1, images.shape[-1])
  return scenes.Split(scenes.Images(pixels, taken.sizes), taken)


def _stored(images: np.ndarray, height: int, width: int) -> np.ndarray:
  """Images as scenes hold them: uint8 where that loses nothing, or uint16."""
  whole = images.shape[1:3] == (height, width)
  if images.dtype != np.uint8:
    images = 255 * np.clip(images, 0, 1, dtype=np.float32)
  near = np.rint(images)
  if whole and np.all(np.abs(images - near) < 255 * _ROUNDING):
    return near.astype(np.uint8)
  return np.stack(
    [np.rint(areas.reduce(image, height, width) * 257.0) for image in images]
  ).astype(np.uint16)

"""Reads the scene of the tiny NeRF notebook: a `.npz` of images and poses."""

import hashlib
import os
import pathlib

import numpy as np

from nerf_haiku import camera_checks, camera_paths, cameras, errors, scenes
from nerf_haiku.datasets import area_resize, checks, scene_folders
from nerf_haiku.io import messages, safe_reading

_KEYS = ('images', 'poses', 'focal')
# Colors this near to multiples of 1 / 255 are taken as 8-bit colors.
_TOLERANCE = 1e-4


@safe_reading.wrap_os_errors()
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
  original_path: bool = False,
) -> scenes.Scene:
  """Loads a scene.

  The file holds `images` `[N, H, W, 3]` (or 4, with alpha), floats in [0, 1]
  or uint8; `poses` `[N, 4, 4]`, camera-to-world with OpenGL's axes; `focal`,
  pixels. Nothing in it is unpickled.

  Args:
    data_dir: the file, or a folder with `<shape>.npz`.
    shape: name of the file, without its suffix.
    num_train: the first `num_train` views are for training, the others for
      validation and test.
    testskip: every `testskip`-th of the others is used; 0 and 1 mean all.
    down_factor: factor that images are downscaled by, by area averaging.
    num_poses: cameras on the path of the rendered video.
    near: where rays begin, scene units along the optical axis.
    far: where rays end.
    box: `[2, 3]` corners that rays are clipped to, scene units, or None.
    original_path: see `camera_paths.video_path`.

  Returns:
    The scene.

  Raises:
    DataError: if the file is missing or cannot be used.
    UserError: if a setting is out of range.
  """
  checks.check_settings(
    testskip=testskip,
    down_factor=down_factor,
    num_poses=num_poses,
    num_train=num_train,
    near=near,
    far=far,
  )
  corners = checks.parse_box(box)
  path = _find(data_dir, shape)
  images, poses, focal, unused = _read(path)
  _check_counts(path, images.shape, num_train, down_factor)
  height, width = images.shape[1:3]
  full = np.tile((height, width), (len(images), 1))
  cams = cameras.pinhole(poses, full, np.full(len(images), focal))
  cams = cameras.scale(cams, full // down_factor)
  stored = _to_stored(images, height // down_factor, width // down_factor)
  splits = []
  for which in (slice(num_train), slice(num_train, None, max(testskip, 1))):
    digest = hashlib.sha256()
    for source in (images[which], poses[which]):
      digest.update(np.ascontiguousarray(source).data)
    digest.update(repr(focal).encode())
    split = _select(stored, cams, which)
    splits.append(split._replace(digest=digest.hexdigest()))
  train, test = splits
  notices = []
  if unused:
    names = ', '.join(messages.shorten(name) for name in unused[:8])
    notices.append(f'Arrays of {path.name} that are not used: {names}.')
  if height % down_factor or width % down_factor:
    notices.append(
      'The images have a size that down_factor does not divide: rounded down, '
      'the focal length scaled by the real ratio of each axis.'
    )
  return scenes.Scene(
    train=train,
    val=test,
    test=test,
    near=near,
    far=far,
    box=corners,
    path=camera_paths.video_path(train.cameras, num_poses, original_path),
    notices=tuple(notices),
  )


def _check_counts(
  path: pathlib.Path, shape: tuple[int, ...], num_train: int, down_factor: int
) -> None:
  num_images, height, width, _ = shape
  if num_train >= num_images:
    raise errors.DataError(
      f'{path}: holds {num_images} views, of which tiny.num_train={num_train} '
      'are for training: none is left for testing.'
    )
  if down_factor > min(height, width):
    raise errors.UserError(
      f'down_factor={down_factor} is larger than a side of the images of '
      f'{path} ({width}x{height} pixels).'
    )


def _find(data_dir: str, shape: str) -> pathlib.Path:
  root = safe_reading.expand_user(data_dir)
  if os.path.isfile(root):  # pathlib's raises for some strings.
    return root
  root = scene_folders.check_folder(data_dir)
  path = scene_folders.similar(root, f'{shape.removesuffix(".npz")}.npz')
  if not path.is_file():
    names = ', '.join(sorted(p.stem for p in root.glob('*.npz'))) or 'none'
    raise errors.DataError(
      f'{str(path)[: safe_reading.MAX_NAME_LENGTH]}: no such file, for '
      f'shape={messages.shorten(shape)} in '
      f'data_dir={messages.shorten(data_dir)}. Available scenes: {names}.'
    )
  return path


def _read(
  path: pathlib.Path,
) -> tuple[np.ndarray, np.ndarray, float, list[str]]:
  """Reads images `[N, H, W, C]`, poses `[N, 4, 4]` and the focal length.

  The names of other arrays, which have no effect, come last.
  """
  arrays, others = safe_reading.read_npz(path, _KEYS)
  for key in _KEYS:
    if key not in arrays:
      raise errors.DataError(
        f'{path}: has no array {key!r}; it must hold {", ".join(_KEYS)}.'
      )
  images, poses, focal = (arrays[key] for key in _KEYS)
  _check_images(path, images)
  if poses.ndim != 3 or len(poses) != len(images):
    raise errors.DataError(
      f'{path}: poses must be [N, 4, 4] for the {len(images)} images, got '
      f'{list(poses.shape)}.'
    )
  parsed = [
    camera_checks.parse_pose(f'{path}: poses[{i}]', pose.tolist())
    for i, pose in enumerate(poses)
  ]
  length = focal.item() if focal.size == 1 else focal.tolist()
  if not (camera_checks.is_finite(length) and length > 0):
    raise errors.DataError(
      f'{path}: focal must be one number over 0, in pixels, got '
      f'{messages.shorten(length)}.'
    )
  camera_checks.check_focal_lengths(f'{path}: focal', np.array([length]))
  return images, np.stack(parsed).astype(np.float32), float(length), others


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
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # Fails for NaN.
      raise errors.DataError(
        f'{path}: images[{i}] must be within [0, 1], got {low:g} to {high:g}.'
      )


def _select(
  images: np.ndarray, cams: cameras.Cameras, which: slice
) -> scenes.Split[scenes.Images]:
  """Returns a split of some of the images and their cameras."""
  cams = cameras.take(cams, which)
  pixels = images[which].reshape(-1, images.shape[-1])
  return scenes.Split(scenes.Images(pixels, np.asarray(cams.sizes)), cams)


def _to_stored(images: np.ndarray, height: int, width: int) -> np.ndarray:
  """Returns images as scenes store them: uint8 if lossless, or else uint16."""
  same_size = images.shape[1:3] == (height, width)
  if images.dtype != np.uint8:
    images = 255 * np.clip(images, 0, 1, dtype=np.float32)
  rounded: np.ndarray = np.rint(images)
  if same_size and np.all(np.abs(images - rounded) < 255 * _TOLERANCE):
    return rounded.astype(np.uint8)
  resized = [
    area_resize.downscale_to(image, height, width, white=255, dtype=np.uint16)
    for image in images
  ]
  return np.stack(resized)

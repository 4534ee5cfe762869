"""Writes scenes to disk, in the layouts that the readers read.

With them, readers are tested on files whose contents are known.
"""

import json
import pathlib

import imageio.v3 as iio
import numpy as np

from nerf_haiku import backgrounds, scenes
from nerf_haiku.io import media


def write_blender(scene: scenes.Scene, folder: str | pathlib.Path) -> None:
  """Writes a scene in the layout of NeRF-synthetic.

  That is `transforms_{train,val,test}.json` beside folders of PNG files. The
  layout does not store near, far, box and path.

  Args:
    scene: images are uint8, RGB or RGBA, of any sizes; their cameras look
      through the center of the image and share one horizontal angle of view.
    folder: created if missing; existing files are overwritten.

  Raises:
    ValueError: if the layout cannot represent the scene.
  """
  folder = pathlib.Path(folder)
  splits = {'train': scene.train, 'val': scene.val, 'test': scene.test}
  angle = _angle_of_view(scene)
  for name, split in splits.items():
    (folder / name).mkdir(parents=True, exist_ok=True)
    frames = []
    for i, pose in enumerate(split.cameras.camera_to_world):
      image = _check_uint8(split.images[i])
      iio.imwrite(folder / name / f'r_{i}.png', image)
      frames.append(
        {
          'file_path': f'./{name}/r_{i}',
          'transform_matrix': _to_4x4(pose).tolist(),
        }
      )
    text = json.dumps({'camera_angle_x': angle, 'frames': frames}, indent=2)
    (folder / f'transforms_{name}.json').write_text(text)


def write_llff(scene: scenes.Scene, folder: str | pathlib.Path) -> None:
  """Writes a scene in the layout of LLFF.

  That is `poses_bounds.npy` and PNG files in `images`: the training views, then
  the test views. The layout does not store splits, box and path; near and far
  become the bounds of each view.

  Args:
    scene: images are uint8, RGB or RGBA, of one size; their cameras look
      through the center of the image and have square pixels.
    folder: created if missing; existing files are overwritten.

  Raises:
    ValueError: if the layout cannot represent the scene.
  """
  folder = pathlib.Path(folder)
  (folder / 'images').mkdir(parents=True, exist_ok=True)
  _check_central(_check_one_lens(scene))
  rows: list[list[float]] = []
  for split in (scene.train, scene.test):
    cams = split.cameras
    for i, pose in enumerate(np.asarray(cams.camera_to_world, np.float64)):
      name = f'image{len(rows):06}.png'
      iio.imwrite(folder / 'images' / name, _check_uint8(split.images[i]))
      right, up, backward, center = pose.T
      size = [*cams.sizes[i], cams.intrinsics[i, 0]]
      matrix = np.stack([-up, right, backward, center, size], axis=1)
      rows.append([*matrix.ravel(), scene.near, scene.far])
  np.save(folder / 'poses_bounds.npy', np.array(rows, np.float64))


def write_deepvoxels(
  scene: scenes.Scene, folder: str | pathlib.Path, shape: str
) -> None:
  """Writes a scene in the layout of DeepVoxels, on white.

  That is, for each split, `rgb/*.png`, `pose/*.txt` and `intrinsics.txt` in
  `{train,validation,test}/SHAPE`. The layout does not store near, far, box and
  path.

  Args:
    scene: images are uint8, of one size, and their cameras of one lens with
      square pixels; alpha is composited over white.
    folder: the root, created if missing.
    shape: name of the scene.

  Raises:
    ValueError: if the layout cannot represent the scene.
  """
  focal, cx, cy, height, width = _check_one_lens(scene)
  splits = {'train': scene.train, 'validation': scene.val, 'test': scene.test}
  for name, split in splits.items():
    subfolder = pathlib.Path(folder) / name / shape
    for part in ('rgb', 'pose'):
      (subfolder / part).mkdir(parents=True, exist_ok=True)
    (subfolder / 'intrinsics.txt').write_text(
      f'{focal!r} {cx!r} {cy!r} 0.\n0. 0. 0.\n1.\n1.\n{height:g} {width:g}\n'
    )
    for i, pose in enumerate(split.cameras.camera_to_world):
      image = _check_uint8(split.images[i])
      image = scenes.to_float(image, background=backgrounds.WHITE)
      iio.imwrite(subfolder / 'rgb' / f'{i:06}.png', media.to_uint8(image))
      # From OpenGL's axes to x right, y down, z forward.
      matrix = _to_4x4(pose) @ np.diag([1.0, -1.0, -1.0, 1.0])
      text = ' '.join(repr(float(x)) for x in matrix.ravel())
      (subfolder / 'pose' / f'{i:06}.txt').write_text(text + '\n')


def write_tiny(scene: scenes.Scene, path: str | pathlib.Path) -> None:
  """Writes a scene as the tiny NeRF notebook's `.npz`, on black.

  That is `images`, the training views and then the test views, `poses` and
  `focal`. The layout does not store splits, near, far, box and path.

  Args:
    scene: images of one size, and cameras of one lens with square pixels and a
      central axis; alpha is composited over black.
    path: the file; its folder is created if missing.

  Raises:
    ValueError: if the layout cannot represent the scene.
  """
  focal, *_ = _check_central(_check_one_lens(scene))
  splits = scene.train, scene.test
  images = [
    scenes.to_float(split.images[i], background=backgrounds.BLACK)
    for split in splits
    for i in range(len(split.images))
  ]
  poses = [_to_4x4(p) for s in splits for p in s.cameras.camera_to_world]
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez(
    path, images=np.stack(images), poses=np.stack(poses), focal=np.array(focal)
  )


def _to_4x4(pose: np.ndarray) -> np.ndarray:
  """Returns a `[3, 4]` pose as `[4, 4]`, float64."""
  return np.concatenate([pose, [[0.0, 0.0, 0.0, 1.0]]]).astype(np.float64)


def _check_uint8(image: np.ndarray) -> np.ndarray:
  if image.dtype != np.uint8:
    raise ValueError(f'images must be uint8, got {image.dtype}.')
  return image


def _check_one_lens(
  scene: scenes.Scene,
) -> tuple[float, float, float, float, float]:
  """Returns the focal length, cx, cy, height and width of all cameras.

  Raises:
    ValueError: if cameras differ, or pixels are not square.
  """
  splits = scene.train, scene.val, scene.test
  _check_pinholes(scene)
  lenses = np.concatenate(
    [np.concatenate([s.cameras.intrinsics, s.cameras.sizes], 1) for s in splits]
  ).astype(np.float64)
  if not np.allclose(lenses, lenses[0], rtol=1e-6):
    raise ValueError('cameras must share one lens and one size of image.')
  fx, fy, cx, cy, height, width = lenses[0].tolist()
  if not np.allclose(fx, fy, rtol=1e-6):
    raise ValueError(f'cameras must have square pixels, got {fx} and {fy}.')
  return fx, cx, cy, height, width


def _check_pinholes(scene: scenes.Scene) -> None:
  for split in (scene.train, scene.val, scene.test):
    if split.cameras.distortion is not None:
      raise ValueError('cameras must be without distortion.')


def _check_central(lens: tuple[float, ...]) -> tuple[float, ...]:
  """Returns a lens after checking that its axis is central."""
  _, cx, cy, height, width = lens
  if not np.allclose([cx, cy], [width / 2, height / 2]):
    raise ValueError('cameras must have a central axis.')
  return lens


def _angle_of_view(scene: scenes.Scene) -> float:
  """Returns the horizontal angle of view of all cameras, in radians."""
  splits = scene.train, scene.val, scene.test
  _check_pinholes(scene)
  sizes = np.concatenate([s.cameras.sizes for s in splits])
  fx, fy, cx, cy = np.concatenate([s.cameras.intrinsics for s in splits]).T
  height, width = np.asarray(sizes, np.float64).T
  angles = 2 * np.arctan(0.5 * width / fx)
  if not np.allclose(angles, angles[0], rtol=1e-6):
    raise ValueError(
      'cameras must share one angle of view, got '
      f'{angles.min():.6f} to {angles.max():.6f} radians.'
    )
  middle = np.stack([width, height]) / 2
  if not (np.allclose([cx, cy], middle) and np.allclose(fx, fy)):
    raise ValueError('cameras must have square pixels and a central axis.')
  return float(np.median(angles))

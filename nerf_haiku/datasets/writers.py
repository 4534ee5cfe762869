"""Writes scenes to disk, in the layouts that the readers read.

So readers are tested on files whose truth is known.
"""

import json
import pathlib

import imageio.v3 as iio
import numpy as np

from nerf_haiku.datasets import base


def write_blender(scene: base.Scene, folder: str | pathlib.Path) -> None:
  """Writes a scene in the layout of NeRF-synthetic.

  That is `transforms_{train,val,test}.json` beside folders of PNG files. The
  layout has no place for near, far, box and path.

  Args:
    scene: images are uint8, RGB or RGBA, of any sizes; their cameras look
      through the middle of the image and share one horizontal angle of view.
    folder: made where it is missing; files in it are written over.

  Raises:
    ValueError: a scene that the layout can not hold.
  """
  folder = pathlib.Path(folder)
  splits = {'train': scene.train, 'val': scene.val, 'test': scene.test}
  angle = _angle_of_view(scene)
  for name, split in splits.items():
    (folder / name).mkdir(parents=True, exist_ok=True)
    frames = []
    for i, pose in enumerate(split.cameras.camera_to_world):
      image = split.images[i]
      if image.dtype != np.uint8:
        raise ValueError(f'images must be uint8, got {image.dtype}.')
      iio.imwrite(folder / name / f'r_{i}.png', image)
      matrix = np.concatenate([pose, [[0.0, 0.0, 0.0, 1.0]]])
      frames.append({
        'file_path': f'./{name}/r_{i}',
        'transform_matrix': matrix.astype(np.float64).tolist(),
      })  # fmt: skip
    text = json.dumps({'camera_angle_x': angle, 'frames': frames}, indent=2)
    (folder / f'transforms_{name}.json').write_text(text)


def _angle_of_view(scene: base.Scene) -> float:
  """The horizontal angle of view of all cameras, radians."""
  splits = scene.train, scene.val, scene.test
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

"""Writes small captures: photographs all around a point, and their cameras."""

import json

import numpy as np
from PIL import Image
from scipy.spatial import transform

from nerf_haiku import poses as poses_lib
from tests.support import colmap

HEIGHT, WIDTH = 8, 12
FOCAL, CENTER = (13.0, 14.0), (6.5, 3.75)  # x, y in pixels.
RADIUS = 4.0
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
# Of the world: x, y, z are y, z, x of a world in which z is up.
TURN = np.eye(4)[[1, 2, 0, 3]]


def names(count):
  """Names whose order as strings is not that of their numbers."""
  return [f'left cam/{i}.png' for i in range(1, count + 1)]


def poses(count, *, shift=0.0, scale=1.0):
  """Poses `[N, 4, 4]`, `RADIUS` from the middle and 30 degrees above it."""
  angles = 2 * np.pi * np.arange(count) / count
  centers = RADIUS * np.stack(
    [
      np.sqrt(0.75) * np.cos(angles),
      np.sqrt(0.75) * np.sin(angles),
      np.full(count, 0.5),
    ],
    axis=-1,
  )
  flat = np.stack([poses_lib.from_axes(c, (0, 0, 1), c) for c in centers])
  last = np.tile([[[0.0, 0.0, 0.0, 1.0]]], (count, 1, 1))
  pose = TURN @ np.concatenate([flat, last], axis=1)
  pose[:, :3, 3] = scale * pose[:, :3, 3] + shift
  return pose


def photo(number, size=(HEIGHT, WIDTH)):
  """Noise, such that each photograph is known by its colors."""
  rng = np.random.default_rng(number)
  return rng.integers(0, 256, (*size, 3), np.uint8)


def write_photos(folder, photo_names, size=(HEIGHT, WIDTH)):
  for i, name in enumerate(photo_names):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(i, size)).save(path)


def transforms(photo_names, pose, **fields):
  """The content of a `transforms.json`."""
  return {
    'w': WIDTH,
    'h': HEIGHT,
    'fl_x': FOCAL[0],
    'fl_y': FOCAL[1],
    'cx': CENTER[0],
    'cy': CENTER[1],
    'frames': [
      {'file_path': f'./images/{x}', 'transform_matrix': p.tolist()}
      for x, p in zip(photo_names, pose, strict=True)
    ],
  } | fields


def write_transforms(folder, photo_names, pose, **fields):
  content = transforms(photo_names, pose, **fields)
  (folder / 'transforms.json').write_text(json.dumps(content))


def write_colmap(folder, photo_names, pose, points=(), cameras=(), model=1):
  """Writes a model into `folder/sparse/0`; the ids are in no order."""
  images = []
  for i, (name, matrix) in enumerate(zip(photo_names, pose, strict=True)):
    world_to_camera = np.linalg.inv(matrix @ _FLIP)
    rotation = transform.Rotation.from_matrix(world_to_camera[:3, :3])
    x, y, z, w = rotation.as_quat()
    images.append(
      colmap.image(
        number=100 - 3 * i,
        pose=(w, x, y, z, *world_to_camera[:3, 3]),
        name=name.encode(),
        num_points=i % 3,
      )
    )
  camera = colmap.camera(
    model=model, width=WIDTH, height=HEIGHT, params=(*FOCAL, *CENTER)
  )
  colmap.write(
    folder / 'sparse' / '0', cameras=cameras or [camera], images=images
  )
  (folder / 'sparse' / '0' / 'points3D.bin').write_bytes(
    colmap.records(*(colmap.point(i, x) for i, x in enumerate(points)))
  )


def write(folder, count=10, *, points=(), **moved):
  """Writes photographs, and their cameras for both readers."""
  photo_names, pose = names(count), poses(count, **moved)
  write_photos(folder / 'images', photo_names)
  write_transforms(folder, photo_names, pose)
  write_colmap(folder, photo_names, pose, points)

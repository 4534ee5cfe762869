"""Tiny valid scenes of every layout, and plain readers of their files.

The readers here follow the layouts' definitions and check nothing. What a
loader returns for a damaged scene is compared with what they return.
"""

import dataclasses
import json
import pathlib
import struct
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.spatial import transform

from nerf_haiku import backgrounds, cameras, scenes
from nerf_haiku.datasets import (
  blender,
  colmap,
  deepvoxels,
  llff,
  tiny,
  transforms,
  writers,
)
from tests.support import captures
from tests.support import colmap as colmap_writer

SHAPE = 'toy'
_HEIGHT, _WIDTH, _FOCAL = 6, 8, 7.0
_BOUNDS = {'near': 2.0, 'far': 6.0}
_FLIP = np.diag([1.0, -1.0, -1.0])


@dataclasses.dataclass
class View:
  """An image, and the camera that took it."""

  image: np.ndarray  # [H, W, 3] uint8.
  pose: np.ndarray  # [3, 4] camera to world, OpenGL's axes.
  focal: float  # in widths of the image.


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a scene is written, loaded and read plainly."""

  write: Callable[[scenes.Scene, pathlib.Path], None]
  load: Callable[..., scenes.Scene]  # of a root and changed settings.
  read: Callable[[pathlib.Path], list[View]]
  settings: dict
  normalized: bool = False  # Poses are known up to a motion and a scale.


def make_scene() -> scenes.Scene:
  """Makes four training views and two each to validate and test."""
  rng = np.random.default_rng(0)
  splits, first = [], 0
  for num in (4, 2, 2):
    images = rng.integers(0, 256, (num, _HEIGHT, _WIDTH, 3), np.uint8)
    poses = np.stack([_pose(first + i) for i in range(num)])
    sizes = np.tile((_HEIGHT, _WIDTH), (num, 1))
    cams = cameras.pinhole(
      poses.astype(np.float32), sizes, np.full(num, _FOCAL)
    )
    stored = scenes.Images(images.reshape(-1, 3), sizes)
    splits.append(scenes.Split(stored, cams))
    first += num
  return scenes.Scene(
    *splits, near=2.0, far=6.0, box=None, path=splits[0].cameras, notices=()
  )


def _pose(number: int) -> np.ndarray:
  """Returns a pose, rotated a little; its position identifies the view."""
  y, z = 0.03 * number, 0.05 * number
  about_y = [[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]]
  about_z = [[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]]
  pose = np.eye(4)
  pose[:3, :3] = np.array(about_y) @ about_z
  pose[:3, 3] = [0.2 * number, 0.1 * number**2, 4 + 0.01 * number]
  return pose


def compare(
  layout: Layout, scene: scenes.Scene, views: list[View]
) -> str | None:
  """Compares the cameras of a loaded scene with those of plain views.

  Args:
    layout: of the scene.
    scene: loaded at full size.
    views: all views that the scene may consist of.

  Returns:
    A description of the first difference, or None.
  """
  loaded: list[View] = []
  for split in (scene.train, scene.val, scene.test):
    for i in range(len(split.images)):
      image = scenes.to_float(split.images[i], background=backgrounds.WHITE)
      fx = float(split.cameras.intrinsics[i, 0])
      pose = np.asarray(split.cameras.camera_to_world[i, :3], np.float64)
      loaded.append(View(image * 255, pose, fx / image.shape[1]))
  partners = [_nearest(view, views) for view in loaded]
  if layout.normalized:
    loaded, partners = _relative(loaded), _relative(partners)
  for i, (view, partner) in enumerate(zip(loaded, partners, strict=True)):
    scale = max(np.abs(partner.pose).max(), 1)
    if not np.allclose(view.pose, partner.pose, atol=1e-4 * scale):
      return f'view {i}: pose {view.pose}, must be {partner.pose}'
    if not np.isclose(view.focal, partner.focal, rtol=1e-3):
      return f'view {i}: focal {view.focal}, must be {partner.focal}'
  return None


def _nearest(loaded: View, views: list[View]) -> View:
  """Returns the view of the same image; of several, the nearest pose."""

  def distance(view):
    if view.image.shape != loaded.image.shape:
      return np.inf, 0
    apart = np.abs(view.image - loaded.image).max()
    return round(float(apart)), float(np.abs(view.pose - loaded.pose).max())

  nearest = min(views, key=distance)
  assert distance(nearest)[0] <= 1, 'an image that was never written'
  return nearest


def _relative(views: list[View]) -> list[View]:
  """Moves poses to the frame of the first, the farthest at distance 1."""
  first = views[0].pose
  turned = [first[:, :3].T @ v.pose for v in views]
  places = [first[:, :3].T @ (v.pose[:, 3] - first[:, 3]) for v in views]
  scale = max(max(np.linalg.norm(x) for x in places), 1e-30)
  return [
    View(v.image, np.column_stack([t[:, :3], x / scale]), v.focal)
    for v, t, x in zip(views, turned, places, strict=True)
  ]


def _rgb(path: pathlib.Path) -> np.ndarray:
  with Image.open(path) as image:
    return np.asarray(image.convert('RGB'))


def _read_blender(root: pathlib.Path) -> list[View]:
  views = []
  for split in ('train', 'val', 'test'):
    file = root / SHAPE / f'transforms_{split}.json'
    if not file.exists():  # The other one replaces it.
      continue
    content = json.loads(file.read_text('utf-8-sig'))
    focal = 0.5 / np.tan(0.5 * content['camera_angle_x'])
    for frame in content['frames']:
      name = root / SHAPE / frame['file_path']
      path = name if name.is_file() else name.with_name(f'{name.name}.png')
      pose = np.array(frame['transform_matrix'], np.float64)[:3]
      if path.exists():
        views.append(View(_rgb(path), pose, float(focal)))
  return views


def _read_deepvoxels(root: pathlib.Path) -> list[View]:
  views = []
  for split in ('train', 'validation', 'test'):
    folder = root / split / SHAPE
    if not folder.exists():  # The other one replaces it.
      continue
    lens = folder / 'intrinsics.txt'
    if not lens.exists():  # As in the reference implementation.
      lens = root / 'train' / SHAPE / 'intrinsics.txt'
    lines = lens.read_text('utf-8-sig').splitlines()
    focal, height = float(lines[0].split()[0]), float(lines[4].split()[0])
    for path in sorted((folder / 'pose').iterdir()):
      numbers = [float(x) for x in path.read_text('utf-8-sig').split()]
      pose = np.reshape(numbers, (4, 4))[:3]
      pose[:, :3] = pose[:, :3] @ _FLIP
      image = _rgb(folder / 'rgb' / f'{path.stem}.png')
      ratio = image.shape[0] / image.shape[1]
      views.append(View(image, pose, focal / height * ratio))
  return views


def _read_llff(root: pathlib.Path) -> list[View]:
  rows = np.load(root / SHAPE / 'poses_bounds.npy').astype(np.float64)
  folder = root / SHAPE / 'images'
  paths = sorted(x for x in folder.iterdir() if x.suffix.lower() == '.png')
  views = []
  for row, path in zip(rows, paths, strict=True):
    down, right, back, place, (_, width, focal) = row[:15].reshape(3, 5).T
    pose = np.stack([right, -down, back, place], axis=1)
    views.append(View(_rgb(path), pose, focal / width))
  return views


def _read_tiny(root: pathlib.Path) -> list[View]:
  with np.load(root / f'{SHAPE}.npz') as file:
    images = file['images']
    if images.dtype != np.uint8:
      images = np.rint(255 * images.astype(np.float64)).astype(np.uint8)
    focal = float(np.reshape(file['focal'], ())) / images.shape[2]
    return [
      View(image[..., :3], np.array(pose, np.float64)[:3], focal)
      for image, pose in zip(images, file['poses'], strict=True)
    ]


def _all_views(scene: scenes.Scene) -> dict[str, View]:
  """Returns the views of all splits, by the names of their files."""
  views = {}
  for split in (scene.train, scene.val, scene.test):
    for i in range(len(split.images)):
      pose = np.asarray(split.cameras.camera_to_world[i], np.float64)
      views[f'r_{len(views)}.png'] = View(split.images[i], pose, _FOCAL)
  return views


def _write_photos(views: dict[str, View], folder: pathlib.Path) -> np.ndarray:
  """Writes photographs; returns their poses `[N, 4, 4]`."""
  folder.mkdir(parents=True)
  for name, view in views.items():
    Image.fromarray(view.image).save(folder / name)
  last = np.tile([[[0.0, 0.0, 0.0, 1.0]]], (len(views), 1, 1))
  return np.concatenate([[x.pose for x in views.values()], last], axis=1)


def _write_transforms(scene: scenes.Scene, root: pathlib.Path) -> None:
  views = _all_views(scene)
  pose = _write_photos(views, root / SHAPE / 'train')
  content = {
    'fl_x': _FOCAL,
    'frames': [
      {'file_path': f'train/{name}', 'transform_matrix': x.tolist()}
      for name, x in zip(views, pose, strict=True)
    ],
  }
  (root / SHAPE / 'transforms.json').write_text(json.dumps(content))


def _read_transforms(root: pathlib.Path) -> list[View]:
  content = json.loads(
    (root / SHAPE / 'transforms.json').read_text('utf-8-sig')
  )
  views = []
  for frame in content['frames']:
    name = root / SHAPE / frame['file_path']
    path = name if name.is_file() else name.with_name(f'{name.name}.png')
    if path.exists():
      pose = np.array(frame['transform_matrix'], np.float64)[:3]
      image = _rgb(path)
      focal = frame.get('fl_x', content.get('fl_x'))
      views.append(View(image, pose, focal / image.shape[1]))
  return views


def _write_colmap(scene: scenes.Scene, root: pathlib.Path) -> None:
  views = _all_views(scene)
  pose = _write_photos(views, root / SHAPE / 'images')
  camera = colmap_writer.camera(
    width=_WIDTH,
    height=_HEIGHT,
    params=(_FOCAL, _FOCAL, _WIDTH / 2, _HEIGHT / 2),
  )
  points = np.random.default_rng(0).normal(size=(5, 3))
  captures.write_colmap(root / SHAPE, list(views), pose, points, [camera])


def _read_colmap(root: pathlib.Path) -> list[View]:
  """Reads a model of one pinhole camera, and its photographs that exist."""
  folder = root / SHAPE / 'sparse' / '0'
  lens = struct.unpack_from('<8xIiQQd', (folder / 'cameras.bin').read_bytes())
  content = (folder / 'images.bin').read_bytes()
  (count,), at, views = struct.unpack_from('<Q', content), 8, []
  for _ in range(count):
    _, *pose, _ = struct.unpack_from('<I7dI', content, at)
    end = content.index(b'\0', at + 64)
    path = root / SHAPE / 'images' / content[at + 64 : end].decode()
    (num_points,) = struct.unpack_from('<Q', content, end + 1)
    at = end + 9 + 24 * num_points
    if path.exists():
      turn = transform.Rotation.from_quat(np.roll(pose[:4], -1)).as_matrix().T
      axes = np.column_stack([turn @ _FLIP, -turn @ pose[4:]])
      views.append(View(_rgb(path), axes, lens[4] / lens[2]))
  return views


def _loader(load, settings):
  return lambda root, **changes: load(
    str(changes.pop('data_dir', root)),
    changes.pop('shape', SHAPE),
    **(settings | changes),
  )


def _layout(write, load, read, normalized=False, **settings) -> Layout:
  return Layout(write, _loader(load, settings), read, settings, normalized)


LAYOUTS = {
  'blender': _layout(
    lambda scene, root: writers.write_blender(scene, root / SHAPE),
    blender.load,
    _read_blender,
    testskip=1,
    down_factor=1,
    num_poses=3,
    box=None,
    **_BOUNDS,
  ),
  'llff': _layout(
    lambda scene, root: writers.write_llff(scene, root / SHAPE),
    llff.load,
    _read_llff,
    True,
    down_factor=1,
    hold=3,
    spherify=False,
    num_poses=3,
  ),
  'deepvoxels': _layout(
    lambda scene, root: writers.write_deepvoxels(scene, root, SHAPE),
    deepvoxels.load,
    _read_deepvoxels,
    testskip=1,
    down_factor=1,
  ),
  'transforms': _layout(
    _write_transforms,
    transforms.load,
    _read_transforms,
    down_factor=1,
    num_poses=3,
    holdout=3,
    contracted=True,
    **_BOUNDS,
  ),
  'colmap': _layout(
    _write_colmap,
    colmap.load,
    _read_colmap,
    down_factor=1,
    num_poses=3,
    holdout=3,
    contracted=True,
    **_BOUNDS,
  ),
  'tiny': _layout(
    lambda scene, root: writers.write_tiny(scene, root / f'{SHAPE}.npz'),
    tiny.load,
    _read_tiny,
    num_train=4,
    testskip=1,
    down_factor=1,
    num_poses=3,
    box=None,
    **_BOUNDS,
  ),
}

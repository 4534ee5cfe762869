"""Loads the scene of a config."""

from collections.abc import Callable, Iterable
from typing import Any

import ml_collections
import numpy as np

from experiments.builders import bounds
from nerf_haiku import errors, scenes
from nerf_haiku.datasets import (
  blender,
  colmap,
  deepvoxels,
  llff,
  scales,
  scene_folders,
  tiny,
  transforms,
)
from nerf_haiku.datasets.procedural import photographs

# Fields of the config that decide what a scene is; those of its path alone.
_FIELDS = {
  'bounds',
  'box',
  'contraction',
  'dataset_type',
  'down_factor',
  'far',
  'holdout',
  'near',
  'num_poses',
  'num_scales',
  'pixel_center',
  'shape',
  'testskip',
  'video_path',
}
_SECTIONS = ('blender.', 'llff.', 'procedural.', 'tiny.')
PATH_FIELDS = frozenset(('num_poses', 'video_path'))

# Near and far of the NeRF-synthetic scenes, and of the built-in one.
_NEAR, _FAR = 2.0, 6.0


def load_scene(
  config: ml_collections.ConfigDict, data_dir: str | None
) -> scenes.Scene:
  """Loads the scene of a config.

  Args:
    config: one that `schema.check` has passed.
    data_dir: root of the data set's layout; None for the built-in scene.

  Raises:
    UserError: if the data cannot be used, or `data_dir` is missing.
  """
  if config.dataset_type == 'procedural':
    if data_dir is not None:
      raise errors.UserError(
        f'--data_dir: got {data_dir!r}, but the config uses the built-in '
        'scene; choose another --config, or leave --data_dir out.'
      )
    return _prepare(config, _make_procedural(config))
  config = resolve(config, data_dir)
  if data_dir is None:
    raise errors.UserError(
      '--data_dir is required: the root of the data set, or the folder of the '
      'scene.'
    )
  return _prepare(config, _LOADERS[config.dataset_type](config, data_dir))


def _prepare(
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> scenes.Scene:
  """Adds bounds and smaller images to a scene, as the config says."""
  scene = with_bounds(config, scene)
  train, test = (
    scales.add_scales(x, config.num_scales) for x in (scene.train, scene.test)
  )
  return scene._replace(train=train, test=test)


def resolve(
  config: ml_collections.ConfigDict, data_dir: str | None
) -> ml_collections.ConfigDict:
  """Returns a config whose `dataset_type` is not 'capture', but what is there.

  Raises:
    UserError: if there is no capture.
  """
  if config.dataset_type != 'capture' or data_dir is None:
    return config
  root, shape = scene_folders.check_folder(data_dir), config.shape
  folders = [scene_folders.similar(root, shape), root] if shape else [root]
  for folder in folders:
    for kind, reader in (('transforms', transforms), ('colmap', colmap)):
      if reader.is_scene(folder):
        config = config.copy_and_resolve_references()
        config.dataset_type = kind
        return config
  raise errors.DataError(
    f'{folders[-1]}: holds no capture: neither {transforms.FILE}, nor a model '
    'of COLMAP (cameras.bin and images.bin, or .txt) in it, in sparse or in '
    'colmap/sparse.'
  )


def with_bounds(
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> scenes.Scene:
  """Contracts a scene, or fits its bounds, as the config says."""
  if config.contraction:
    return bounds.contract(config, scene)
  return bounds.fit(config, scene) if config.bounds == 'cameras' else scene


def field_names(fields: Iterable[str]) -> set[str]:
  """Returns those of a config's fields that decide what its scene is."""
  return {x for x in fields if x in _FIELDS or x.startswith(_SECTIONS)}


def _make_procedural(config: ml_collections.ConfigDict) -> scenes.Scene:
  scene = photographs.make_scene(
    num_poses=config.num_poses,
    **_bounds_or_default(config),
    **config.procedural,
  )
  box = _box(config)
  return scene if box is None else scene._replace(box=box)


def _load_blender(
  config: ml_collections.ConfigDict, data_dir: str
) -> scenes.Scene:
  return blender.load(
    data_dir,
    config.shape,
    testskip=config.testskip,
    holdout=config.holdout,
    num_poses=config.num_poses,
    pixel_center=config.pixel_center,
    original_path=config.video_path == 'original',
    **_bounds_or_default(config),
    **_shared_settings(config),
    **config.blender,
  )


def _load_llff(
  config: ml_collections.ConfigDict, data_dir: str
) -> scenes.Scene:
  return llff.load(
    data_dir,
    config.shape,
    hold=config.llff.hold,
    spherify=config.llff.spherify,
    num_poses=config.num_poses,
    **_bounds_or_none(config),
    **_shared_settings(config),
  )


def _load_deepvoxels(
  config: ml_collections.ConfigDict, data_dir: str
) -> scenes.Scene:
  return deepvoxels.load(
    data_dir,
    config.shape,
    testskip=config.testskip,
    holdout=config.holdout,
    **_bounds_or_none(config),
    **_shared_settings(config),
  )


def _load_tiny(
  config: ml_collections.ConfigDict, data_dir: str
) -> scenes.Scene:
  return tiny.load(
    data_dir,
    config.shape,
    num_train=config.tiny.num_train,
    testskip=config.testskip,
    num_poses=config.num_poses,
    original_path=config.video_path == 'original',
    **_bounds_or_default(config),
    **_shared_settings(config),
  )


def _load_capture(
  config: ml_collections.ConfigDict, data_dir: str
) -> scenes.Scene:
  reader = transforms if config.dataset_type == 'transforms' else colmap
  return reader.load(
    data_dir,
    config.shape,
    down_factor=config.down_factor,
    num_poses=config.num_poses,
    holdout=config.holdout,
    contracted=config.contraction,
    near=config.near or None,
    far=config.far or None,
    box=np.reshape(config.box, (2, 3)) if config.box else None,
  )


_LOADERS: dict[
  str, Callable[[ml_collections.ConfigDict, str], scenes.Scene]
] = {
  'blender': _load_blender,
  'llff': _load_llff,
  'deepvoxels': _load_deepvoxels,
  'tiny': _load_tiny,
  'transforms': _load_capture,
  'colmap': _load_capture,
}


def _shared_settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the keyword arguments that all readers have."""
  return {'down_factor': config.down_factor, 'box': _box(config)}


def _bounds_or_none(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns near and far for readers whose data sets may have them."""
  if config.bounds == 'cameras' or config.contraction:
    return _bounds_or_default(config)  # Replaced later.
  return {'near': config.near or None, 'far': config.far or None}


def _bounds_or_default(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns near and far for readers whose data sets do not have them."""
  near, far = config.near or _NEAR, config.far or _FAR
  # Replaced later, where not set.
  if config.bounds == 'cameras' or config.contraction:
    near = config.near or far / 2
    far = config.far or near * 2
  if near >= far:
    raise errors.UserError(
      f'config.near: got {near}; must be less than config.far={far}.'
    )
  return {'near': near, 'far': far}


def _box(config: ml_collections.ConfigDict) -> np.ndarray | None:
  """Returns the corners `[2, 3]` of the config's box, if it has one."""
  if not config.box:
    return None
  return np.reshape(np.asarray(config.box, np.float32), (2, 3))

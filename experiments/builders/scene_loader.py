"""From a config to the scene that it names."""

from collections.abc import Callable

import ml_collections
import numpy as np

from nerf_haiku import errors, scenes
from nerf_haiku.datasets import blender, deepvoxels, llff, tiny
from nerf_haiku.datasets.procedural import photographs

# Near and far of the NeRF-synthetic scenes, and of the built-in one.
_BOUNDS = (2.0, 6.0)


def load_scene(
  config: ml_collections.ConfigDict, data_dir: str | None
) -> scenes.Scene:
  """Loads the scene of a config.

  Raises:
    ValueError: if the data, or the way to them, cannot be used.
  """
  if config.dataset_type == 'procedural' and data_dir is not None:
    raise errors.UserError(
      f'--data_dir: got {data_dir!r}, but the config draws the built-in '
      'scene; choose another --config, or leave --data_dir out.'
    )
  if config.dataset_type != 'procedural' and data_dir is None:
    raise errors.UserError('--data_dir: say where the data set lies.')
  return _READERS[config.dataset_type](config, data_dir)


def _procedural(
  config: ml_collections.ConfigDict, _: str | None
) -> scenes.Scene:
  near, far = _bounds(config)
  made = photographs.make_scene(
    near=near, far=far, num_poses=config.num_poses, **config.procedural
  )
  box = _box(config)
  return made if box is None else made._replace(box=box)


def _blender(config: ml_collections.ConfigDict, data_dir: str) -> scenes.Scene:
  near, far = _bounds(config)
  return blender.load(
    data_dir,
    config.shape,
    testskip=config.testskip,
    down_factor=config.down_factor,
    num_poses=config.num_poses,
    near=near,
    far=far,
    box=_box(config),
    **config.blender,
  )


def _llff(config: ml_collections.ConfigDict, data_dir: str) -> scenes.Scene:
  return llff.load(
    data_dir,
    config.shape,
    down_factor=config.down_factor,
    hold=config.llff.hold,
    spherify=config.llff.spherify,
    num_poses=config.num_poses,
    near=config.near or None,
    far=config.far or None,
    box=_box(config),
  )


def _deepvoxels(
  config: ml_collections.ConfigDict, data_dir: str
) -> scenes.Scene:
  return deepvoxels.load(
    data_dir,
    config.shape,
    testskip=config.testskip,
    down_factor=config.down_factor,
    near=config.near or None,
    far=config.far or None,
    box=_box(config),
  )


def _tiny(config: ml_collections.ConfigDict, data_dir: str) -> scenes.Scene:
  near, far = _bounds(config)
  return tiny.load(
    data_dir,
    config.shape,
    num_train=config.tiny.num_train,
    testskip=config.testskip,
    down_factor=config.down_factor,
    num_poses=config.num_poses,
    near=near,
    far=far,
    box=_box(config),
  )


_READERS: dict[str, Callable[..., scenes.Scene]] = {
  'blender': _blender,
  'llff': _llff,
  'deepvoxels': _deepvoxels,
  'tiny': _tiny,
  'procedural': _procedural,
}


def _bounds(config: ml_collections.ConfigDict) -> tuple[float, float]:
  """Near and far where the data do not say."""
  near, far = config.near or _BOUNDS[0], config.far or _BOUNDS[1]
  if near >= far:
    raise errors.UserError(
      f'config.near: got {near}; allowed: under config.far={far}.'
    )
  return near, far


def _box(config: ml_collections.ConfigDict) -> np.ndarray | None:
  if not config.box:
    return None
  return np.reshape(np.asarray(config.box, np.float32), (2, 3))

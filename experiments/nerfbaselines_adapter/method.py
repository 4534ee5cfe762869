"""Our method on plain arrays, as an outside program has them.

Cameras have OpenCV's axes (x right, y down, z ahead), and the center of the
first pixel at (0.5, 0.5). No file is read but checkpoints.
"""

import ast
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.builders import experiment as experiment_lib
from experiments.builders import model as model_lib
from experiments.builders import scene_loader
from experiments.configs import config_file, schema
from experiments.outputs import json_files, stored_scene
from nerf_haiku import (
  camera_paths,
  cameras,
  checkpoints,
  devices,
  errors,
  models,
  poses,
  scenes,
  training,
)

_CONFIGS = pathlib.Path(__file__).resolve().parents[1] / 'configs'
_DEFAULT_CONFIG = 'capture'
_OVERRIDES = 'overrides.json'
_OPENCV, _FISHEYE = 1, 2
_DEPTH_RANGE = (2.0, 6.0)  # Where the data set does not say it.
_SEED = 0

# What a value that is no value of a field ends in.
_NO_VALUE = (KeyError, AttributeError, TypeError, ValueError, SyntaxError)

Arrays = Mapping[str, np.ndarray]


class _Training(NamedTuple):
  """What a model that is trained needs beside its variables."""

  experiment: experiment_lib.Experiment
  key: jax.Array
  inputs: Iterator[Any]  # of the update, step by step.


def to_cameras(arrays: Arrays) -> cameras.Cameras:
  """Returns cameras from the arrays of an outside program.

  Args:
    arrays: `poses` `[N, 3 or 4, 4]` camera-to-world, OpenCV axes;
      `intrinsics` `[N, 4]` fx, fy, cx, cy; `image_sizes` `[N, 2]` width and
      height; `camera_models` `[N]`, 0 pinhole, 1 OpenCV, 2 OpenCV's fisheye;
      `distortion_parameters` `[N, P]`: k1, k2, p1, p2, k3, k4.
  """
  pose = np.array(arrays['poses'], np.float64)[:, :3]
  pose[:, :, :3] = pose[:, :, :3] @ poses.OPENCV
  cams = cameras.Cameras(
    camera_to_world=pose.astype(np.float32),
    intrinsics=np.asarray(arrays['intrinsics'], np.float32),
    sizes=np.asarray(arrays['image_sizes'], np.int32)[:, ::-1],
  )
  kind = np.asarray(arrays['camera_models'])
  if np.any(kind > _FISHEYE):
    raise errors.UserError(
      f'camera_models: got {int(kind.max())}; 0 (pinhole), 1 (opencv) and 2 '
      '(opencv_fisheye) are known.'
    )
  given = np.asarray(arrays['distortion_parameters'], np.float32)
  if np.all(kind != _FISHEYE) and not np.any(given[kind == _OPENCV]):
    return cams
  padded = np.pad(given, ((0, 0), (0, 6)))[:, :6]
  # Each model ignores what it does not have.
  padded[:, 4:] *= (kind == _FISHEYE)[:, None]
  padded[:, 2:4] *= (kind == _OPENCV)[:, None]
  padded[:, :2] *= (kind >= _OPENCV)[:, None]
  k1, k2, p1, p2, k3, k4 = padded.T
  return cams._replace(
    distortion=np.stack([k1, k2, k3, k4, p1, p2], axis=-1),
    fisheye=kind == _FISHEYE,
  )


def to_scene(
  arrays: Arrays, names: list[str], metadata: Mapping[str, Any]
) -> scenes.Scene:
  """Returns a scene whose views are all for training.

  Args:
    arrays: as for `to_cameras`, with `image_00000` and so on, `[H, W, 3 or 4]`
      uint8; `mask_00000` and so on, `[H, W]`, not 0 where pixels count, or
      none; `nears_fars` `[N, 2]` where they are known.
    names: of the images.
    metadata: of the data set; `depth_range` where there are no `nears_fars`.
  """
  cams = to_cameras(arrays)
  images = [arrays[f'image_{i:05}'] for i in range(len(names))]
  has_alpha = any(x.shape[-1] == 4 for x in images)
  flat = np.concatenate([_pixels(x, has_alpha=has_alpha) for x in images])
  sizes = np.array([x.shape[:2] for x in images])
  masks = None
  if 'mask_00000' in arrays:
    given = [arrays[f'mask_{i:05}'] > 0 for i in range(len(names))]
    masks = scenes.Images(
      np.concatenate([x.reshape(-1, 1) for x in given]).astype(np.uint8), sizes
    )
  split = scenes.Split(
    scenes.Images(flat, sizes), cams, names=tuple(names), masks=masks
  )
  near, far = metadata.get('depth_range') or _DEPTH_RANGE
  if 'nears_fars' in arrays:
    near, far = (
      arrays['nears_fars'][:, 0].min(),
      arrays['nears_fars'][:, 1].max(),
    )
  one = scenes.Split(
    split.images, cameras.take(cams, slice(0, 1)), names=split.names[:1]
  )
  return scenes.Scene(
    train=split,
    val=one,
    test=one,
    near=float(near),
    far=float(far),
    box=None,
    path=camera_paths.video_path(cams, 2, original=False),
    notices=(),
  )


def _pixels(image: np.ndarray, *, has_alpha: bool) -> np.ndarray:
  """Returns the pixels of an image, `[P, 4]` if some image has alpha."""
  flat = image.reshape(-1, image.shape[-1])
  if has_alpha and flat.shape[-1] == 3:
    flat = np.pad(flat, ((0, 0), (0, 1)), constant_values=255)
  return flat


def make_config(
  overrides: Mapping[str, Any], metadata: Mapping[str, Any]
) -> Any:
  """Returns a config: `config` names its file, other overrides its fields.

  Raises:
    UserError: if there is no such config or field, or a value is not allowed.
  """
  name = overrides.get('config', _DEFAULT_CONFIG)
  path = _CONFIGS / f'{name}.py'
  if not path.is_file():
    raise errors.UserError(f'config: got {name!r}; must be one of our configs.')
  config = config_file.load(str(path))
  config.pixel_center = True
  if not config.contraction:
    config.bounds = 'cameras'
  color = metadata.get('background_color')
  if color is not None:
    config.background = tuple(float(x) / 255 for x in color)
  for field, value in overrides.items():
    if field == 'config':
      continue
    try:
      config.update_from_flattened_dict({field: _parse(config, field, value)})
    except _NO_VALUE as error:
      raise errors.UserError(f'{field}: got {value!r}: {error}') from error
  schema.check(config, jax.device_count())
  return config


def _parse(config: Any, field: str, value: Any) -> Any:
  """Returns a value of a field's type: outside programs may have text."""
  current = dict(schema.flatten(config))[field]
  if isinstance(value, str) and not isinstance(current, str):
    if isinstance(current, bool):
      return {'true': True, 'false': False}[value.lower()]
    if isinstance(current, tuple):
      return tuple(ast.literal_eval(value))
    return type(current)(value)
  return value


class Method:
  """A model that is trained step by step, rendered and saved."""

  def __init__(
    self,
    model: models.Model | None,
    started: _Training | None,
    state: training.TrainState | None,
    overrides: Mapping[str, Any],
    num_steps: int,
    checkpoint: pathlib.Path | None,
  ):
    """See `open_method`."""
    self._model, self._training, self._state = model, started, state
    self._overrides, self._num_steps = dict(overrides), num_steps
    self._checkpoint = checkpoint  # That was loaded, until a step is taken.
    self._loaded = checkpoint
    self._loaded_step = model.step if model is not None else None

  def info(self) -> dict[str, Any]:
    """Returns what an outside trainer needs to know."""
    return {
      'num_iterations': self._num_steps,
      'loaded_step': self._loaded_step,
      'loaded_checkpoint': str(self._loaded) if self._loaded else None,
      'hparams': self._overrides,
    }

  def train_iteration(self, step: int) -> dict[str, float]:
    """Takes the next step, and returns its scalars."""
    del step
    if self._training is None or self._state is None:
      raise errors.UserError('Training needs the data set of the run.')
    data = next(self._training.inputs)
    update = self._training.experiment.update
    self._state, scalars = update(self._state, data, self._training.key)
    self._checkpoint = None
    host = jax.device_get(scalars)
    return {name: float(host[name]) for name in ('loss', 'psnr')}

  def render(self, camera: cameras.Cameras) -> dict[str, np.ndarray]:
    """Returns `color`, `depth` and `accumulation` of one camera."""
    image = self._current().render(camera)
    return {
      'color': np.asarray(image.rgb),
      'depth': image.expected_depth(),
      'accumulation': np.asarray(image.opacity),
    }

  def save(self, path: pathlib.Path) -> None:
    """Writes a checkpoint, which `models.open_run` opens."""
    if self._checkpoint is not None:  # Nothing has changed.
      shutil.copytree(self._checkpoint, path, dirs_exist_ok=True)
      return
    assert self._training is not None
    assert self._state is not None
    experiment = self._training.experiment
    is_other = path.is_dir() and any(path.iterdir())
    if is_other and not (path / models.RECORD).exists():
      raise errors.UserError(f'{path} holds other files: name another folder.')
    # What is there when it is interrupted has another name.
    path.parent.mkdir(parents=True, exist_ok=True)
    whole, path = path, path.with_name(f'.{path.name}.tmp')
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    stored_scene.write(path, experiment.config, experiment.scene)
    content = {'overrides': self._overrides, 'num_steps': self._num_steps}
    json_files.write_json(path / _OVERRIDES, content)
    with checkpoints.Checkpoints(path / models.CHECKPOINTS) as existing:
      existing.save(devices.unreplicate(self._state), {'seed': _SEED})
    if whole.is_dir():
      shutil.rmtree(whole)
    path.rename(whole)

  def _current(self) -> models.Model:
    if self._state is None:
      assert self._model is not None
      return self._model
    state = devices.unreplicate(self._state)
    step, variables = int(state.step), state.variables()
    if self._model is None:
      assert self._training is not None
      experiment = self._training.experiment
      record = model_lib.make_record(experiment.config, experiment.scene)
      self._model = models.make_model(record, experiment.scene, variables, step)
    elif self._model.step != step:
      self._model = self._model.replace(variables, step)
    return self._model


def open_method(values: Mapping[str, Any], arrays: Arrays) -> Method:
  """Opens a checkpoint, begins to train on a data set, or goes on.

  Args:
    values: `checkpoint`, a folder or None; `config_overrides`; `has_dataset`,
      and then `names` and `metadata`.
    arrays: as for `to_scene`, with a data set.
  """
  overrides, model, folder = dict(values['config_overrides']), None, None
  num_steps = 0
  if values['checkpoint'] is not None:
    folder = pathlib.Path(values['checkpoint'])
    stored = json_files.read_json(folder / _OVERRIDES, 'overrides', 'num_steps')
    overrides = stored['overrides'] | overrides
    num_steps = stored['num_steps']
    model = models.open_run(folder)
  if not values['has_dataset']:
    if model is None:
      raise errors.UserError('Either a checkpoint or a data set is needed.')
    return Method(model, None, None, overrides, num_steps, folder)
  metadata = values['metadata']
  config = make_config(overrides, metadata)
  scene = to_scene(arrays, values['names'], metadata)
  scene = scene_loader.with_bounds(config, scene)
  experiment = experiment_lib.make_experiment(config, scene)
  init_key, key = jax.random.split(jax.random.key(_SEED))
  state = experiment.init_state(init_key)
  if folder is not None:
    with checkpoints.Checkpoints(folder / models.CHECKPOINTS) as existing:
      state, _ = existing.restore(jax.tree.map(np.asarray, state))
  inputs = experiment.make_inputs(
    seed=_SEED, start_step=int(state.step), num_steps=config.num_steps
  )
  return Method(
    model,
    _Training(experiment, key, inputs),
    devices.replicate(state),
    overrides,
    config.num_steps,
    folder,
  )


def answer(
  method: Method, call: str, values: Mapping[str, Any], arrays: Arrays
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Calls a method, and returns its values and arrays."""
  if call == 'info':
    return method.info(), {}
  if call == 'train_iteration':
    return dict(method.train_iteration(values['step'])), {}
  if call == 'render':
    return {}, method.render(to_cameras(arrays))
  if call == 'save':
    method.save(pathlib.Path(values['path']))
    return {}, {}
  raise ValueError(f'There is no call {call!r}.')

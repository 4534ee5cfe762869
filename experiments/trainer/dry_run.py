"""A dry run: what a run would be, before hours are spent on it."""

import pathlib
import statistics
import time
from typing import Any

import haiku as hk
import jax
import ml_collections
import numpy as np

from experiments.builders import bounds, model, scene_loader
from experiments.builders import experiment as experiment_lib
from experiments.trainer import camera_plot, run
from nerf_haiku import arrays, cameras, devices, errors, scenes, similarity
from nerf_haiku.io import media, messages
from nerf_haiku.renderers import occupancy

# Steps that are timed, after the one that compiles.
_STEPS = 3
_PICTURE = 'cameras.png'
_LAYERS = ('', 'layer', 'density', 'bottleneck', 'view', 'rgb')


def describe_run(
  config: ml_collections.ConfigDict,
  data_dir: str | None,
  seed: int,
  folder: pathlib.Path | None = None,
) -> str:
  """Loads the data, takes a few steps, and describes the run.

  Args:
    config: one that `schema.check` has passed.
    data_dir: root of the data set's layout; None for the built-in scene.
    seed: random seed.
    folder: where a picture of the cameras of a capture is written; None:
      nowhere. Nothing else is written.

  Raises:
    UserError: if the data cannot be used, or the picture cannot be written.
  """
  scene = scene_loader.load_scene(config, data_dir)
  bounds_notices = bounds.check(scene)
  experiment = experiment_lib.make_experiment(config, scene)
  return '\n'.join(
    [
      run.describe_scene(config, scene),
      *bounds_notices,
      *_describe_cameras(scene),
      *_describe_capture(scene),
      *_draw_cameras(scene, folder),
      *_describe_networks(experiment.renderer),
      *_describe_march(experiment.renderer),
      *_describe_steps(experiment, seed),
    ]
  )


def _describe_cameras(scene: scenes.Scene) -> list[str]:
  views: cameras.Cameras = scene.train.cameras
  centers = np.asarray(views.camera_to_world)[:, :, 3]
  if scene.similarity is not None:
    moved = similarity.move_points(scene.similarity, centers)
    centers = moved / scene.similarity.scale
  distances = np.linalg.norm(centers, axis=-1)
  where = '' if scene.similarity is None else ' of the field'
  focal = np.asarray(views.intrinsics[:, 0])
  lines = [
    f'Training cameras: {_range(distances)} from the origin{where}, focal '
    f'length {_range(focal)} pixels',
    f'Rays: from t = {scene.near:g} to {scene.far:g}',
  ]
  if scene.ndc is not None:
    lines[-1] = (
      'Rays: in normalized device coordinates, from a near plane at depth '
      f'{scene.ndc.near:g} to infinity; depth is capped at {scene.far:g}'
    )
  if scene.box is not None:
    lower, upper = (', '.join(f'{x:g}' for x in corner) for corner in scene.box)
    lines[-1] += f', clipped to the box from ({lower}) to ({upper})'
    if scene.similarity is not None:
      lines[-1] += " of the field's coordinates"
  return lines


def _describe_capture(scene: scenes.Scene) -> list[str]:
  """Describes what follows from cameras and points."""
  moved = scene.similarity
  if moved is None:
    return []
  views = scene.train.cameras
  kinds = {'pinhole'}
  if views.distortion is not None:
    kinds = {'fisheye' if x else 'distorted' for x in np.asarray(views.fisheye)}
  origin = similarity.move_points(similarity.invert(moved), np.zeros(3))
  center = ', '.join(f'{x:.6g}' for x in origin)
  turned = '' if np.array_equal(moved.rotation, np.eye(3)) else 'turned, '
  lines = [
    f'Lens: {", ".join(sorted(kinds))}',
    f"Field: its origin is at ({center}) of the file's coordinates, {turned}"
    f'scaled by {moved.scale:.4g}',
  ]
  if scene.contracted:
    lines[1] += f'; contracted beyond {1 / moved.scale:.4g} scene units'
  if scene.points is not None:
    lines.append(f'Points: {len(scene.points):,}')
  if scene.test.names:
    lines.append(f'Test views: {messages.list_names(scene.test.names)}')
  return lines


def _draw_cameras(
  scene: scenes.Scene, folder: pathlib.Path | None
) -> list[str]:
  """Writes a picture of a capture's cameras, and says where."""
  if folder is None:
    return []
  path = folder / _PICTURE
  try:
    folder.mkdir(parents=True, exist_ok=True)
    media.write_png(path, camera_plot.draw(scene))
  except OSError as error:
    raise errors.UserError(
      f'--model_dir: {folder} cannot be written ({error.strerror}). Choose '
      'another folder.'
    ) from error
  return [f'Cameras from above and from the side: {path}']


def _range(values: arrays.Array) -> str:
  low, high = float(np.min(values)), float(np.max(values))
  return (
    f'{low:.4g}' if high - low < 1e-3 * high else f'{low:.4g} to {high:.4g}'
  )


def _describe_networks(renderer: model.Renderer) -> list[str]:
  params = jax.eval_shape(renderer.init, jax.random.key(0)).params
  lines = []
  for network, layers in params.items():
    lines.append(
      f'{network} network: {hk.data_structures.tree_size(layers):,} parameters'
    )
    for name, layer in sorted(layers.items(), key=_order):
      if 'w' in layer:
        shape = ' -> '.join(str(n) for n in layer['w'].shape)
      else:
        shape = (
          f'{len(layer)} tables of {next(iter(layer.values())).shape[0]:,}'
        )
      lines.append(f'  {name:<16} {shape:>12}')
  return lines


def _order(item: tuple[str, Any]) -> tuple[int, int]:
  """The grid, layers of the trunk by number, then the others in their order."""
  layer = item[0].partition('/')[2]
  name, _, number = layer.partition('_')
  return _LAYERS.index(name), int(number or 0)


def _describe_march(renderer: model.Renderer) -> list[str]:
  if not isinstance(renderer, occupancy.OccupancyRenderer):
    return []
  march = renderer.settings
  lower, upper = (', '.join(f'{x:.3g}' for x in y) for y in march.box)
  return [
    f'Occupancy: {march.resolution}^3 cells of the box from ({lower}) to '
    f'({upper}), steps of {march.step_size:.3g}, up to '
    f'{march.num_positions()} on a ray'
  ]


def _describe_steps(
  experiment: experiment_lib.Experiment, seed: int
) -> list[str]:
  config, scene = experiment.config, experiment.scene
  key = jax.random.key(seed)
  state = devices.replicate(experiment.init_state(key))
  update: Any = experiment.update
  compiled: Any = None
  begin, seconds = time.perf_counter(), []
  for data in experiment.make_inputs(
    seed=seed, start_step=0, num_steps=_STEPS + 1
  ):
    if compiled is None:
      compiled = update.lower(state, data, key).compile()
    # A compiled update takes no arrays of one process of several.
    step_fn = compiled if jax.process_count() == 1 else update
    state, scalars = step_fn(state, data, key)
    jax.block_until_ready(scalars)
    seconds.append(time.perf_counter() - begin)
    begin = time.perf_counter()
  count = jax.device_count()
  step = statistics.median(seconds[1:])
  return [
    f'Devices: {count} ({jax.devices()[0].device_kind}), '
    f'{config.num_rand // count} rays of a step on each',
    f'Memory: {_memory(scene, compiled.memory_analysis())}',
    f'Time: {step:.3g} s a step ({config.num_rand / step:,.0f} rays/s), '
    f'{_duration(step * config.num_steps)} for {config.num_steps:,} steps, '
    'evaluation not counted',
  ]


def _memory(scene: scenes.Scene, analysis: Any) -> str:
  images = scene.train.images.pixels.nbytes
  text = f'{images / 1e6:,.0f} MB of training images on the host'
  if analysis is not None:
    step = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
    text += f', {step / 1e6:,.0f} MB for a step on each device'
  return text


def _duration(seconds: float) -> str:
  for unit, size in (('days', 86400), ('hours', 3600), ('minutes', 60)):
    if seconds >= 2 * size:
      return f'{seconds / size:.1f} {unit}'
  return f'{seconds:.0f} seconds'

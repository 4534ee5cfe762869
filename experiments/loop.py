"""A run: from a config to a checkpoint, images and scores."""

import json
import pathlib
import time
from typing import Any

import jax
import ml_collections

from experiments import build, progress, results
from experiments import config as config_lib
from nerf_haiku import checkpoints, devices, metrics, renderers, training
from nerf_haiku.datasets import base, batches

CONFIG = 'config.json'
CHECKPOINTS = 'checkpoints'
RESULTS = 'results.json'
VIEWS = 'test'


def train(
  config: ml_collections.ConfigDict,
  *,
  data_dir: str | None,
  model_dir: pathlib.Path,
  seed: int,
  start: float,
) -> dict[str, Any]:
  """Trains, evaluates and writes a run.

  Args:
    config: one that `config.check` has passed.
    data_dir: root of the data set's layout; the built-in scene needs none.
    model_dir: where the run is kept.
    seed: of everything that is random.
    start: `time.perf_counter()` when the process began.

  Returns:
    What `results.json` holds.

  Raises:
    ValueError: if the data cannot be used, the folder holds another run, or
      the loss is no number any more.
  """
  settings = describe_settings(config, seed, data_dir)
  check_folder(model_dir, settings)
  if (model_dir / RESULTS).exists():
    print(f'{model_dir} holds this run, finished: nothing is left to do.')
    return read_json(model_dir / RESULTS, 'psnr')
  scene = build.scene(config, data_dir)
  print(describe_scene(scene))
  claim_folder(model_dir, settings)
  renderer = build.renderer(config)
  state, times = reach_end(config, scene, renderer, model_dir, settings, start)
  render_view = build.render_view(config, scene, renderer)
  params = devices.replicate(state.params)
  scores = results.evaluate(
    scene.test,
    lambda i: render_view(params, scene.test.cameras, i),
    model_dir / VIEWS,
    near=scene.near,
    far=scene.far,
    white_background=config.white_bkgd,
  )
  content = {
    **scores,
    'steps': int(state.step),
    **times,
    'background': 'white' if config.white_bkgd else 'black',
    'metrics': metrics.DEFINITIONS,
    **settings,
    **results.circumstances(),
  }
  results.write_json(model_dir / RESULTS, content)
  return content


def describe_settings(
  config: ml_collections.ConfigDict, seed: int, data_dir: str | None
) -> dict[str, Any]:
  """What makes a run what it is, as JSON holds it."""
  where = data_dir and str(pathlib.Path(data_dir).expanduser().resolve())
  fields = dict(config_lib.flatten(config))
  settings = {'seed': seed, 'data_dir': where, 'config': fields}
  return json.loads(json.dumps(settings))


def check_folder(model_dir: pathlib.Path, settings: dict[str, Any]) -> None:
  """Makes sure that a folder is free, or holds a run of these settings.

  Raises:
    ValueError: names what differs.
  """
  if not (model_dir / CONFIG).exists():
    return
  there = read_json(model_dir / CONFIG, *settings)
  begun = checkpoints.latest_step(model_dir / CHECKPOINTS) is not None
  if not begun and not (model_dir / RESULTS).exists():
    return  # Stopped before there was anything to keep.
  kept, asked = ({**x, **x['config'], 'config': 0} for x in (there, settings))
  differences = [
    f'{name} is {kept.get(name)!r} there, {asked.get(name)!r} here'
    for name in sorted(kept.keys() | asked.keys())
    if kept.get(name) != asked.get(name)
  ]
  if differences:
    raise ValueError(
      f'--model_dir: {model_dir} holds another run ('
      f'{"; ".join(differences)}). Choose another folder.'
    )


def claim_folder(model_dir: pathlib.Path, settings: dict[str, Any]) -> None:
  """Makes the folder of a run, and writes its settings there.

  Raises:
    ValueError: if nothing can be written there.
  """
  try:
    model_dir.mkdir(parents=True, exist_ok=True)
    results.write_json(model_dir / CONFIG, settings)
  except OSError as error:
    raise ValueError(
      f'--model_dir: {model_dir} can not be written ({error.strerror}). '
      'Choose another folder.'
    ) from error


def read_json(path: pathlib.Path, *fields: str) -> dict[str, Any]:
  """Reads what a run wrote.

  Raises:
    ValueError: if the file is not one that a run wrote, with such fields.
  """
  try:
    content = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    content = error
  if not isinstance(content, dict) or not all(x in content for x in fields):
    raise ValueError(
      f'--model_dir: {path} is none that a run wrote, or it is damaged. '
      'Choose another folder.'
    )
  return content


def describe_scene(scene: base.Scene) -> str:
  """Splits and sizes, and what was done to the files, for the user."""
  lines = []
  for name in ('train', 'val', 'test'):
    split = getattr(scene, name)
    sizes = sorted({(int(w), int(h)) for h, w in split.cameras.sizes})
    shown = ', '.join(f'{w}x{h}' for w, h in sizes[:3])
    more = f' and {len(sizes) - 3} more sizes' if len(sizes) > 3 else ''
    lines.append(f'{len(split.images)} {name} views of {shown}{more}')
  return '\n'.join(['; '.join(lines), *scene.notices])


def reach_end(
  config: ml_collections.ConfigDict,
  scene: base.Scene,
  renderer: renderers.Renderer,
  model_dir: pathlib.Path,
  settings: dict[str, Any],
  start: float,
) -> tuple[training.TrainState, dict[str, Any]]:
  """Trains, and keeps the end; or restores the end that is kept already.

  Returns:
    The state at the end, of host arrays, and `train_seconds`, from
    `start` on, and `rays_per_second`.
  """
  folder = model_dir / CHECKPOINTS
  if checkpoints.latest_step(folder) is not None:
    optimizer = build.optimizer(config)
    template = training.init_state(renderer, optimizer, jax.random.key(0))
    state, about = checkpoints.restore(folder, template)
    return state, about['times']
  state, rate = fit(config, scene, renderer, settings['seed'])
  times = {
    'train_seconds': round(time.perf_counter() - start, 2),
    'rays_per_second': round(rate),
  }
  checkpoints.save(folder, state, {**settings, 'times': times})
  return state, times


def fit(
  config: ml_collections.ConfigDict,
  scene: base.Scene,
  renderer: renderers.Renderer,
  seed: int,
) -> tuple[training.TrainState, float]:
  """Runs all update steps.

  Returns:
    The state at the end, of host arrays, and rays per second.
  """
  init_key, key = jax.random.split(jax.random.key(seed))
  state = devices.replicate(
    training.init_state(renderer, build.optimizer(config), init_key)
  )
  update = build.update(config, scene, renderer)
  shown = progress.Progress(
    num_steps=config.num_steps, num_rays=config.num_rand, every=config.i_print
  )
  # Several devices of one CPU deadlock when steps are queued up.
  in_turn = jax.local_device_count() > 1 and jax.default_backend() == 'cpu'
  for batch in batches.batches(
    scene.train.images,
    seed=seed,
    start_step=0,
    num_steps=config.num_steps,
    num_rays=config.num_rand,
    batching=config.batching,
    precrop_iters=config.precrop_iters,
    precrop_frac=config.precrop_frac,
    white_background=config.white_bkgd,
  ):
    state, scalars = update(state, batch, key)
    if in_turn:
      jax.block_until_ready(scalars)
    shown.show(scalars)
  shown.close()
  return devices.unreplicate(state), shown.rays_per_second()

"""A run: from a config to a checkpoint, images and scores."""

import json
import pathlib
import time
from typing import Any

import jax
import ml_collections
import psutil

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
) -> dict[str, Any]:
  """Trains, evaluates and writes a run.

  Args:
    config: one that `config.check` has passed.
    data_dir: root of the data set's layout; the built-in scene needs none.
    model_dir: where the run is kept.
    seed: of everything that is random.

  Returns:
    What `results.json` holds.

  Raises:
    ValueError: if the data cannot be used, or the folder holds another run.
  """
  settings = describe_settings(config, seed)
  check_folder(model_dir, settings)
  if (model_dir / RESULTS).exists():
    print(f'{model_dir} holds this run, finished: nothing is left to do.')
    return read_json(model_dir / RESULTS)
  scene = build.scene(config, data_dir)
  print(describe_scene(scene))
  claim_folder(model_dir, settings)
  renderer = build.renderer(config)
  state = start(config, renderer, model_dir, seed)
  state, rate = fit(config, scene, renderer, state, seed)
  train_seconds = time.time() - psutil.Process().create_time()
  finish(model_dir, state, settings)
  render_view = build.render_view(config, scene, renderer)
  scores = results.evaluate(
    scene.test,
    lambda i: render_view(state.params, scene.test.cameras, i),
    model_dir / VIEWS,
    near=scene.near,
    far=scene.far,
    white_background=config.white_bkgd,
  )
  content = {
    **scores,
    'steps': config.num_steps,
    'train_seconds': round(train_seconds, 2),
    'rays_per_second': round(rate),
    'background': 'white' if config.white_bkgd else 'black',
    'metrics': metrics.DEFINITIONS,
    **settings,
    **results.circumstances(),
  }
  results.write_json(model_dir / RESULTS, content)
  return content


def describe_settings(
  config: ml_collections.ConfigDict, seed: int
) -> dict[str, Any]:
  """The seed and the flat config, as JSON holds them."""
  fields = dict(config_lib.flatten(config))
  return json.loads(json.dumps({'seed': seed, 'config': fields}))


def check_folder(model_dir: pathlib.Path, settings: dict[str, Any]) -> None:
  """Makes sure that a folder is free, or holds a run of these settings.

  Raises:
    ValueError: names what differs.
  """
  begun = checkpoints.latest_step(model_dir / CHECKPOINTS) is not None
  if not begun and not (model_dir / RESULTS).exists():
    return
  there = read_json(model_dir / CONFIG)
  kept, asked = ({'seed': x['seed'], **x['config']} for x in (there, settings))
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


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads what a run wrote.

  Raises:
    ValueError: if the file is missing or is no JSON.
  """
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{path} can not be read ({error}). Choose another --model_dir.'
    ) from error


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


def start(
  config: ml_collections.ConfigDict,
  renderer: renderers.Renderer,
  model_dir: pathlib.Path,
  seed: int,
) -> training.TrainState:
  """The replicated state of a run: its checkpoint's, or a new one."""
  state = training.init_state(
    renderer, build.optimizer(config), jax.random.key(seed)
  )
  if checkpoints.latest_step(model_dir / CHECKPOINTS) is not None:
    state = checkpoints.restore(model_dir / CHECKPOINTS, state)
  return devices.replicate(state)


def fit(
  config: ml_collections.ConfigDict,
  scene: base.Scene,
  renderer: renderers.Renderer,
  state: training.TrainState,
  seed: int,
) -> tuple[training.TrainState, float]:
  """Runs the update steps that are left.

  Returns:
    The replicated state at the end, and rays per second.
  """
  key = jax.random.key(seed)
  update = build.update(config, scene, renderer)
  start_step = int(devices.unreplicate(state.step))
  shown = progress.Progress(
    start_step=start_step,
    num_steps=config.num_steps,
    num_rays=config.num_rand,
    every=config.i_print,
  )
  # Several devices of one CPU deadlock when steps are queued up.
  in_turn = jax.local_device_count() > 1 and jax.default_backend() == 'cpu'
  for batch in batches.batches(
    scene.train.images,
    seed=seed,
    start_step=start_step,
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
  jax.block_until_ready(state)
  shown.close()
  return state, shown.rays_per_second()


def finish(
  model_dir: pathlib.Path, state: training.TrainState, settings: dict[str, Any]
) -> None:
  """Keeps the state at the end of training, if it is not kept already."""
  kept = devices.unreplicate(state)
  folder = model_dir / CHECKPOINTS
  if checkpoints.latest_step(folder) != int(kept.step):
    checkpoints.save(folder, kept, settings)

"""PSNR of views of several sizes: rays, cones, several rays through a pixel.

    python experiments/benchmarks/antialiasing.py

Trains on photographs of the built-in scene at four sizes, as multi-scale
Blender has them, with rays and with cones. Test views of each size are then
rendered with one ray or cone through each pixel, and with as many as the
largest photographs have pixels there.
"""

import pathlib
import sys

import ml_collections
import numpy as np
from absl import app, flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.benchmarks import machine, short_runs
from experiments.builders import experiment as experiment_lib
from experiments.builders import model, scene_loader
from experiments.configs import config_file, schema
from experiments.processes import environment
from nerf_haiku import scenes, training

_CONFIG = flags.DEFINE_string(
  'aliased_config', 'quickstart', 'Config of the built-in scene.'
)
_SIZE = flags.DEFINE_integer('aliased_size', 256, 'Pixels of the largest.')
_STEPS = flags.DEFINE_integer('aliased_steps', 500, 'Steps of each run.')
_VIEWS = flags.DEFINE_integer('aliased_views', 5, 'Test views of each size.')
_SEEDS = flags.DEFINE_list('aliased_seeds', ['0', '1', '2'], 'Seeds.')
_NUM_SCALES = 4
_CONFIGS = pathlib.Path(config_file.__file__).parent
# By whether rays are cones, and the rays along each side of a pixel.
_KINDS = {
  (False, 1): 'rays',
  (True, 1): 'cones',
  (False, 0): 'rays, several a pixel',
  (True, 0): 'cones, several a pixel',
}


def main(argv: list[str]) -> None:
  """Trains, and prints the table."""
  del argv
  environment.quiet_libraries()
  environment.retain_freed_memory()
  config = config_file.load(str(_CONFIGS / f'{_CONFIG.value}.py'))
  config.procedural.size = _SIZE.value
  config.procedural.num_test = _VIEWS.value
  config.num_steps = _STEPS.value
  config.num_scales = _NUM_SCALES
  schema.check(config, 1)
  scene = scene_loader.load_scene(config, None)
  found: dict[str, list[list[float]]] = {kind: [] for kind in _KINDS.values()}
  for cones in (False, True):
    config.cones = cones
    experiment = experiment_lib.make_experiment(config, scene)
    update = experiment.compile_update().result()
    for seed in map(int, _SEEDS.value):
      state = short_runs.train(experiment, update, seed).state
      for side in (1, 0):
        scores = score(config, experiment, state, rays_per_side=side)
        found[_KINDS[cones, side]].append(scores)
  sizes = [f'1/{2**k}' if k else '1' for k in range(_NUM_SCALES)]
  rows = []
  for kind, of_seeds in found.items():
    columns = zip(*[[*x, float(np.mean(x))] for x in of_seeds], strict=True)
    rows.append([kind, *(machine.format_range(x) for x in columns)])
  print(
    f'PSNR, dB: {_CONFIG.value} of {_SIZE.value} pixels, {_STEPS.value} steps, '
    f'{_VIEWS.value} views of each size; seeds {", ".join(_SEEDS.value)}: '
    'median (min to max).'
  )
  machine.print_table(('through each pixel', *sizes, 'mean'), rows)


def score(
  config: ml_collections.ConfigDict,
  experiment: experiment_lib.Experiment,
  state: training.TrainState,
  *,
  rays_per_side: int,
) -> list[float]:
  """Returns the mean PSNR of the test views of each size, the largest first."""
  config = config.copy_and_resolve_references()
  config.rays_per_side = rays_per_side
  scene = experiment.scene
  render = model.make_render_image(config, scene, experiment.renderer)
  test = scene.test
  psnr = []
  for i in range(len(test.images)):
    image = render(state.variables(), test.cameras, i)
    true = scenes.to_float(test.images[i], background=schema.background(config))
    error = np.mean((np.clip(image.rgb, 0, 1) - true) ** 2)
    psnr.append(float(training.psnr(error)))
  return np.reshape(psnr, (_NUM_SCALES, -1)).mean(1).tolist()


if __name__ == '__main__':
  app.run(main)

"""Ablations: PSNR and seconds of short runs that differ in some settings.

    python experiments/benchmarks/ablation.py --data_dir=data \
        --config=experiments/configs/fast_blender_lego.py --seeds=0,1,2 \
        --config.num_steps=400 --config.decay_factor=0.001 \
        --vary= --vary=batch_warmup_steps=0 --vary=adam_b2=0.999,adam_eps=1e-8

Each row is compiled once and run with all seeds, in this process; seconds are
of the steps alone. PSNR is the mean over all test views.
"""

import ast
import pathlib
import sys
import tempfile
from typing import NamedTuple

import jax
import ml_collections
from absl import flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments import launch
from experiments.benchmarks import machine, short_runs
from experiments.builders import experiment as experiment_lib
from experiments.builders import scene_loader
from experiments.configs import schema
from experiments.outputs import scoring
from nerf_haiku import scenes, training

_SEEDS = flags.DEFINE_list(
  'seeds', ['0', '1', '2'], 'Random seeds; each row has a run of each.'
)
_VARY = flags.DEFINE_multi_string(
  'vary',
  [''],
  'Fields that a row changes, as field=value,field=value; once for each row.',
)


class Row(NamedTuple):
  """The results of one setting, one for each seed."""

  seconds: list[float]
  psnr: list[float]
  samples: list[float]  # per ray, at the last step.


def vary(
  config: ml_collections.ConfigDict, text: str
) -> ml_collections.ConfigDict:
  """Returns a config with the changes of a `--vary`.

  Raises:
    UserError: if there is no such field, or its value is not allowed.
  """
  config = config.copy_and_resolve_references()
  for assignment in filter(None, text.split(',')):
    name, _, literal = assignment.partition('=')
    try:
      value = ast.literal_eval(literal)
    except (ValueError, SyntaxError):
      value = literal  # A string without quotes.
    config.update_from_flattened_dict({name: value})
  schema.check(config, jax.local_device_count())
  return config


def run(
  config: ml_collections.ConfigDict, scene: scenes.Scene, seeds: list[int]
) -> Row:
  """Trains a run with each seed, and scores its test views."""
  experiment = experiment_lib.make_experiment(config, scene)
  update = experiment.compile_update().result()
  row = Row([], [], [])
  for seed in seeds:
    trained = short_runs.train(experiment, update, seed)
    row.seconds.append(trained.seconds)
    row.samples.append(float(trained.scalars['samples']))
    row.psnr.append(_score(experiment, trained.state))
  return row


def _score(
  experiment: experiment_lib.Experiment, state: training.TrainState
) -> float:
  """Returns the mean PSNR of the test views."""
  scene, variables = experiment.scene, state.variables()
  with tempfile.TemporaryDirectory() as folder:
    return scoring.score_views(
      scene.test,
      lambda i: experiment.render_image(variables, scene.test.cameras, i),
      pathlib.Path(folder),
      near=scene.near,
      far=scene.far,
      background=schema.background(experiment.config),
    )['psnr']


def main() -> None:
  """Measures, and prints the table."""
  config, seeds = launch.CONFIG.value, [int(x) for x in _SEEDS.value]
  configs = {text: vary(config, text) for text in _VARY.value}
  scene = scene_loader.load_scene(config, launch.DATA_DIR.value)
  rows = []
  for text, changed in configs.items():
    row = run(changed, scene, seeds)
    rows.append(
      [
        text or launch.config_path().stem,
        machine.format_range(row.psnr),
        machine.format_range(row.seconds, 1),
        machine.format_range(row.samples, 1),
      ]
    )
  print(f'{len(seeds)} seeds: median (min to max).')
  machine.print_table(
    ('changed', 'PSNR, dB', 'seconds of steps', 'samples a ray'), rows
  )


if __name__ == '__main__':
  launch.run(main, launch.quickstart_config)

"""Camera refinement: PSNR with poses as they are, and with disturbed ones.

    python experiments/benchmarks/refinement.py --data_dir=data/fox \
        --config=experiments/configs/NAME.py --degrees=1 --spread=0.01

Every camera, for training and for testing, is turned about a random axis and
moved in a random direction. Test views are scored with their plain poses, and
with poses that were fitted to them. Seconds are of the steps alone.
"""

import pathlib
import sys
import tempfile

import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments import launch
from experiments.benchmarks import machine, short_runs
from experiments.builders import experiment as experiment_lib
from experiments.builders import scene_loader
from experiments.configs import schema
from experiments.outputs import score_variants, scoring, trained_run
from nerf_haiku import camera_refinement, cameras, checkpoints, scenes

_DEGREES = flags.DEFINE_float('degrees', 1.0, 'Angle of the turns.')
_SPREAD = flags.DEFINE_float(
  'spread',
  0.01,
  'Length of the moves, in root mean square distances of the training cameras '
  'from their mean.',
)

_SEED = 0  # Of the run and of the disturbance.


def disturb(
  scene: scenes.Scene, degrees: float, spread: float, seed: int
) -> scenes.Scene:
  """Returns the scene with its training and test cameras turned and moved."""
  centers = scene.train.cameras.camera_to_world[..., 3]
  offsets = centers - centers.mean(0)
  length = spread * np.sqrt(np.mean(np.sum(offsets**2, axis=-1)))
  rng = np.random.default_rng(seed)

  def directions(count: int) -> np.ndarray:
    vectors = rng.normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

  def disturb_split(split: scenes.Split) -> scenes.Split:
    pose = np.array(split.cameras.camera_to_world)
    turns = np.deg2rad(degrees) * directions(len(pose))
    turns = np.asarray(camera_refinement.rotations(jnp.asarray(turns)))
    pose[..., :3] = turns @ pose[..., :3]
    pose[..., 3] += length * directions(len(pose))
    disturbed: cameras.Cameras = split.cameras._replace(camera_to_world=pose)
    return split._replace(cameras=disturbed)

  return scene._replace(
    train=disturb_split(scene.train), test=disturb_split(scene.test)
  )


def run(
  config: ml_collections.ConfigDict, scene: scenes.Scene, seed: int
) -> list[str]:
  """Trains, and returns PSNR with plain and fitted test poses, and seconds."""
  experiment = experiment_lib.make_experiment(config, scene)
  update = experiment.compile_update().result()
  state, _, seconds = short_runs.train(experiment, update, seed)
  trained = trained_run.TrainedRun(
    experiment,
    state.variables(),
    checkpoints.CheckpointInfo(config.num_steps, 0, {}),
    {},
  )
  with tempfile.TemporaryDirectory() as folder:
    scores = scoring.score_views(
      scene.test,
      lambda i: trained.render(scene.test.cameras, i),
      pathlib.Path(folder),
      near=scene.near,
      far=scene.far,
      background=schema.background(config),
      variants={'aligned': score_variants.make_aligned(trained)},
    )
  return [
    f'{scores["psnr"]:.2f}',
    f'{scores["psnr_aligned"]:.2f}',
    f'{seconds:.0f}',
  ]


def main() -> None:
  """Measures, and prints the table."""
  config = launch.CONFIG.value
  scene = scene_loader.load_scene(config, launch.DATA_DIR.value)
  disturbed = disturb(scene, _DEGREES.value, _SPREAD.value, _SEED)
  rows = []
  for name, used in (('as given', scene), ('disturbed', disturbed)):
    for refines in (False, True):
      config.refine_cameras = refines
      row = run(config, used, _SEED)
      rows.append([name, 'yes' if refines else 'no', *row])
      print(*rows[-1], flush=True)
  machine.print_table(
    ('poses', 'refined', 'PSNR, dB', 'PSNR aligned, dB', 'seconds'), rows
  )


if __name__ == '__main__':
  launch.run(main, launch.quickstart_config)

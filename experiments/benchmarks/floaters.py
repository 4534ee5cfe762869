"""What floats close to the cameras of trained runs: opacity, beside PSNR.

    python experiments/benchmarks/floaters.py --model_dir=runs/NAME

Prints the mean opacity of the test views' pixels from near up to 5 % of the
length of their rays (in contracted space, of the s of `sampling.Spacing`), the
largest mean of a view, and the mean PSNR. Rays that begin at the same near can
be compared.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np
from absl import flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments import launch
from experiments.benchmarks import machine
from experiments.builders import model
from experiments.configs import schema
from experiments.outputs import trained_run
from nerf_haiku import cameras, sampling, scenes, similarity, training
from nerf_haiku.renderers import base

_FRACTION = 0.05
_VIEWS = flags.DEFINE_integer('views', 0, 'Test views, evenly; 0: all.')
_CHUNK = 4096


def nearest(rays: cameras.Rays, *, contracted: bool) -> cameras.Rays:
  """Returns rays that end after the first 5 % of their length."""
  if not contracted:
    far = rays.near + _FRACTION * (rays.far - rays.near)
    return rays._replace(far=far)
  spacing = sampling.contracted_spacing(rays)
  near, far = spacing.from_t(rays.near), spacing.from_t(rays.far)
  return rays._replace(far=spacing.to_t(near + _FRACTION * (far - near)))


def make_opacity(run: trained_run.TrainedRun) -> Callable[[int], float]:
  """Makes a function of a test view: the mean opacity of its nearest space."""
  scene = run.scene
  cams = similarity.move_cameras(scene.similarity, scene.test.cameras)
  cast = model.make_cast_fn(run.config, scene)
  # Where the rays are cut off is no end that all light is absorbed at.
  renderer = dataclasses.replace(run.experiment.renderer, infinite_end=False)
  variables = jax.tree.map(lambda x: x[0], run.variables)

  @jax.jit
  def render(
    variables: base.Variables, camera: jax.Array, pixel: jax.Array
  ) -> jax.Array:
    rays = nearest(cast(cams, camera, pixel), contracted=scene.contracted)
    return renderer.render_eval(variables, rays)[-1].outputs.opacity

  def opacity(view: int) -> float:
    pixel = cameras.pixels(*(int(x) for x in cams.sizes[view]))
    total = 0.0
    for begin in range(0, len(pixel), _CHUNK):
      # All calls have as many rays; those past the end are not counted.
      index = np.arange(begin, begin + _CHUNK)
      camera = np.full(_CHUNK, view, np.int32)
      values = render(variables, camera, pixel[index % len(pixel)])
      total += float(np.sum(np.asarray(values)[index < len(pixel)]))
    return total / len(pixel)

  return opacity


def psnr(run: trained_run.TrainedRun, view: int) -> float:
  """Returns the PSNR of a test view."""
  target = scenes.to_float(
    run.scene.test.images[view], background=schema.background(run.config)
  )
  rgb = run.render(run.scene.test.cameras, view).rgb
  return float(training.psnr(np.mean(np.square(rgb - target))))


def main() -> None:
  """Measures, and prints the table."""
  run = launch.load_trained_run(None)
  count = len(run.scene.test.cameras.sizes)
  views = np.linspace(0, count - 1, _VIEWS.value or count).astype(int)
  opacity = make_opacity(run)
  values = [opacity(int(view)) for view in views]
  scores = [psnr(run, int(view)) for view in views]
  machine.print_table(
    ('run', 'near', 'opacity', 'largest', 'PSNR, dB'),
    [
      [
        str(launch.MODEL_DIR.value),
        f'{run.scene.near:.4g}',
        f'{np.mean(values):.2e}',
        f'{np.max(values):.2e}',
        f'{np.mean(scores):.2f}',
      ]
    ],
  )


if __name__ == '__main__':
  launch.run(main, launch.saved_config)

"""Validation: a view that the run is not trained on."""

from collections.abc import Callable

import numpy as np

from experiments.builders import experiment as experiment_lib
from experiments.configs import schema
from experiments.outputs import scoring
from experiments.trainer import progress, tensorboard
from nerf_haiku import arrays, image_rendering, scene_bounds, scenes
from nerf_haiku.io import media
from nerf_haiku.metrics import image_quality
from nerf_haiku.renderers import base

# (variables, replicated `[D, ...]`; step) -> PSNR, dB.
Validate = Callable[[base.Variables, int], float]

# A larger fraction of the weight near a bound is reported.
_MAX_BOUNDARY_FRACTION = 0.2

# Always the same view, so that images and PSNR of a run can be compared.
_INDEX = 0


def make_validate(
  experiment: experiment_lib.Experiment,
  writer: tensorboard.SummaryWriter,
  log: progress.Log,
) -> Validate:
  """Builds a function that renders, shows and scores a validation view.

  It shows the first validation view beside its truth: colours (`rgb`,
  `target`), disparity, opacity and depth (`disp`, `acc`, `depth`), those of
  the coarse network (`rgb_coarse` and so on), and the standard deviation of
  the importance samples (`z_std`).

  Args:
    experiment: what is trained.
    writer: shows the images.
    log: reports, once, that near or far seem to cut the scene.
  """
  scene, reported = experiment.scene, set[str]()
  background = schema.background(experiment.config)

  def validate(variables: base.Variables, step: int) -> float:
    cameras = scene.val.cameras
    image = experiment.render_image(variables, cameras, _INDEX)
    truth = scenes.to_float(scene.val.images[_INDEX], background=background)
    images = {'target': media.to_uint8(truth), **_pictures(image, scene)}
    if experiment.render_coarse is not None:
      coarse = experiment.render_coarse(variables, cameras, _INDEX)
      pictures = _pictures(coarse, scene)
      images |= {f'{name}_coarse': x for name, x in pictures.items()}
    if image.fine_t_std is not None:
      images['z_std'] = _normalize_to_max(image.fine_t_std)
    for text in describe_cuts(image, scene):
      if text not in reported:
        reported.add(text)
        log.info(text)
    mask = scoring.mask_of(scene.val, _INDEX)
    psnr = image_quality.psnr(images['rgb'], images['target'], mask)
    writer.images(step, {f'validation/{x}': y for x, y in images.items()})
    writer.scalars(step, {'validation/psnr': psnr})
    return psnr

  return validate


def describe_cuts(
  image: image_rendering.RenderedImage, scene: scenes.Scene
) -> list[str]:
  """Returns messages if much of an image lies where rays begin or end."""
  total = float(np.sum(image.opacity))
  if scene.ndc is not None or not total:
    return []  # In device coordinates rays end at infinity, and may show it.
  fractions = np.sum(image.boundary_weight, axis=(0, 1)) / total
  or_box = '' if scene.box is None else ', config.box'
  bounds = (('near', 'begin', scene.near), ('far', 'end', scene.far))
  return [
    f'Much of the validation view lies where rays {verb}: {name}={bound:g} may '
    f'cut the scene (config.{name}{or_box}).'
    for fraction, (name, verb, bound) in zip(fractions, bounds, strict=True)
    # The end of contracted space shows the sky.
    if fraction > _MAX_BOUNDARY_FRACTION
    and not (scene.contracted and name == 'far')
  ]


def _pictures(
  image: image_rendering.RenderedImage, scene: scenes.Scene
) -> dict[str, np.ndarray]:
  return {
    'rgb': media.to_uint8(image.rgb),
    'disp': _normalize_to_max(image.disparity),
    'acc': media.to_gray(image.opacity, 1.0),
    'depth': media.depth_image(
      image.depth,
      image.opacity,
      scene.near,
      scene.far,
      even_to=scene_bounds.even_depth(scene),
    ),
  }


def _normalize_to_max(values: arrays.Array) -> np.ndarray:
  """Returns values `[H, W]`, 0 or more, as gray: white is the largest."""
  return media.to_gray(values, float(np.max(values)) or 1.0)

"""Other ways to compare a rendered view with its photograph.

A score of a variant is named after both: `psnr_right_half_fitted`.
"""

from collections.abc import Callable

import numpy as np

from experiments.builders import refinement
from experiments.outputs import trained_run
from nerf_haiku import devices, exposure
from nerf_haiku.io import media

# (index of the view, rendering, truth) -> what is compared instead; all images
# are `[H, W, 3]` uint8.
Variant = Callable[[int, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

# What scores are of, by the names of the variants.
DEFINITIONS = {
  'right_half': 'Here of the right half of each image.',
  'right_half_fitted': (
    'Here of the right half of each image, after the affine transform of color '
    'that fits the left half of the rendering to that of the photograph best '
    '(least squares).'
  ),
  'aligned': (
    'Here of each image rendered from a pose that was fitted to the same '
    'photograph, the scene as it is.'
  ),
}


def make_variants(run: trained_run.TrainedRun) -> dict[str, Variant]:
  """Returns the variants that the config of a run asks for, by name."""
  variants: dict[str, Variant] = {}
  if run.config.exposure:
    variants['right_half'] = lambda _, *pair: tuple(map(_right, pair))
    variants['right_half_fitted'] = lambda _, *pair: fit_on_left_half(*pair)
  if run.config.refine_cameras:
    variants['aligned'] = make_aligned(run)
  return variants


def make_aligned(run: trained_run.TrainedRun) -> Variant:
  """Returns what renders a test view from a pose fitted to its photograph."""
  align = refinement.make_align(run.config, run.scene, run.experiment.renderer)
  variables = devices.unreplicate(run.variables)

  def render_aligned(
    index: int, rgb: np.ndarray, truth: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    del rgb
    camera = align(variables, index, truth / 255)
    return media.to_uint8(run.render(camera, 0).rgb), truth

  return render_aligned


def fit_on_left_half(
  rgb: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns right halves, the rendering's with colors fitted on the left."""
  middle = rgb.shape[1] // 2
  left, left_truth = (x[:, :middle].reshape(-1, 3) for x in (rgb, truth))
  (matrix,), (offset,) = exposure.fit(left / 255, left_truth / 255)
  fitted = _right(rgb) / 255 @ matrix.T + offset
  return media.to_uint8(fitted), _right(truth)


def _right(image: np.ndarray) -> np.ndarray:
  return image[:, image.shape[1] // 2 :]

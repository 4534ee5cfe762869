"""Other ways to compare a rendered view with its photograph.

A score of a variant is named after both: `psnr_right_half_fitted`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.builders import refinement
from experiments.outputs import trained_run
from nerf_haiku import devices, exposure
from nerf_haiku.io import media


class Compared(NamedTuple):
  """A rendering and its photograph."""

  rgb: np.ndarray  # [H, W, 3] uint8
  truth: np.ndarray  # [H, W, 3] uint8
  mask: np.ndarray | None  # [H, W] bool, the pixels that count; None: all.


# (index of the view, what is compared) -> what is compared instead.
Variant = Callable[[int, Compared], Compared]

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
    variants['right_half'] = lambda _, view: _right(view)
    variants['right_half_fitted'] = lambda _, view: fit_on_left_half(view)
  if run.config.refine_cameras:
    variants['aligned'] = make_aligned(run)
  return variants


def make_aligned(run: trained_run.TrainedRun) -> Variant:
  """Returns what renders a test view from a pose fitted to its photograph."""
  align = refinement.make_align(run.config, run.scene, run.experiment.renderer)
  variables = devices.unreplicate(run.variables)

  def render_aligned(index: int, view: Compared) -> Compared:
    camera = align(variables, index, view.truth / 255, view.mask)
    return view._replace(rgb=media.to_uint8(run.render(camera, 0).rgb))

  return render_aligned


def fit_on_left_half(view: Compared) -> Compared:
  """Returns right halves, the rendering's with colors fitted on the left."""
  middle = view.rgb.shape[1] // 2
  left, left_truth = view.rgb[:, :middle], view.truth[:, :middle]
  shown = np.s_[...] if view.mask is None else view.mask[:, :middle]
  (matrix,), (offset,) = exposure.fit(
    left[shown].reshape(-1, 3) / 255, left_truth[shown].reshape(-1, 3) / 255
  )
  right = _right(view)
  fitted = right.rgb / 255 @ matrix.T + offset
  return right._replace(rgb=media.to_uint8(fitted))


def _right(view: Compared) -> Compared:
  middle = view.rgb.shape[1] // 2
  mask = None if view.mask is None else view.mask[:, middle:]
  return Compared(view.rgb[:, middle:], view.truth[:, middle:], mask)

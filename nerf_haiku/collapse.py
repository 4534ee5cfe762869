"""Detects the best-known failure of NeRF: a run that collapses to one color.

If the density of all samples falls to 0, or every ray is absorbed at its first
sample, gradients vanish and the run never recovers.
"""

import numpy as np

from nerf_haiku import arrays, training

MAX_RESTARTS = 3
# A run has collapsed if its PSNR is at most this much better than that of the
# best constant color, dB, and the standard deviation of its colors is less
# than this fraction of the true one.
_MARGIN = 0.5
_MIN_VARIATION = 0.1
# If one color scores this PSNR, dB, a healthy run long looks like a collapsed
# one.
_UNIFORM = 30.0
# Difference between the seeds of a run and of its restart.
_SEED_STRIDE = 1_000_003


class CollapseError(Exception):
  """The run is no better than an image of one color."""


def describe_collapse(step: int, stats: training.ColorStats) -> str | None:
  """Returns a message if a run has collapsed, or else None.

  Args:
    step: number of steps done.
    stats: means over recent rays.
  """
  if not is_collapsed(stats):
    return None
  return (
    f'After {step} steps the run has collapsed: its PSNR of '
    f'{float(training.psnr(stats.mse)):.2f} dB is that of one color '
    f'({constant_psnr(stats):.2f} dB).'
  )


def is_collapsed(stats: training.ColorStats) -> bool:
  """Returns whether colors hardly vary, and are no better than the best one."""
  constant = constant_psnr(stats)
  predicted = _variance(stats.predicted, stats.predicted_square)
  target = _variance(stats.target, stats.target_square)
  return (
    constant < _UNIFORM
    and float(training.psnr(stats.mse)) < constant + _MARGIN
    and predicted < _MIN_VARIATION**2 * target
  )


def constant_psnr(stats: training.ColorStats) -> float:
  """Returns the PSNR, dB, of the best constant color: the mean."""
  variance = _variance(stats.target, stats.target_square)
  return float(training.psnr(max(variance, 0.0)))


def next_seed(seed: int) -> int:
  """Returns the seed for the restart of a collapsed run with this seed."""
  return (seed + _SEED_STRIDE) % 2**31


def _variance(mean: arrays.Array, mean_square: arrays.Array) -> float:
  return float(np.mean(mean_square - np.square(mean)))

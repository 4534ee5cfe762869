"""The best-known failure of NeRF: a start that ends in one colour.

Where the density of all samples falls to 0, or all rays end at once, nothing
tells the network where to put anything, and it stays so.
"""

import numpy as np

from nerf_haiku import training

MAX_RESTARTS = 3
# A run is no better than one colour if its PSNR is so near to that of the best
# colour, dB, and its colours vary so little beside the true ones.
_MARGIN = 0.5
_LEAST_VARIATION = 0.1
# Where one colour is as good as this, dB, a healthy run looks like it for long.
_UNIFORM = 30.0
# A restarted run's seed is this much more than the one before.
_SEED_STRIDE = 1_000_003


class CollapseError(Exception):
  """The run is no better than a picture of one colour."""


def describe_collapse(step: int, moments: training.ColorStats) -> str | None:
  """What to say if a run has collapsed after so many steps."""
  if not is_collapsed(moments):
    return None
  return (
    f'After {step} steps the run has collapsed: its PSNR of '
    f'{float(training.psnr(moments.mse)):.2f} dB is that of one colour '
    f'({constant_psnr(moments):.2f} dB).'
  )


def is_collapsed(moments: training.ColorStats) -> bool:
  """Whether colours are no better than the best one, and hardly vary."""
  constant = constant_psnr(moments)
  seen = _variance(moments.seen, moments.seen_square)
  true = _variance(moments.true, moments.true_square)
  return (
    constant < _UNIFORM
    and float(training.psnr(moments.mse)) < constant + _MARGIN
    and seen < _LEAST_VARIATION**2 * true
  )


def constant_psnr(moments: training.ColorStats) -> float:
  """PSNR, dB, of the best constant colour: the mean."""
  variance = _variance(moments.true, moments.true_square)
  return float(training.psnr(max(variance, 0.0)))


def next_seed(seed: int) -> int:
  """The seed that a collapsed run of this one starts again with."""
  return (seed + _SEED_STRIDE) % 2**31


def _variance(mean: np.ndarray, square: np.ndarray) -> float:
  return float(np.mean(square - np.square(mean)))

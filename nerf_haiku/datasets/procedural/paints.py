"""Paints of the built-in scene: the albedo of points on a solid."""

from collections.abc import Callable

import numpy as np

# [N, 3] points in the solid's frame -> [N, 3] linear albedo.
Paint = Callable[[np.ndarray], np.ndarray]


def linear(color: str) -> np.ndarray:
  """Returns the albedo `[3]` of a hexadecimal color."""
  return (np.array(list(bytes.fromhex(color))) / 255) ** 2.2


def plain(color: np.ndarray) -> Paint:
  """Returns one color."""
  return lambda points: np.broadcast_to(color, points.shape)


def mix(a: np.ndarray, b: np.ndarray, fraction: np.ndarray) -> np.ndarray:
  """Mixes colors, `[3]` or `[N, 3]`, by a fraction `[N]` of the second."""
  mixed: np.ndarray = a + (b - a) * fraction[:, None]
  return mixed


def bands(a: np.ndarray, b: np.ndarray, width: float) -> Paint:
  """Returns bands perpendicular to z, one of them centered at 0."""
  return lambda points: mix(a, b, np.floor(points[:, 2] / width + 0.5) % 2)


def checks(a: np.ndarray, b: np.ndarray, width: float) -> Paint:
  """Returns cubes of two colors in turn."""
  # A face at a multiple of the width must not be split between two squares.
  return lambda points: mix(
    a, b, np.sum(np.floor(points * (0.999 / width)), axis=1) % 2
  )


def mottled(a: np.ndarray, b: np.ndarray, size: float) -> Paint:
  """Returns soft patches of some size, as of leaves."""
  return lambda points: mix(a, b, 0.5 + 0.5 * patches(points / size))


def patches(points: np.ndarray) -> np.ndarray:
  """Returns an uneven pattern `[N]` in [-1, 1] of points; a patch is 1 wide."""
  x, y, z = np.pi * points.T
  first = np.sin(x + 1.7 * np.sin(0.6 * y + 0.9 * z))
  second = np.sin(0.8 * y + 1.3 * np.sin(0.7 * x - 0.5 * z) + 1.0)
  both: np.ndarray = 0.5 * (first + np.sin(1.1 * z + 1.9 * second))
  return both


def lined(outside: Paint, inside: Paint, radius: float) -> Paint:
  """Returns a paint that is different within a radius of the z axis."""

  def paint(points: np.ndarray) -> np.ndarray:
    inner = np.hypot(points[:, 0], points[:, 1]) < radius
    return np.where(inner[:, None], inside(points), outside(points))

  return paint

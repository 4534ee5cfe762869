"""Lens distortion: the polynomials of OpenCV, and their inverse.

Positions are on the image plane at depth 1, x to the right and y **down**, as
OpenCV means them. A perspective lens moves a point at the distance r from the
optical axis to

  x (1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8) + 2 p1 x y + p2 (r^2 + 2 x^2),
  y (1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8) + 2 p2 x y + p1 (r^2 + 2 y^2).

A fisheye lens moves a point at the angle a from the axis to the distance
a (1 + k1 a^2 + k2 a^4 + k3 a^6 + k4 a^8) from it.
"""

import chex
import jax
import jax.numpy as jnp

from nerf_haiku import arrays

COEFFICIENTS = ('k1', 'k2', 'k3', 'k4', 'p1', 'p2')
NUM_COEFFICIENTS = len(COEFFICIENTS)
# COLMAP's names of such lenses. Of FULL_OPENCV, only without a denominator.
PERSPECTIVE_MODELS = (
  'PINHOLE',
  'SIMPLE_PINHOLE',
  'OPENCV',
  'FULL_OPENCV',
  'SIMPLE_RADIAL',
  'RADIAL',
)
FISHEYE_MODELS = ('OPENCV_FISHEYE', 'SIMPLE_RADIAL_FISHEYE', 'RADIAL_FISHEYE')

_NEWTON_STEPS = 10
# The tangent of 89 degrees: what is farther off the axis counts as there.
_MAX_TANGENT = 57.3
_TINY = 1e-12  # Under squares of distances, and determinants of Newton's steps.


def distort(
  points: arrays.Array, coefficients: arrays.Array, fisheye: arrays.Array
) -> jax.Array:
  """Returns where lenses show points.

  Args:
    points: `[R, 2]` x and y, without distortion.
    coefficients: `[R, 6]` k1, k2, k3, k4, p1, p2.
    fisheye: `[R]` bool, whether the lens is a fisheye.

  Returns:
    `[R, 2]` x and y on the sensor.
  """
  _check(points, coefficients, fisheye)
  points, coefficients = _clip(jnp.asarray(points)), jnp.asarray(coefficients)
  perspective, _ = _perspective(points, coefficients)
  # The root of 0 has no gradient.
  radius = jnp.sqrt(jnp.maximum(jnp.sum(points**2, axis=-1), _TINY))
  radii, _ = _fisheye(jnp.arctan(radius), coefficients)
  round_ = points * (radii / radius)[:, None]
  return jnp.where(jnp.asarray(fisheye)[:, None], round_, perspective)


def undistort(
  points: arrays.Array, coefficients: arrays.Array, fisheye: arrays.Array
) -> jax.Array:
  """Returns what lenses show at points: the inverse of `distort`.

  By Newton's method, which is exact where all coefficients of a perspective
  lens are 0. Where a lens shows nothing, the result is finite.

  Args:
    points: `[R, 2]` x and y on the sensor.
    coefficients: `[R, 6]` k1, k2, k3, k4, p1, p2.
    fisheye: `[R]` bool, whether the lens is a fisheye.

  Returns:
    `[R, 2]` x and y, without distortion.
  """
  _check(points, coefficients, fisheye)
  points, coefficients = _clip(jnp.asarray(points)), jnp.asarray(coefficients)
  radii = jnp.sqrt(jnp.maximum(jnp.sum(points**2, axis=-1), _TINY))

  def step(
    state: tuple[jax.Array, jax.Array], _: None
  ) -> tuple[tuple[jax.Array, jax.Array], None]:
    plane, angles = state
    shown, jacobian = _perspective(plane, coefficients)
    plane = _clip(plane - _solve(jacobian, shown - points))
    shown_radii, slopes = _fisheye(angles, coefficients)
    slopes = jnp.where(jnp.abs(slopes) > _TINY, slopes, 1.0)
    angles = angles - (shown_radii - radii) / slopes
    return (plane, jnp.clip(angles, 0.0, jnp.pi / 2)), None

  start = points, jnp.clip(radii, 0.0, jnp.pi / 2)
  (plane, angles), _ = jax.lax.scan(step, start, None, _NEWTON_STEPS)
  tangents = jnp.minimum(jnp.tan(angles), _MAX_TANGENT)
  round_ = points * (tangents / radii)[:, None]
  return jnp.where(jnp.asarray(fisheye)[:, None], round_, plane)


def _clip(points: jax.Array) -> jax.Array:
  return jnp.clip(points, -_MAX_TANGENT, _MAX_TANGENT)


def _check(
  points: arrays.Array, coefficients: arrays.Array, fisheye: arrays.Array
) -> None:
  count = points.shape[0]
  chex.assert_shape(
    [points, coefficients, fisheye],
    [(count, 2), (count, NUM_COEFFICIENTS), (count,)],
  )


def _perspective(
  points: jax.Array, coefficients: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns distorted points `[R, 2]`, and their Jacobian `[R, 2, 2]`."""
  x, y = points.T
  k1, k2, k3, k4, p1, p2 = coefficients.T
  square = x * x + y * y
  radial = 1 + square * (k1 + square * (k2 + square * (k3 + square * k4)))
  # Of the square of the radius.
  slope = k1 + square * (2 * k2 + square * (3 * k3 + square * 4 * k4))
  shown = jnp.stack(
    [
      x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x),
      y * radial + 2 * p2 * x * y + p1 * (square + 2 * y * y),
    ],
    axis=-1,
  )
  mixed = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
  jacobian = jnp.stack(
    [
      radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x,
      mixed,
      mixed,
      radial + 2 * y * y * slope + 2 * p2 * x + 6 * p1 * y,
    ],
    axis=-1,
  )
  return shown, jacobian.reshape(-1, 2, 2)


def _solve(jacobian: jax.Array, values: jax.Array) -> jax.Array:
  """Returns the solutions `[R, 2]` of `R` equations; finite if singular."""
  a, b, c, d = jacobian.reshape(-1, 4).T
  determinant = a * d - b * c
  determinant = jnp.where(jnp.abs(determinant) > _TINY, determinant, 1.0)
  x, y = values.T
  return jnp.stack([d * x - b * y, a * y - c * x], -1) / determinant[:, None]


def _fisheye(
  angles: jax.Array, coefficients: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the radii `[R]` of angles, and their derivatives."""
  k1, k2, k3, k4 = coefficients[:, :4].T
  square = angles * angles
  series = square * (k1 + square * (k2 + square * (k3 + square * k4)))
  slopes = square * (
    3 * k1 + square * (5 * k2 + square * (7 * k3 + square * 9 * k4))
  )
  return angles * (1 + series), 1 + slopes

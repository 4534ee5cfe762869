"""Contraction of unbounded space into a ball (section 2 of mip-NeRF 360).

Barron et al., *Mip-NeRF 360: Unbounded Anti-Aliased Neural Radiance Fields*,
2022. What is within 1 of the origin stays as it is; all else lies between the
radii 1 and 2, where distances shrink with the square of the radius.
"""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import arrays

RADIUS = 2.0  # of contracted space.
# The box around it, lower and upper corner.
BOX = np.array([[-RADIUS] * 3, [RADIUS] * 3], np.float32)
FAR = 1e3  # where rays end if nothing else is known, field units.
_MAX_RADIUS = 1e6  # of points that `expand` returns.


def contract(points: arrays.Array) -> jax.Array:
  """Contracts points (equation 10).

  Args:
    points: `[..., D]`; of the origin and of up to 1e18 from it, values and
      gradients are finite. With `D` of 1 it contracts signed distances.

  Returns:
    `[..., D]` less than 2 from the origin; 2 where it rounds to that.
  """
  points = jnp.asarray(points)
  square = jnp.sum(points * points, axis=-1, keepdims=True)
  return points * contraction_factor(square)


def contraction_factor(square: arrays.Array) -> jax.Array:
  """Returns what contraction multiplies points by, from squared radii."""
  radius = _radius(square)
  return (RADIUS - 1.0 / radius) / radius


def density_factor(points: arrays.Array) -> jax.Array:
  """Returns what densities are multiplied by at points, 1 over squared radii.

  It is by how much contraction shrinks lengths towards the origin. A field's
  densities are those of contracted space: equal ones are equally opaque near
  and far over equal lengths there, over which samples and cells are even. An
  untrained field would otherwise hide all that is far behind its haze.

  Args:
    points: `[..., 3]`, before contraction.

  Returns:
    `[...]` in (0, 1], 1 within 1 of the origin.
  """
  points = jnp.asarray(points)
  return 1.0 / jnp.maximum(jnp.sum(points * points, axis=-1), 1.0)


def length_factor(points: arrays.Array) -> jax.Array:
  """Returns by how much contraction shrinks lengths, on average.

  It is the third root of the factor by which volumes shrink: by the squared
  radius towards the origin, and by less across.

  Args:
    points: `[..., 3]`, before contraction.

  Returns:
    `[...]` in (0, 1], 1 within 1 of the origin.
  """
  points = jnp.asarray(points)
  square = jnp.sum(points * points, axis=-1)
  across = contraction_factor(square)
  return jnp.cbrt(density_factor(points) * across**2)


def expand(points: arrays.Array) -> jax.Array:
  """Returns the points `[..., D]` that are contracted to others.

  Those at or beyond the radius 2 come back at a radius of 1e6.
  """
  points = jnp.asarray(points)
  square = jnp.sum(points * points, axis=-1, keepdims=True)
  radius = _radius(square)
  remaining = jnp.maximum(RADIUS - radius, 1.0 / _MAX_RADIUS)
  return points / (radius * remaining)


def _radius(square: arrays.Array) -> jax.Array:
  """Returns the radii of what is contracted, 1 for the others."""
  # The gradient of a root is infinite at 0.
  return jnp.sqrt(jnp.maximum(square, 1.0))


def contract_field(field: hk.Transformed) -> hk.Transformed:
  """Returns a field of unbounded space, from one of contracted space.

  Args:
    field: see `fields`; it is queried within 2 of the origin.
  """

  def apply(
    params: hk.Params,
    points: jax.Array,
    viewdirs: jax.Array,
    variance: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    spread: tuple[jax.Array, ...] = ()
    if variance is not None:
      spread = (variance * length_factor(points)[..., None] ** 2,)
    density, rgb = field.apply(params, contract(points), viewdirs, *spread)
    return density, rgb

  return field._replace(apply=apply)

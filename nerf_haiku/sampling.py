"""Samples along a ray, for quadrature (sections 4 and 5.2 of the paper)."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from nerf_haiku import arrays, cameras, contraction

# Added to every weight, so that a ray through empty space has a density.
_WEIGHT_FLOOR = 1e-5
# A smaller probability of a bin is not divided by.
_EMPTY_BIN = 1e-5


def even(
  near: arrays.Array, far: arrays.Array, *, num_samples: int, lindisp: bool
) -> jax.Array:
  """Returns positions evenly spaced from near to far.

  Args:
    near: `[R, 1]` first position; over 0 where `lindisp`.
    far: `[R, 1]` last position.
    num_samples: `S`.
    lindisp: whether steps of 1 / t are equal, rather than steps of t.

  Returns:
    `[R, S]` positions, increasing.
  """
  chex.assert_rank([near, far], 2)
  chex.assert_equal_shape([near, far])
  near, far = jnp.asarray(near), jnp.asarray(far)
  s = jnp.linspace(0.0, 1.0, num_samples, dtype=near.dtype)[None]
  if lindisp:
    return 1.0 / (1.0 / near * (1.0 - s) + 1.0 / far * s)
  return near * (1.0 - s) + far * s


class Spacing(NamedTuple):
  """Maps positions on rays to s, in which contracted space is sampled evenly.

  The map is the contraction of signed distances along the ray, counted from
  its point nearest to the origin: linear in t as far as 1 from that point, and
  even in disparity beyond. s is between -2 and 2 however long the ray is, and
  on a ray through the origin equal steps of s are equal in contracted space.
  """

  speed: jax.Array  # [R, 1], or [B] of samples: field units per t.
  offset: jax.Array  # signed distance at t = 0, field units.

  def from_t(self, t: arrays.Array) -> jax.Array:
    """Returns the s of positions `[R, S]`, or `[B]` of as many samples."""
    distance = self.offset + self.speed * t
    return contraction.contract(distance[..., None])[..., 0]

  def to_t(self, s: jax.Array) -> jax.Array:
    """Returns the positions t of s; those of 2 or more are 1e6 away."""
    distance = contraction.expand(s[..., None])[..., 0]
    return (distance - self.offset) / self.speed


def contracted_spacing(rays: cameras.Rays) -> Spacing:
  """Returns the even spacing of `R` rays through contracted space."""
  directions = jnp.asarray(rays.directions)
  speed = jnp.linalg.norm(directions, axis=-1, keepdims=True)
  along = jnp.sum(rays.origins * directions, axis=-1, keepdims=True)
  return Spacing(speed=speed, offset=along / speed)


def midpoints(t: jax.Array) -> jax.Array:
  """Returns the positions `[R, S - 1]` halfway between those of `[R, S]`."""
  return 0.5 * (t[:, 1:] + t[:, :-1])


def stratified(keys: jax.Array, t: jax.Array) -> jax.Array:
  """Moves each position at random within its stratum (equation 2).

  The strata meet halfway between the positions; the first begins at the first
  position and the last ends at the last, as in the reference implementation.

  Args:
    keys: `[R]`, one per ray.
    t: `[R, S]` positions, increasing.

  Returns:
    `[R, S]` positions, increasing.
  """
  chex.assert_rank([keys, t], [1, 2])
  middle = midpoints(t)
  lower = jnp.concatenate([t[:, :1], middle], axis=-1)
  upper = jnp.concatenate([middle, t[:, -1:]], axis=-1)
  return lower + (upper - lower) * uniforms(keys, t.shape[1], t.dtype)


def uniforms(
  keys: jax.Array, num: int, dtype: jnp.dtype = jnp.float32
) -> jax.Array:
  """Draws `[R, num]` uniform numbers in [0, 1), a row for each of `R` keys."""
  return jax.vmap(lambda key: jax.random.uniform(key, (num,), dtype))(keys)


def normals(
  keys: jax.Array, num: int, dtype: jnp.dtype = jnp.float32
) -> jax.Array:
  """Draws `[R, num]` standard normal numbers, a row for each of `R` keys."""
  return jax.vmap(lambda key: jax.random.normal(key, (num,), dtype))(keys)


def invert_cdf(u: jax.Array, edges: jax.Array, weights: jax.Array) -> jax.Array:
  """Inverts the CDF of a piecewise constant density (section 5.2).

  Args:
    u: `[R, N]` in [0, 1]; of uniform `u` the result has the density.
    edges: `[R, B + 1]` edges of the bins, not decreasing.
    weights: `[R, B]` weight of each bin, 0 or more, of any sum.

  Returns:
    `[R, N]` positions within the edges, in the order of `u`.
  """
  chex.assert_rank([u, edges, weights], 2)
  rays, bins = weights.shape
  chex.assert_shape(edges, (rays, bins + 1))
  weights = weights + _WEIGHT_FLOOR
  density = weights / jnp.sum(weights, axis=-1, keepdims=True)
  cdf = jnp.pad(jnp.cumsum(density, axis=-1), ((0, 0), (1, 0)))
  search = jax.vmap(functools.partial(jnp.searchsorted, side='right'))
  above = search(cdf, u)
  below = jnp.maximum(above - 1, 0)
  above = jnp.minimum(above, bins)
  cdf_below = jnp.take_along_axis(cdf, below, axis=-1)
  mass = jnp.take_along_axis(cdf, above, axis=-1) - cdf_below
  fraction = (u - cdf_below) / jnp.where(mass < _EMPTY_BIN, 1.0, mass)
  left = jnp.take_along_axis(edges, below, axis=-1)
  right = jnp.take_along_axis(edges, above, axis=-1)
  return left + fraction * (right - left)

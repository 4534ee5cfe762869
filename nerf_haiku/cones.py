"""Cones through pixels, and the Gaussians that stand for pieces of them.

Barron et al., *Mip-NeRF: A Multiscale Representation for Anti-Aliasing Neural
Radiance Fields*, 2021. A ray sees points; a cone sees what its pixel covers, so
that one field renders images of any size without aliasing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nerf_haiku import arrays, cameras


class Gaussians(NamedTuple):
  """Gaussians with the mean and the variance of pieces of cones."""

  t: jax.Array  # [..., S] position of the mean on the ray.
  variance: jax.Array  # [..., S, 3] along x, y and z, squared scene units.


def gaussians(
  rays: cameras.Rays, start: arrays.Array, end: arrays.Array
) -> Gaussians:
  """Fits Gaussians to pieces of cones (section 3.1, equations 7, 8 and 16).

  Args:
    rays: `R` rays with a radius.
    start: `[R, S]` where pieces begin, in t, 0 or more.
    end: `[R, S]` where they end, at `start` or beyond.

  Raises:
    ValueError: if the rays have no radius.
  """
  if rays.radius is None:
    raise ValueError('These rays are no cones: they have no radius.')
  start, end = jnp.asarray(start), jnp.asarray(end)
  middle, half = 0.5 * (start + end), 0.5 * (end - start)
  square, half_square = middle**2, half**2
  # 0 for a piece of no length at the tip.
  whole = jnp.maximum(3 * square + half_square, jnp.finfo(middle.dtype).tiny)
  ratio = half_square / whole  # In [0, 1]: no fourth power is ever formed.
  t = middle + 2 * middle * ratio
  along = half_square / 3 - 4 / 15 * ratio**2 * (12 * square - half_square)
  across = jnp.asarray(rays.radius) ** 2 * (
    square / 4 + 5 / 12 * half_square - 4 / 15 * half_square * ratio
  )
  # Of each coordinate: along the ray, and in the plane across it.
  directions = jnp.asarray(rays.directions)[:, None]
  squares = directions**2
  share = squares / jnp.sum(squares, axis=-1, keepdims=True)
  variance = along[..., None] * squares + across[..., None] * (1 - share)
  return Gaussians(t=t, variance=variance)

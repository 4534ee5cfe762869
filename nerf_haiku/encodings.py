"""Encodings of positions and directions (section 5.1 of the paper)."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

PERIODIC_FNS = {'sin': jnp.sin, 'cos': jnp.cos}


def positional(
  x: jax.Array,
  *,
  num_octaves: int,
  periodic_fns: Sequence[str] = ('sin', 'cos'),
  log_sampling: bool = True,
  include_input: bool = True,
  variance: jax.Array | None = None,
) -> jax.Array:
  """Encodes each coordinate by periodic functions (equation 4).

  As in the reference implementation, the factor pi is left out.

  Args:
    x: `[..., D]` coordinates.
    num_octaves: number of frequencies, from 1 to `2 ** (num_octaves - 1)`.
    periodic_fns: names of functions in `PERIODIC_FNS`.
    log_sampling: whether frequencies double; else they are evenly spaced.
    include_input: whether `x` itself comes first.
    variance: `[..., D]`; the encoding is then its mean over a Gaussian around
      `x`, in which frequencies fade that the Gaussian is too wide for (Barron
      et al., *Mip-NeRF*, 2021, equation 14). None: that of `x` itself.

  Returns:
    `[..., P]`: x, sin(x), cos(x), sin(2x), cos(2x), ... of `D` numbers each.
  """
  chex.assert_type(x, float)
  highest = num_octaves - 1
  if log_sampling:
    frequencies = 2.0 ** np.arange(num_octaves)
  else:
    frequencies = np.linspace(1.0, 2.0**highest, num_octaves)
  angles = jnp.stack([x * float(f) for f in frequencies], axis=-2)
  waves = [PERIODIC_FNS[name](angles) for name in periodic_fns]
  if variance is not None:
    spread = jnp.stack([variance * float(f) ** 2 for f in frequencies], -2)
    waves = [jnp.exp(-0.5 * spread) * wave for wave in waves]
  # [..., octave, function, D], flattened in this order.
  encoded = jnp.stack(waves, axis=-2).reshape(*x.shape[:-1], -1)
  return jnp.concatenate([x, encoded], -1) if include_input else encoded


def spherical_harmonics(directions: jax.Array) -> jax.Array:
  """Returns the real spherical harmonics of degrees 0 to 3.

  Args:
    directions: `[..., 3]` of length 1.

  Returns:
    `[..., 16]`, orthonormal on the sphere, by degree and then order.
  """
  chex.assert_axis_dimension(directions, -1, 3)
  x, y, z = jnp.moveaxis(directions, -1, 0)
  xx, yy, zz = x * x, y * y, z * z
  pi = np.pi
  parts = [
    np.sqrt(1 / (4 * pi)) * jnp.ones_like(x),
    np.sqrt(3 / (4 * pi)) * y,
    np.sqrt(3 / (4 * pi)) * z,
    np.sqrt(3 / (4 * pi)) * x,
    np.sqrt(15 / (4 * pi)) * x * y,
    np.sqrt(15 / (4 * pi)) * y * z,
    np.sqrt(5 / (16 * pi)) * (3 * zz - 1),
    np.sqrt(15 / (4 * pi)) * x * z,
    np.sqrt(15 / (16 * pi)) * (xx - yy),
    np.sqrt(35 / (32 * pi)) * y * (3 * xx - yy),
    np.sqrt(105 / (4 * pi)) * x * y * z,
    np.sqrt(21 / (32 * pi)) * y * (5 * zz - 1),
    np.sqrt(7 / (16 * pi)) * z * (5 * zz - 3),
    np.sqrt(21 / (32 * pi)) * x * (5 * zz - 1),
    np.sqrt(105 / (16 * pi)) * z * (xx - yy),
    np.sqrt(35 / (32 * pi)) * x * (xx - 3 * yy),
  ]
  return jnp.stack([jnp.asarray(p, directions.dtype) for p in parts], axis=-1)

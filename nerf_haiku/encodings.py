"""Encodings of positions and directions that let a network see detail."""

from collections.abc import Sequence

import chex
import jax.numpy as jnp
import numpy as np

PERIODIC_FNS = {'sin': jnp.sin, 'cos': jnp.cos}


def positional(
  x: chex.Array,
  *,
  num_octaves: int,
  periodic_fns: Sequence[str] = ('sin', 'cos'),
  log_sampling: bool = True,
  include_input: bool = True,
) -> chex.Array:
  """Encodes each coordinate by periodic functions (equation 4).

  As in the original's code, the factor pi of the equation is left out.

  Args:
    x: `[..., D]` coordinates.
    num_octaves: how many frequencies, from 1 to `2 ** (num_octaves - 1)`.
    periodic_fns: names of the functions, of `PERIODIC_FNS`.
    log_sampling: whether frequencies double; else they are evenly spaced.
    include_input: whether `x` itself comes first.

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
  # [..., octave, function, D], flattened in this order.
  encoded = jnp.stack(waves, axis=-2).reshape(*x.shape[:-1], -1)
  return jnp.concatenate([x, encoded], -1) if include_input else encoded

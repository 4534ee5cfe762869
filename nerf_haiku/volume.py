"""The volume rendering integral (section 4 of the paper)."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

# Where the original ends the last interval: any density at the last sample
# absorbs all light that is left.
INFINITE = 1e10
# Shift of the softplus, so that space begins almost empty.
_SOFTPLUS_SHIFT = -1.0
# Least depth that disparity divides by, scene units.
_LEAST_DEPTH = 1e-10

DENSITY_ACTIVATIONS: dict[str, Callable[[chex.Array], chex.Array]] = {
  'relu': jax.nn.relu,
  'softplus': lambda raw: jax.nn.softplus(raw + _SOFTPLUS_SHIFT),
}


class Rendering(NamedTuple):
  """What is seen along `R` rays, from `S` samples each."""

  rgb: chex.Array  # [R, 3] in [0, 1].
  depth: chex.Array  # [R] sum of weight times t, not divided by opacity.
  disparity: chex.Array  # [R] opacity / depth, 0 where opacity is 0.
  opacity: chex.Array  # [R] in [0, 1], the sum of weights.
  weights: chex.Array  # [R, S] of each sample's colour.
  t: chex.Array  # [R, S] positions of the samples.
  # [R] standard deviation of the importance samples; 0 without them.
  spread: chex.Array


def composite(
  rgb: chex.Array,
  density: chex.Array,
  t: chex.Array,
  directions: chex.Array,
  *,
  end: chex.Array,
  white_background: bool,
) -> Rendering:
  """Integrates colour along each ray (equation 3).

  Args:
    rgb: `[R, S, 3]` colours in [0, 1] at `S` samples on each of `R` rays.
    density: `[R, S]`, 0 or more, per scene unit.
    t: `[R, S]` sample positions, not decreasing along `S`.
    directions: `[R, 3]`; their norm turns steps of `t` into scene units.
    end: `[R, 1]` where the last sample's interval ends, at or behind it; far
      away (`INFINITE`) in the original.
    white_background: whether light that nothing absorbs is white, not black.

  Returns:
    The rendering. Its values and gradients are finite for densities from 0 to
    1e8.
  """
  chex.assert_rank(density, 2)
  rays, samples = density.shape
  chex.assert_shape(
    [rgb, t, directions, end],
    [(rays, samples, 3), (rays, samples), (rays, 3), (rays, 1)],
  )
  chex.assert_type([rgb, density, t, directions], float)
  steps = jnp.diff(jnp.concatenate([t, end], axis=-1), axis=-1)
  length = jnp.linalg.norm(directions, axis=-1, keepdims=True)
  optical_depth = density * steps * length
  # Light reaches sample i through samples 0 .. i - 1: an exclusive sum.
  before = jnp.cumsum(optical_depth[:, :-1], axis=-1)
  transmittance = jnp.exp(-jnp.pad(before, ((0, 0), (1, 0))))
  weights = transmittance * -jnp.expm1(-optical_depth)
  colour = jnp.sum(weights[..., None] * rgb, axis=1)
  opacity = jnp.sum(weights, axis=-1)
  depth = jnp.sum(weights * t, axis=-1)
  if white_background:
    colour += 1.0 - opacity[:, None]
  return Rendering(
    colour, depth, disparity(depth, opacity), opacity, weights, t,
    jnp.zeros_like(depth),
  )  # fmt: skip


def disparity(depth: chex.Array, opacity: chex.Array) -> chex.Array:
  """Opacity over depth of `[R]` rays, 0 where opacity is 0."""
  return opacity / jnp.maximum(depth, _LEAST_DEPTH)

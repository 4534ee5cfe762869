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
_EXP_SHIFT = -2.0
_LARGEST_EXPONENT = 15.0
_END = 0.02  # Of a ray's way: where near and far may cut the scene.
# Least depth that disparity divides by, scene units.
_LEAST_DEPTH = 1e-10
# Least way of a ray that distances on it are divided by, in t.
_LEAST_WAY = 1e-10

DENSITY_ACTIVATIONS: dict[str, Callable[[chex.Array], chex.Array]] = {
  'relu': jax.nn.relu,
  'softplus': lambda raw: jax.nn.softplus(raw + _SOFTPLUS_SHIFT),
  # Of fast fields: density spans decades. Shifted, so that space begins nearly
  # empty; what is opaque anyway stays finite.
  'exp': lambda raw: jnp.exp(jnp.minimum(raw + _EXP_SHIFT, _LARGEST_EXPONENT)),
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
  # [R, 2] weights of samples in the first and last 2 % from near to far.
  at_ends: chex.Array
  distortion: chex.Array  # [R] how far apart the weights lie, see `distortion`.


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
    colour,
    depth,
    disparity(depth, opacity),
    opacity,
    weights,
    t,
    jnp.zeros_like(depth),
    jnp.zeros((rays, 2), depth.dtype),
    jnp.zeros_like(depth),
  )


def distortion(
  weights: chex.Array,
  t: chex.Array,
  width: chex.Array,
  near: chex.Array,
  far: chex.Array,
  *,
  sum_before: Callable[[chex.Array], chex.Array],
) -> chex.Array:
  """What samples add to how far apart the weights of their rays lie.

  Of a ray it is the sum of `w_i w_j |t_i - t_j|` over all pairs of samples,
  and of `w_i^2 width_i / 3`, with its way from near to far as 1: it is least
  where all weight is in one place. It is equation 15 of Barron et al.,
  *Mip-NeRF 360*, 2022.

  Args:
    weights: `[...]` of the samples, each in [0, 1].
    t: `[...]` positions, not decreasing along a ray.
    width: `[...]` of the intervals, in t.
    near: where their rays begin, broadcast against them.
    far: where they end; at `near` for a ray that sees nothing.
    sum_before: gives for each sample the sum of those before it on its ray.

  Returns:
    `[...]`, 0 or more; the sum over a ray's samples is less than 1.
  """
  way = jnp.maximum(far - near, _LEAST_WAY)
  t, width = (t - near) / way, width / way
  pairs = weights * (t * sum_before(weights) - sum_before(weights * t))
  return 2.0 * pairs + weights**2 * width / 3.0


class Packed(NamedTuple):
  """What `R` rays have gathered from samples packed into one list."""

  rgb: chex.Array  # [R, 3] sum of weight times colour, without a background.
  opacity: chex.Array  # [R] the sum of weights.
  depth: chex.Array  # [R] the sum of weight times t.
  transmittance: chex.Array  # [R] light that passes all samples.
  weights: chex.Array  # [B] of each sample's colour.


def composite_packed(
  rgb: chex.Array,
  optical_depth: chex.Array,
  t: chex.Array,
  *,
  ray: chex.Array,
  rank: chex.Array,
  num_rays: int,
  longest: int,
) -> Packed:
  """Integrates colour along rays of any number of samples (equation 3).

  Args:
    rgb: `[B, 3]` colours in [0, 1] of `B` samples.
    optical_depth: `[B]` density times length of the interval, 0 or more.
    t: `[B]` positions.
    ray: `[B]` int32, the samples' rays: 0 or more, not decreasing.
    rank: `[B]` int32, 0 for the first sample of a ray, 1 for the next.
    num_rays: `R`.
    longest: most samples of a ray.

  Returns:
    The sums of each ray; those of `composite` with the same samples.
  """
  chex.assert_rank([optical_depth, t, ray, rank], 1)
  chex.assert_equal_shape([optical_depth, t, ray, rank])
  chex.assert_shape(rgb, (*t.shape, 3))
  before = exclusive_sum(optical_depth, rank, longest)
  weights = jnp.exp(-before) * -jnp.expm1(-optical_depth)
  parts = jnp.stack([weights, weights * t, optical_depth], axis=-1)
  total = jax.ops.segment_sum(
    jnp.concatenate([weights[:, None] * rgb, parts], axis=-1),
    ray,
    num_rays,
    indices_are_sorted=True,
  )
  return Packed(
    total[:, :3], total[:, 3], total[:, 4], jnp.exp(-total[:, 5]), weights
  )


def exclusive_sum(x: chex.Array, rank: chex.Array, longest: int) -> chex.Array:
  """For each of `[B]` the sum of those before it on its ray.

  Each round adds what the sample so many places before has, twice as far as
  the last one; differences of one long sum would lose what is small in it.
  """

  def place_before(x, distance):
    moved = jnp.pad(x[:-distance], (distance, 0))
    return jnp.where(rank >= distance, moved, 0.0)

  total = place_before(x, 1)
  distance = 1
  while distance < min(longest, len(x)):
    total += place_before(total, distance)
    distance *= 2
  return total


def boundary_weight(
  weights: chex.Array, t: chex.Array, near: chex.Array, far: chex.Array
) -> chex.Array:
  """Weights `[..., 2]` that lie in the first and the last 2 % of the way.

  Args:
    weights: `[...]` of samples.
    t: `[...]` their positions.
    near: where their rays begin, broadcast against them.
    far: where they end.
  """
  margin = _END * (far - near)
  return jnp.stack(
    [
      jnp.where(t < near + margin, weights, 0.0),
      jnp.where(t > far - margin, weights, 0.0),
    ],
    axis=-1,
  )


def disparity(depth: chex.Array, opacity: chex.Array) -> chex.Array:
  """Opacity over depth of `[R]` rays, 0 where opacity is 0."""
  return opacity / jnp.maximum(depth, _LEAST_DEPTH)

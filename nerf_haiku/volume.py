"""The volume rendering integral (section 4 of the paper)."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from nerf_haiku import arrays, backgrounds, ops, sampling

# Where the reference implementation ends the last interval: any density at
# the last sample then absorbs all remaining light.
INFINITE = 1e10
# Shifts of raw densities, so that space begins almost empty.
_SOFTPLUS_SHIFT = -1.0
_EXP_SHIFT = -2.0
_MAX_EXPONENT = 15.0
# Fraction of a ray's length at each end where near or far may cut the scene.
_BOUNDARY_FRACTION = 0.02
# Smallest depth that disparity divides by, scene units.
_MIN_DEPTH = 1e-10
# Smallest length of a ray that positions on it are divided by, in t.
_MIN_LENGTH = 1e-10
# Added to weights that are divided by.
_MIN_WEIGHT = 1e-7

DENSITY_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'relu': jax.nn.relu,
  'softplus': lambda raw: jax.nn.softplus(raw + _SOFTPLUS_SHIFT),
  # For fast fields, whose density spans decades. The bound keeps the density
  # of what is opaque anyway finite.
  'exp': lambda raw: jnp.exp(jnp.minimum(raw + _EXP_SHIFT, _MAX_EXPONENT)),
}


def scale_gradients(
  density: jax.Array, rgb: jax.Array, distance: jax.Array, *, radius: float
) -> tuple[jax.Array, jax.Array]:
  """Makes up for how many more rays pass what is close to a camera.

  A point is on as many more of its camera's rays as it is closer, so that the
  gradient of a field is largest right before the cameras, where its density
  then floats. Here gradients are multiplied by the squared distance (Philip and
  Deschaintre, *Floaters No More: Radiance Field Gradient Scaling for Improved
  Near-Camera Training*, 2023).

  Args:
    density: `[...]` of samples.
    rgb: `[..., 3]` of samples.
    distance: `[...]` of the samples from their cameras, field units.
    radius: distance from which on gradients stay as they are.

  Returns:
    The densities and colors, the same numbers.
  """
  scale = jnp.minimum(jnp.square(distance / radius), 1.0)
  return (
    ops.scale_gradient(density, scale),
    ops.scale_gradient(rgb, scale[..., None]),
  )


class RayOutputs(NamedTuple):
  """The integrals along `R` rays."""

  rgb: jax.Array  # [R, 3] in [0, 1].
  depth: jax.Array  # [R] sum of weight times t, not divided by opacity.
  disparity: jax.Array  # [R] opacity / depth, 0 where opacity is 0.
  opacity: jax.Array  # [R] in [0, 1], the sum of weights.


class RayHistory(NamedTuple):
  """`S` samples on each of `R` rays, and what each contributed."""

  weights: jax.Array  # [R, S] in [0, 1], of each sample's colour.
  t: jax.Array  # [R, S] positions, not decreasing along `S`.
  width: jax.Array  # [R, S] of their intervals, in t.
  near: arrays.Array  # [R, 1] where the rays begin.
  far: arrays.Array  # [R, 1] where they end.
  fine_t: jax.Array | None = None  # [R, N] positions of importance samples.
  # In which the samples lie evenly; None: in t.
  spacing: sampling.Spacing | None = None

  def exclusive_sum(self, x: jax.Array) -> jax.Array:
    """Returns for each sample `[R, S]` the sum of those before it."""
    return jnp.cumsum(x, axis=-1) - x

  def sum_rays(self, x: jax.Array) -> jax.Array:
    """Returns the sums over samples `[R, S, ...]` of each ray, `[R, ...]`."""
    return jnp.sum(x, axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedHistory:
  """`B` samples of `R` rays in one list, and what each contributed."""

  weights: jax.Array  # [B] in [0, 1], of each sample's colour.
  t: jax.Array  # [B] positions, not decreasing along a ray.
  width: jax.Array  # [B] of their intervals, in t.
  near: jax.Array  # [B] where the samples' rays begin.
  far: jax.Array  # [B] where they end.
  ray: jax.Array  # [B] int32, the samples' rays, not decreasing.
  rank: jax.Array  # [B] int32, 0 for the first sample of a ray, 1 the next.
  num_rays: int = dataclasses.field(metadata={'static': True})
  # Most samples of a ray.
  max_per_ray: int = dataclasses.field(metadata={'static': True})
  # `[B]`, in which the samples lie evenly; None: in t.
  spacing: sampling.Spacing | None = None

  def exclusive_sum(self, x: jax.Array) -> jax.Array:
    """Returns for each sample `[B]` the sum of those before it on its ray."""
    return ops.exclusive_sum(x, self.rank, self.max_per_ray)

  def sum_rays(self, x: jax.Array) -> jax.Array:
    """Returns the sums over samples `[B, ...]` of each ray, `[R, ...]`."""
    return jax.ops.segment_sum(
      x, self.ray, self.num_rays, indices_are_sorted=True
    )


History = RayHistory | PackedHistory


def composite(
  rgb: jax.Array,
  density: jax.Array,
  t: jax.Array,
  directions: arrays.Array,
  *,
  near: arrays.Array,
  far: arrays.Array,
  background: backgrounds.Color,
  infinite_end: bool = False,
  spacing: sampling.Spacing | None = None,
) -> tuple[RayOutputs, RayHistory]:
  """Integrates colour along each ray (equation 3).

  Args:
    rgb: `[R, S, 3]` colours in [0, 1] at `S` samples on each of `R` rays.
    density: `[R, S]`, 0 or more, per scene unit.
    t: `[R, S]` sample positions, not decreasing along `S`.
    directions: `[R, 3]`; their norm turns steps of `t` into scene units.
    near: `[R, 1]` where the rays begin, at or before the first sample.
    far: `[R, 1]` where they end, at or behind the last sample.
    background: color of the light that nothing absorbs.
    infinite_end: whether the last sample's interval has no end (the reference
      implementation's choice) rather than end at `far`. A ray of no length
      has no such interval: nothing is rendered along it.
    spacing: in which the samples lie evenly, for the history; None: in t.

  Returns:
    The integrals of each ray, and the samples' contributions. Values and
    gradients are finite for densities from 0 to 1e8.
  """
  chex.assert_rank(density, 2)
  rays, samples = density.shape
  chex.assert_shape(
    [rgb, t, directions, near, far],
    [(rays, samples, 3), (rays, samples), (rays, 3), (rays, 1), (rays, 1)],
  )
  chex.assert_type([rgb, density, t, directions, near, far], float)
  end = far
  if infinite_end:
    end = jnp.where(far > near, INFINITE, far)
  steps = jnp.diff(jnp.concatenate([t, end], axis=-1), axis=-1)
  length = jnp.linalg.norm(directions, axis=-1, keepdims=True)
  optical_depth = density * steps * length
  # Transmittance to sample i: an exclusive sum over samples 0 .. i - 1.
  before = jnp.cumsum(optical_depth[:, :-1], axis=-1)
  transmittance = jnp.exp(-jnp.pad(before, ((0, 0), (1, 0))))
  weights = transmittance * -jnp.expm1(-optical_depth)
  color = jnp.sum(weights[..., None] * rgb, axis=1)
  opacity = jnp.sum(weights, axis=-1)
  depth = jnp.sum(weights * t, axis=-1)
  outputs = RayOutputs(
    rgb=on_constant_background(color, opacity, background),
    depth=depth,
    disparity=disparity(depth, opacity),
    opacity=opacity,
  )
  width = jnp.diff(jnp.concatenate([t, far], axis=-1), axis=-1)
  return outputs, RayHistory(
    weights=weights, t=t, width=width, near=near, far=far, spacing=spacing
  )


class PackedSums(NamedTuple):
  """The integrals along `R` rays of samples packed into one list."""

  rgb: jax.Array  # [R, 3] sum of weight times colour, without a background.
  opacity: jax.Array  # [R] the sum of weights.
  depth: jax.Array  # [R] the sum of weight times t.
  transmittance: jax.Array  # [R] behind all samples.


def composite_packed(
  rgb: jax.Array,
  optical_depth: jax.Array,
  t: jax.Array,
  *,
  width: jax.Array,
  near: jax.Array,
  far: jax.Array,
  ray: jax.Array,
  rank: jax.Array,
  num_rays: int,
  max_per_ray: int,
  spacing: sampling.Spacing | None = None,
) -> tuple[PackedSums, PackedHistory]:
  """Integrates colour along rays with any number of samples (equation 3).

  Args:
    rgb: `[B, 3]` colours in [0, 1] of `B` samples.
    optical_depth: `[B]` density times length of the interval, 0 or more.
    t: `[B]` positions.
    width: `[B]` of their intervals, in t.
    near: `[B]` where the samples' rays begin.
    far: `[B]` where they end.
    ray: `[B]` int32, the samples' rays: 0 or more, not decreasing.
    rank: `[B]` int32, 0 for the first sample of a ray, 1 for the next.
    num_rays: `R`.
    max_per_ray: most samples of a ray.
    spacing: `[B]`, see `composite`.

  Returns:
    The sums of each ray, those of `composite` with the same samples, and the
    samples' contributions.
  """
  chex.assert_rank([optical_depth, t, ray, rank], 1)
  chex.assert_equal_shape([optical_depth, t, width, near, far, ray, rank])
  chex.assert_shape(rgb, (*t.shape, 3))
  before = ops.exclusive_sum(optical_depth, rank, max_per_ray)
  weights = jnp.exp(-before) * -jnp.expm1(-optical_depth)
  history = PackedHistory(
    weights=weights,
    t=t,
    width=width,
    near=near,
    far=far,
    ray=ray,
    rank=rank,
    num_rays=num_rays,
    max_per_ray=max_per_ray,
    spacing=spacing,
  )
  parts = jnp.stack([weights, weights * t, optical_depth], axis=-1)
  total = history.sum_rays(
    jnp.concatenate([weights[:, None] * rgb, parts], axis=-1)
  )
  sums = PackedSums(
    rgb=total[:, :3],
    opacity=total[:, 3],
    depth=total[:, 4],
    transmittance=jnp.exp(-total[:, 5]),
  )
  return sums, history


class _Extent(NamedTuple):
  """Where samples lie on their rays, in t or in the s of a spacing."""

  position: jax.Array  # of the shape of the samples, as `width`.
  width: jax.Array
  near: arrays.Array  # where their rays begin.
  far: arrays.Array  # where they end.


def _extent(history: History) -> _Extent:
  """Returns where samples lie, in that in which they are even."""
  extent = _Extent(history.t, history.width, history.near, history.far)
  if history.spacing is None:
    return extent
  from_t = history.spacing.from_t
  position = from_t(history.t)
  return _Extent(
    position=position,
    width=from_t(history.t + history.width) - position,
    near=from_t(history.near),
    far=from_t(history.far),
  )


def distortion(history: History) -> jax.Array:
  """Computes how far apart the weights of each ray lie.

  It is the sum of `w_i w_j |t_i - t_j|` over all pairs of samples of a ray,
  and of `w_i^2 width_i / 3`, in units of the ray's length from near to far: it
  is least where all weight is in one place (equation 15 of Barron et al.,
  *Mip-NeRF 360*, 2022). With a spacing, positions and lengths are those of s.

  Args:
    history: samples of `R` rays. A ray with `far` at `near` has none.

  Returns:
    `[R]` in [0, 1).
  """
  weights = history.weights
  extent = _extent(history)
  length = jnp.maximum(extent.far - extent.near, _MIN_LENGTH)
  t, width = (extent.position - extent.near) / length, extent.width / length
  pairs = weights * (
    t * history.exclusive_sum(weights) - history.exclusive_sum(weights * t)
  )
  return history.sum_rays(2.0 * pairs + weights**2 * width / 3.0)


def interlevel(proposal: RayHistory, history: RayHistory) -> jax.Array:
  """Computes how far weights exceed what a proposal has where they lie.

  If two histograms are of one distribution, the weight of an interval is at
  most that of all intervals of the other one which overlap it. The loss is the
  excess over this bound (equation 13 of Barron et al., *Mip-NeRF 360*, 2022):
  it raises the proposal where it has too little, and never lowers it elsewhere.

  Args:
    proposal: `P` intervals on each of `R` rays, which cover them. Its weights
      alone have a gradient.
    history: `S` intervals on each of the same rays.

  Returns:
    `[R]`, 0 or more.
  """
  chex.assert_equal(len(proposal.t), len(history.t))
  weights, edges = jax.lax.stop_gradient((history.weights, _edges(history)))
  proposal_edges = jax.lax.stop_gradient(_edges(proposal))
  bound = outer_measure(edges, proposal_edges, proposal.weights)
  excess = jnp.maximum(weights - bound, 0.0)
  return jnp.sum(excess**2 / (weights + _MIN_WEIGHT), axis=-1)


def outer_measure(
  query: jax.Array, edges: jax.Array, weights: jax.Array
) -> jax.Array:
  """Sums the weights that overlap intervals (equation 12, as `interlevel`).

  Args:
    query: `[R, S + 1]` edges of these intervals, not decreasing.
    edges: `[R, P + 1]` edges of those that have the weights.
    weights: `[R, P]`.

  Returns:
    `[R, S]`; intervals that only touch do not overlap.
  """
  chex.assert_rank([query, edges, weights], 2)
  chex.assert_shape(edges, (len(query), weights.shape[1] + 1))
  # All pairs are compared: that is faster than a search, and not stored.
  ends, starts = edges[:, None, 1:], edges[:, None, :-1]
  first = jnp.sum(ends <= query[:, :-1, None], axis=-1)
  last = jnp.sum(starts < query[:, 1:, None], axis=-1)
  total = jnp.pad(jnp.cumsum(weights, axis=-1), ((0, 0), (1, 0)))
  before, behind = (
    jnp.take_along_axis(total, i, axis=-1) for i in (first, last)
  )
  return jnp.maximum(behind - before, 0.0)


def _edges(history: RayHistory) -> jax.Array:
  """Returns the edges `[R, S + 1]` of intervals."""
  end = history.t[:, -1:] + history.width[:, -1:]
  return jnp.concatenate([history.t, end], axis=-1)


def boundary_weight(history: History) -> jax.Array:
  """Computes the weight in the first and the last 2 % of each ray's length.

  With a spacing, lengths are those of s.

  Returns:
    `[R, 2]` in [0, 1]: where near or far may cut the scene.
  """
  extent = _extent(history)
  margin = _BOUNDARY_FRACTION * (extent.far - extent.near)
  weights = history.weights
  return history.sum_rays(
    jnp.stack(
      [
        jnp.where(extent.position < extent.near + margin, weights, 0.0),
        jnp.where(extent.position > extent.far - margin, weights, 0.0),
      ],
      axis=-1,
    )
  )


def on_constant_background(
  rgb: jax.Array, opacity: jax.Array, background: backgrounds.Color
) -> jax.Array:
  """Puts colours `[R, 3]` of opacities `[R]` on a background."""
  # No sum with 0 and no product with 1 is compiled.
  if background == backgrounds.BLACK:
    return rgb
  behind = 1.0 - opacity[:, None]
  if background != backgrounds.WHITE:
    behind *= jnp.asarray(background, rgb.dtype)[None]
  return rgb + behind


def disparity(depth: jax.Array, opacity: jax.Array) -> jax.Array:
  """Returns opacity over depth of `[R]` rays, 0 where opacity is 0."""
  return opacity / jnp.maximum(depth, _MIN_DEPTH)

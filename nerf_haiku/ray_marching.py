"""Marching rays through an occupancy grid, and packing their samples.

A ray has positions in even steps; those in occupied cells are its samples. In
contracted space the steps are even in the s of `sampling.Spacing`: they grow
with the distance, and so do the grid's cells.
The samples of many rays are packed into one list of fixed length.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import arrays, cameras, contraction, ops, sampling

_WORD_BITS = 32


class MarchedRays(NamedTuple):
  """The positions of `R` rays that are samples: `near + (i + shift) * step`.

  In contracted space this is s, of which `near` is that of the ray's near.
  """

  bits: jax.Array  # [R, W] uint32: bit b of word w is position 32 w + b.
  shift: jax.Array  # [R] in [0, 1), in steps.


class Intervals(NamedTuple):
  """The intervals of `B` samples along their rays, in t."""

  t: jax.Array  # [B] where they begin: the positions of the samples.
  width: jax.Array  # [B] to the next position, or to the ray's end.
  is_last: jax.Array  # [B] bool, whether the ray's end is before that.
  spacing: sampling.Spacing | None  # [B] in which they are even; None: in t.


class PackedSamples(NamedTuple):
  """`B` samples of some rays, ray by ray and in their order along them."""

  ray: jax.Array  # [B] int32, not decreasing.
  rank: jax.Array  # [B] int32, 0 for the first of a ray here, 1 for the next.
  position: jax.Array  # [B] int32, the `i` of `MarchedRays`.
  used: jax.Array  # [B] bool; the others fill up the list.


def step_sizes(rays: cameras.Rays, step: float) -> jax.Array:
  """Returns the steps `[R, 1]` of t that are `step` scene units long."""
  directions = jnp.asarray(rays.directions)
  length = jnp.linalg.norm(directions, axis=-1, keepdims=True)
  return jnp.asarray(step / length)


def intervals(
  rays: cameras.Rays, index: jax.Array, *, step: float, contracted: bool
) -> Intervals:
  """Returns the intervals of samples.

  Args:
    rays: `B` rays, that of each sample.
    index: `[B]` position `i + shift` on it, in steps.
    step: distance of positions, see `march`.
    contracted: whether space is contracted.
  """
  near, far = jnp.asarray(rays.near)[:, 0], jnp.asarray(rays.far)[:, 0]
  if not contracted:
    step_t = step_sizes(rays, step)[:, 0]
    t = near + index * step_t
    width = jnp.minimum(step_t, far - t)
    return Intervals(t=t, width=width, is_last=t + step_t >= far, spacing=None)
  spacing = jax.tree.map(lambda x: x[:, 0], sampling.contracted_spacing(rays))
  s = spacing.from_t(near) + index * step
  is_last = s + step >= spacing.from_t(far)
  t = jnp.clip(spacing.to_t(s), near, far)
  end = jnp.where(is_last, far, jnp.clip(spacing.to_t(s + step), t, far))
  return Intervals(t=t, width=end - t, is_last=is_last, spacing=spacing)


def march(
  occupied: jax.Array,
  rays: cameras.Rays,
  shift: jax.Array,
  *,
  box: np.ndarray,
  step: float,
  num_positions: int,
  contracted: bool = False,
) -> MarchedRays:
  """Finds the positions of rays that lie in occupied cells.

  It is the marching of Müller et al., 2022, appendix E.1, with steps of one
  length.

  Args:
    occupied: `[G, G, G]` bool, the cells of the box by z, y, x.
    rays: `R` rays, clipped to the box.
    shift: `[R]` in [0, 1), where the first position is, in steps.
    box: `[2, 3]` lower and upper corner.
    step: distance of positions, scene units, or units of s where contracted.
    num_positions: most positions of any ray.
    contracted: whether the box is one of contracted space.

  Returns:
    A bit for each position.
  """
  chex.assert_rank([occupied, shift], [3, 1])
  resolution = occupied.shape[0]
  chex.assert_shape(occupied, (resolution,) * 3)
  num_words = -(-num_positions // _WORD_BITS)
  index = jnp.arange(num_words * _WORD_BITS, dtype=jnp.float32)[None]
  place = _place_contracted if contracted else _place_evenly
  count, coordinates = place(rays, shift, index, box, step, resolution)
  cell = jnp.zeros((), jnp.int32)
  for coordinate in reversed(coordinates):
    coordinate = jnp.clip(coordinate, 0, resolution - 1).astype(jnp.int32)
    cell = cell * resolution + coordinate
  is_sample = occupied.reshape(-1).at[cell].get(mode='promise_in_bounds')
  is_sample &= index < jnp.minimum(count, num_positions)
  bit = jnp.arange(_WORD_BITS, dtype=jnp.uint32)[None, None]
  words = is_sample.reshape(-1, num_words, _WORD_BITS).astype(jnp.uint32)
  bits = jnp.sum(words << bit, axis=-1, dtype=jnp.uint32)
  return MarchedRays(bits=bits, shift=shift)


def _place_evenly(
  rays: cameras.Rays,
  shift: jax.Array,
  index: jax.Array,
  box: np.ndarray,
  step: float,
  resolution: int,
) -> tuple[jax.Array, list[jax.Array]]:
  """Returns positions on rays, and x, y, z `[R, P]` in cells of the box.

  Args:
    rays: see `march`, also for the others.
    shift: `[R]`.
    index: `[1, P]` of the positions.
    box: `[2, 3]`.
    step: of the positions.
    resolution: cells along each side.

  Returns:
    The number of positions `[R, 1]` that are on the rays, and the coordinates.
  """
  lower, upper = np.asarray(box, np.float32)
  cells_per_unit = (resolution / (upper - lower))[None]
  step_t = step_sizes(rays, step)
  first = rays.near + shift[:, None] * step_t
  count = jnp.ceil((rays.far - first) / step_t)
  start = (
    rays.origins + first * rays.directions - lower[None]
  ) * cells_per_unit
  stride = step_t * rays.directions * cells_per_unit
  return count, [
    start[:, axis, None] + index * stride[:, axis, None] for axis in range(3)
  ]


def _place_contracted(
  rays: cameras.Rays,
  shift: jax.Array,
  index: jax.Array,
  box: np.ndarray,
  step: float,
  resolution: int,
) -> tuple[jax.Array, list[jax.Array]]:
  """Computes `_place_evenly` in a box of contracted space."""
  lower, upper = np.asarray(box, np.float32)
  spacing = sampling.contracted_spacing(rays)
  first = spacing.from_t(rays.near) + shift[:, None] * step
  count = jnp.ceil((spacing.from_t(rays.far) - first) / step)
  t = spacing.to_t(first + index * step)
  points = [
    rays.origins[:, axis, None] + t * rays.directions[:, axis, None]
    for axis in range(3)
  ]
  x, y, z = points
  factor = contraction.contraction_factor(x * x + y * y + z * z)
  cells_per_unit = resolution / (upper - lower)
  return count, [
    (place * factor - low) * cells
    for place, low, cells in zip(points, lower, cells_per_unit, strict=True)
  ]


def count_samples(marched: MarchedRays) -> jax.Array:
  """Returns the number of samples `[R]` int32 of each ray."""
  return jnp.sum(ops.count_bits(marched.bits), axis=-1)


def pack_samples(
  marched: MarchedRays,
  first: arrays.Array,
  count: arrays.Array,
  *,
  max_samples: int,
) -> PackedSamples:
  """Packs samples of rays into one list.

  Args:
    marched: `R` rays.
    first: `[R]` int32, rank of the first sample of each ray that is taken.
    count: `[R]` int32, how many are; in all at most `max_samples`.
    max_samples: `B`, the length of the list.

  Returns:
    The samples; behind those of the last ray the list is filled up.
  """
  chex.assert_rank([first, count], 1)
  ends = jnp.cumsum(count)
  slot = jnp.arange(max_samples, dtype=jnp.int32)
  # The ray of a slot is the number of rays that end before it, or at it.
  ended = jnp.zeros(max_samples + 1, jnp.int32)
  ended = ended.at[jnp.minimum(ends, max_samples)].add(1)
  ray = jnp.minimum(jnp.cumsum(ended)[:max_samples], len(count) - 1)
  rank = slot - (ends - count)[ray]
  used = slot < ends[-1]
  position = ops.select_bits(
    marched.bits, ray, jnp.where(used, jnp.asarray(first)[ray] + rank, 0)
  )
  return PackedSamples(
    ray=ray, rank=jnp.where(used, rank, 0), position=position, used=used
  )

"""Marching rays through an occupancy grid, and packing their samples.

A ray has positions in even steps; those in occupied cells are its samples.
The samples of many rays are packed into one list of fixed length.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import arrays, cameras, ops

_WORD_BITS = 32


class MarchedRays(NamedTuple):
  """The positions of `R` rays that are samples: `near + (i + shift) * step`."""

  bits: jax.Array  # [R, W] uint32: bit b of word w is position 32 w + b.
  shift: jax.Array  # [R] in [0, 1), in steps.


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


def march(
  occupied: jax.Array,
  rays: cameras.Rays,
  shift: jax.Array,
  *,
  box: np.ndarray,
  step: float,
  num_positions: int,
) -> MarchedRays:
  """Finds the positions of rays that lie in occupied cells.

  It is the marching of Müller et al., 2022, appendix E.1, with steps of one
  length.

  Args:
    occupied: `[G, G, G]` bool, the cells of the box by z, y, x.
    rays: `R` rays, clipped to the box.
    shift: `[R]` in [0, 1), where the first position is, in steps.
    box: `[2, 3]` lower and upper corner.
    step: distance of positions, scene units.
    num_positions: most positions of any ray.

  Returns:
    A bit for each position.
  """
  chex.assert_rank([occupied, shift], [3, 1])
  resolution = occupied.shape[0]
  chex.assert_shape(occupied, (resolution,) * 3)
  num_words = -(-num_positions // _WORD_BITS)
  lower, upper = np.asarray(box, np.float32)
  cells_per_unit = (resolution / (upper - lower))[None]
  step_t = step_sizes(rays, step)
  first = rays.near + shift[:, None] * step_t
  count = jnp.ceil((rays.far - first) / step_t)
  start = (
    rays.origins + first * rays.directions - lower[None]
  ) * cells_per_unit
  stride = step_t * rays.directions * cells_per_unit
  index = jnp.arange(num_words * _WORD_BITS, dtype=jnp.float32)[None]
  cell = jnp.zeros((), jnp.int32)
  for axis in (2, 1, 0):
    coordinate = start[:, axis, None] + index * stride[:, axis, None]
    coordinate = jnp.clip(coordinate, 0, resolution - 1).astype(jnp.int32)
    cell = cell * resolution + coordinate
  is_sample = occupied.reshape(-1).at[cell].get(mode='promise_in_bounds')
  is_sample &= index < jnp.minimum(count, num_positions)
  bit = jnp.arange(_WORD_BITS, dtype=jnp.uint32)[None, None]
  words = is_sample.reshape(-1, num_words, _WORD_BITS).astype(jnp.uint32)
  bits = jnp.sum(words << bit, axis=-1, dtype=jnp.uint32)
  return MarchedRays(bits=bits, shift=shift)


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

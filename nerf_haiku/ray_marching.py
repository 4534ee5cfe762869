"""Which positions of rays lie in occupied cells, and how they are packed."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import cameras

_WORD = 32  # Bits.


class MarchedRays(NamedTuple):
  """Which positions of `R` rays are samples: `near + (i + shift) * step`."""

  bits: chex.Array  # [R, W] uint32: bit b of word w is position 32 w + b.
  shift: chex.Array  # [R] in [0, 1), of a step.


class PackedSamples(NamedTuple):
  """`B` samples of some rays, ray by ray and in their order along them."""

  ray: chex.Array  # [B] int32, not decreasing.
  rank: chex.Array  # [B] int32, 0 for the first of a ray here, 1 for the next.
  position: chex.Array  # [B] int32, i of `MarchedRays`.
  used: chex.Array  # [B] bool; the others fill up the list.


def step_sizes(rays: cameras.Rays, step: float) -> chex.Array:
  """Steps `[R, 1]` of t that are `step` scene units long."""
  return step / jnp.linalg.norm(rays.directions, axis=-1, keepdims=True)


def march(
  occupied: chex.Array,
  rays: cameras.Rays,
  shift: chex.Array,
  *,
  box: np.ndarray,
  step: float,
  num_positions: int,
) -> MarchedRays:
  """Finds the positions of rays that lie in occupied cells.

  Args:
    occupied: `[G * G * G]` bool, of the cells of the box.
    rays: `R` rays, clipped to the box.
    shift: `[R]` in [0, 1), where the first position is, in steps.
    box: `[2, 3]` corners.
    step: distance of positions, scene units.
    num_positions: as many as any ray may have.
  """
  chex.assert_rank([occupied, shift], 1)
  resolution = round(occupied.shape[0] ** (1 / 3))
  words = -(-num_positions // _WORD)
  lower, upper = np.asarray(box, np.float32)
  cells_per_unit = (resolution / (upper - lower))[None]
  along = step_sizes(rays, step)
  first = rays.near + shift[:, None] * along
  number = jnp.ceil((rays.far - first) / along)
  start = rays.origins + first * rays.directions - lower[None]
  start, stride = (
    start * cells_per_unit,
    along * rays.directions * cells_per_unit,
  )
  index = jnp.arange(words * _WORD, dtype=jnp.float32)[None]
  cell = 0
  for k in (2, 1, 0):
    side = start[:, k, None] + index * stride[:, k, None]
    side = jnp.clip(side, 0, resolution - 1).astype(jnp.int32)
    cell = cell * resolution + side
  seen = occupied.at[cell].get(mode='promise_in_bounds')
  seen &= index < jnp.minimum(number, num_positions)
  bit = jnp.arange(_WORD, dtype=jnp.uint32)[None, None]
  seen = seen.reshape(-1, words, _WORD).astype(jnp.uint32)
  return MarchedRays(jnp.sum(seen << bit, axis=-1, dtype=jnp.uint32), shift)


def count_samples(marched: MarchedRays) -> chex.Array:
  """Samples `[R]` int32 of each ray."""
  return jnp.sum(_ones(marched.bits), axis=-1)


def pack_samples(
  marched: MarchedRays, first: chex.Array, number: chex.Array, *, budget: int
) -> PackedSamples:
  """Packs samples of rays into a list of `budget`.

  Args:
    marched: of `R` rays.
    first: `[R]` int32, rank of the first sample of each ray that is taken.
    number: `[R]` int32, how many are; in all at most `budget`.
    budget: `B`.
  """
  chex.assert_rank([first, number], 1)
  ends = jnp.cumsum(number)
  slot = jnp.arange(budget, dtype=jnp.int32)
  # A slot's ray is as many as there are rays that end before it, or at it.
  ended = jnp.zeros(budget + 1, jnp.int32)
  ended = ended.at[jnp.minimum(ends, budget)].add(1)
  last = len(number) - 1
  ray = jnp.minimum(jnp.cumsum(ended)[:budget], last)
  rank = slot - (ends - number)[ray]
  used = slot < ends[-1]
  position = _select(marched.bits, ray, jnp.where(used, first[ray] + rank, 0))
  return PackedSamples(ray, jnp.where(used, rank, 0), position, used)


def _ones(bits: chex.Array) -> chex.Array:
  return jax.lax.population_count(bits).astype(jnp.int32)


def _select(bits: chex.Array, ray: chex.Array, rank: chex.Array) -> chex.Array:
  """Positions `[B]` of the set bits of these ranks in rows of `[R, W]`."""
  words = bits.shape[1]
  number = _ones(bits)
  before = jnp.cumsum(number, axis=-1) - number
  word = jnp.zeros_like(ray)
  half = 1 << max(words - 1, 0).bit_length() >> 1
  while half:  # The last word that has no more set bits before it.
    there = jnp.minimum(word + half, words - 1)
    go_on = (word + half < words) & (before[ray, there] <= rank)
    word = jnp.where(go_on, there, word)
    half >>= 1
  rest, left = bits[ray, word], rank - before[ray, word]
  position = word * _WORD
  half = _WORD // 2
  while half:  # The same within the word.
    lower = _ones(rest & np.uint32((1 << half) - 1))
    go_on = left >= lower
    left = jnp.where(go_on, left - lower, left)
    rest = jnp.where(go_on, rest >> np.uint32(half), rest)
    position = jnp.where(go_on, position + half, position)
    half //= 2
  return position

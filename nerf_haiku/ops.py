"""Tuned primitives, each beside its plain definition.

`project` and `project_plain` compute the same, and so on: the plain one says
what, the other one is fast. The tests hold the two together. A form for
another kind of device belongs here as well.
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import devices

_WORD_BITS = 32


def project_plain(w: jax.Array, x: jax.Array) -> jax.Array:
  """Returns `w.T @ x`, `[O, N]`, for weights `[I, O]` and features `[I, N]`."""
  return w.T @ x


@jax.custom_vjp
def project(w: jax.Array, x: jax.Array) -> jax.Array:
  """Computes `project_plain` from matrices as they lie in memory.

  Points are columns, so that all three products of a training step (this one
  and its two gradients) read their operands in order: with points as rows, or
  a weight transposed on the fly, a CPU takes up to twice as long.
  """
  # The barrier keeps the transpose apart: fused into the product it is slower.
  transposed: jax.Array = jax.lax.optimization_barrier(w.T)
  return transposed @ x


def _project_forward(
  w: jax.Array, x: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return project(w, x), (w, x)


def _project_backward(
  residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
  w, x = residuals
  return x @ gradient.T, w @ gradient


project.defvjp(_project_forward, _project_backward)


def relu_plain(x: jax.Array) -> jax.Array:
  """Returns the larger of `x` and 0."""
  return jnp.maximum(x, 0.0)


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
  """Computes `relu_plain`; its gradient reads the result, not `x`.

  A training step then keeps half as much of each layer. At 0 the gradient is
  0, that of `relu_plain` is 1/2.
  """
  return relu_plain(x)


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  y = relu(x)
  return y, y


def _relu_backward(y: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
  return (jnp.where(y > 0, gradient, 0.0),)


relu.defvjp(_relu_forward, _relu_backward)


Carry = TypeVar('Carry')


def repeat_plain(
  body: Callable[[Carry], Carry],
  condition: Callable[[Carry], jax.Array],
  carry: Carry,
) -> Carry:
  """Returns what the turns of a loop make of a carry.

  Args:
    body: a turn.
    condition: whether another turn follows; of the given carry it holds.
    carry: tree of arrays.
  """
  while condition(carry):
    carry = body(carry)
  return carry


def repeat(
  body: Callable[[Carry], Carry],
  condition: Callable[[Carry], jax.Array],
  carry: Carry,
) -> Carry:
  """Computes `repeat_plain` in a compiled function.

  On an accelerator the first turn stands before the loop, which is then not
  entered in the usual case: the host has to wait for the end of each turn. On a
  CPU only one turn is compiled.
  """
  if not devices.are_cpus():
    carry = body(carry)
  result: Carry = jax.lax.while_loop(condition, body, carry)
  return result


def exclusive_sum_plain(x: jax.Array, ray: jax.Array) -> jax.Array:
  """Returns for each of `B` samples the sum of those before it on its ray.

  Args:
    x: `[B]` values of samples that are sorted by ray.
    ray: `[B]` int32, the samples' rays, not decreasing.

  Returns:
    `[B]`; 0 for the first sample of a ray. This form takes `B * B` steps.
  """
  index = jnp.arange(len(x))
  before = (ray[None] == ray[:, None]) & (index[None] < index[:, None])
  return jnp.sum(jnp.where(before, x[None], 0.0), axis=1)


def exclusive_sum(x: jax.Array, rank: jax.Array, max_samples: int) -> jax.Array:
  """Computes `exclusive_sum_plain` in rounds of growing distance.

  Each round adds what the samples some places before have: one on a CPU, which
  makes the fewest operations, and 15 on an accelerator, which makes few
  kernels. The difference of two long running sums would lose small values
  behind large ones.

  Args:
    x: `[B]` values of samples that are sorted by ray.
    rank: `[B]` int32, 0 for the first sample of a ray, 1 for the next.
    max_samples: most samples of a ray.

  Returns:
    `[B]`; 0 for the first sample of a ray.
  """
  growth = 2 if devices.are_cpus() else 16

  def shift(x: jax.Array, distance: int) -> jax.Array:
    moved = jnp.pad(x[:-distance], (distance, 0))
    return jnp.where(rank >= distance, moved, 0.0)

  longest = min(max_samples, len(x))
  total, distance = shift(x, 1), 1
  while distance < longest:
    shifted = [
      shift(total, distance * i)
      for i in range(1, growth)
      if distance * i < longest
    ]
    total = functools.reduce(jnp.add, shifted, total)
    distance *= growth
  return total


def count_bits(bits: jax.Array) -> jax.Array:
  """Returns how many bits of each uint32 are set, as int32."""
  return jax.lax.population_count(bits).astype(jnp.int32)


def select_bits_plain(
  bits: jax.Array, row: jax.Array, rank: jax.Array
) -> jax.Array:
  """Returns the positions of set bits by their rank within a row.

  Args:
    bits: `[R, W]` uint32; bit `b` of word `w` is position `32 w + b`.
    row: `[B]` int32, rows of `bits`.
    rank: `[B]` int32, 0 for the first set bit of a row, 1 for the next; less
      than the set bits of that row.

  Returns:
    `[B]` int32 positions.
  """
  bit = jnp.arange(_WORD_BITS, dtype=jnp.uint32)
  is_set = (bits[..., None] >> bit[None, None] & np.uint32(1)).astype(jnp.int32)
  total = jnp.cumsum(is_set.reshape(len(bits), -1), axis=-1)

  def search(i: jax.Array, k: jax.Array) -> jax.Array:
    return jnp.searchsorted(total[i], k + 1, side='left')

  return jax.vmap(search)(row, rank).astype(jnp.int32)


def select_bits(bits: jax.Array, row: jax.Array, rank: jax.Array) -> jax.Array:
  """Computes `select_bits_plain` by bisection, first of words, then of bits."""
  num_words = bits.shape[1]
  count = count_bits(bits)
  before = jnp.cumsum(count, axis=-1) - count
  word = jnp.zeros_like(row)
  half = 1 << max(num_words - 1, 0).bit_length() >> 1
  while half:  # Ends at the last word with no more than `rank` bits before it.
    candidate = jnp.minimum(word + half, num_words - 1)
    forward = (word + half < num_words) & (before[row, candidate] <= rank)
    word = jnp.where(forward, candidate, word)
    half >>= 1
  rest, remaining = bits[row, word], rank - before[row, word]
  position = word * _WORD_BITS
  half = _WORD_BITS // 2
  while half:  # The same within the word.
    lower = count_bits(rest & np.uint32((1 << half) - 1))
    forward = remaining >= lower
    remaining = jnp.where(forward, remaining - lower, remaining)
    rest = jnp.where(forward, rest >> np.uint32(half), rest)
    position = jnp.where(forward, position + half, position)
    half //= 2
  return position


@jax.custom_vjp
def scale_gradient(x: jax.Array, scale: jax.Array) -> jax.Array:
  """Returns `x`, whose gradient is multiplied by `scale`.

  Args:
    x: of any shape.
    scale: that broadcasts to the shape of `x`; it gets no gradient.
  """
  del scale
  return x


def _scale_gradient_forward(
  x: jax.Array, scale: jax.Array
) -> tuple[jax.Array, jax.Array]:
  return x, scale


def _scale_gradient_backward(
  scale: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
  return gradient * scale, jnp.zeros_like(scale)


scale_gradient.defvjp(_scale_gradient_forward, _scale_gradient_backward)

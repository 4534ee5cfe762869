"""The types of arrays in annotations, and how they lie in memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# An array of the host or of a device, where a function takes either.
Array = jax.Array | np.ndarray

_ALIGNMENT = 64  # Bytes that jax asks of an array on a CPU.


def empty(shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.ndarray:
  """Returns an array whose values are not set, as `numpy.empty`.

  It lies in memory so that a CPU device can hold it without a copy.
  """
  size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
  whole = np.empty(size + _ALIGNMENT, np.uint8)
  start = -whole.ctypes.data % _ALIGNMENT
  return whole[start : start + size].view(dtype).reshape(shape)


def pack(tree: Any) -> jax.Array:
  """Returns the numbers of all arrays of a tree as `[S]` float32.

  Integers of up to 2**24 are exact.
  """
  leaves = jax.tree.leaves(tree)
  return jnp.concatenate([x.reshape(-1).astype(jnp.float32) for x in leaves])


def unpack(packed: Array, like: Any) -> Any:
  """Returns trees of arrays `[..., *shape]` from what `pack` made, `[..., S]`.

  Args:
    packed: of the host or of a device.
    like: tree of arrays, or of their shapes.
  """
  leaves, structure = jax.tree.flatten(like)
  lead, parts, begin = packed.shape[:-1], [], 0
  for leaf in leaves:
    part = packed[..., begin : begin + leaf.size]
    parts.append(part.reshape((*lead, *leaf.shape)).astype(leaf.dtype))
    begin += leaf.size
  return jax.tree.unflatten(structure, parts)

"""The types of arrays in annotations, and how they lie in memory."""

import jax
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

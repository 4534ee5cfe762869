"""Messages between processes: bytes that hold data, and never code.

A message is a header of JSON and then the bytes of its arrays. It is not
pickled: whoever reaches the port of jax's coordination service can write a
message, and unpickling runs the code that a message names.
"""

import io
import json
import math
import struct
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The types of arrays that are sent. Their bytes are sent as they are: all hosts
# that jax runs on are little-endian.
_DTYPES: dict[str, np.dtype] = {
  name: jnp.dtype(name)
  for name in (
    'bool',
    'int8',
    'int16',
    'int32',
    'int64',
    'uint8',
    'uint16',
    'uint32',
    'uint64',
    'bfloat16',
    'float16',
    'float32',
    'float64',
  )
}
_HEADER_LENGTH = struct.Struct('<Q')


class MessageError(Exception):
  """A message that is damaged, or that none of our processes wrote."""


def encode(value: Any) -> bytes:
  """Returns the bytes of a value.

  Args:
    value: None, bools, numbers, strings and arrays; lists, tuples and dicts of
      such values, with strings as keys. Arrays of jax arrive as NumPy arrays,
      NamedTuples as tuples: see `restore_types`.

  Raises:
    TypeError: if it holds anything else.
  """
  arrays: list[bytes] = []
  header = json.dumps(_to_json(value, arrays)).encode()
  return b''.join([_HEADER_LENGTH.pack(len(header)), header, *arrays])


def decode(message: bytes) -> Any:
  """Returns the value of which `encode` made a message.

  Raises:
    MessageError: if it did not make this one.
  """
  try:
    stream = io.BytesIO(message)
    (length,) = _HEADER_LENGTH.unpack(_read(stream, _HEADER_LENGTH.size))
    value = _from_json(json.loads(_read(stream, length).decode()), stream)
  except (
    AttributeError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
  ) as error:
    raise MessageError(
      f'A message from another process cannot be read: {error}.'
    ) from error
  if stream.read(1):
    raise MessageError(
      'A message from another process cannot be read: it is too long.'
    )
  return value


def restore_types(value: Any, like: Any) -> Any:
  """Returns a decoded value with its NamedTuples.

  Args:
    value: from `decode`.
    like: a value of the same structure, whose NamedTuples tell where the
      result has them, and of what type. The class of a NamedTuple stands for
      one without others inside, or None. Whatever else it holds is ignored.

  Raises:
    MessageError: if the value is not of that structure.
  """
  if isinstance(like, type):
    if value is None or not hasattr(like, '_fields'):
      return value
    return _make_tuple(like, _items(value, like._fields))
  if isinstance(like, tuple):
    items = [
      restore_types(x, y)
      for x, y in zip(_items(value, like), like, strict=True)
    ]
    return _make_tuple(type(like), items)
  if isinstance(like, dict) and isinstance(value, dict):
    return {name: restore_types(x, like.get(name)) for name, x in value.items()}
  return value


def _make_tuple(kind: type, items: Any) -> Any:
  return kind(*items) if hasattr(kind, '_fields') else kind(items)


def _items(value: Any, like: tuple) -> tuple:
  """Returns the items of a tuple, which must be as many as those of another."""
  if not isinstance(value, tuple) or len(value) != len(like):
    raise MessageError(
      f'A message from another process holds {type(value).__name__} where '
      f'there should be a tuple of {len(like)}.'
    )
  return value


def _to_json(value: Any, arrays: list[bytes]) -> Any:
  """Returns a value for the header, and appends the bytes of its arrays."""
  if isinstance(value, (np.ndarray, np.generic, jax.Array)):
    kind = 'scalar' if isinstance(value, np.generic) else 'array'
    array = np.asarray(value)
    name = array.dtype.name
    if name not in _DTYPES:
      raise TypeError(f'Arrays of {array.dtype} cannot be sent.')
    arrays.append(array.astype(_DTYPES[name], copy=False).tobytes())
    return {kind: [name, list(array.shape)]}
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  if isinstance(value, list):
    return [_to_json(x, arrays) for x in value]
  if isinstance(value, tuple):
    return {'tuple': [_to_json(x, arrays) for x in value]}
  if isinstance(value, dict) and all(isinstance(x, str) for x in value):
    return {'dict': {name: _to_json(x, arrays) for name, x in value.items()}}
  raise TypeError(f'Values of type {type(value).__name__} cannot be sent.')


def _from_json(node: Any, arrays: io.BytesIO) -> Any:
  """Returns the value of a part of the header, reading its arrays in order."""
  if isinstance(node, list):
    return [_from_json(x, arrays) for x in node]
  if not isinstance(node, dict):
    return node
  ((kind, content),) = node.items()
  if kind == 'tuple':
    return tuple(_from_json(x, arrays) for x in content)
  if kind == 'dict':
    return {name: _from_json(x, arrays) for name, x in content.items()}
  if kind not in ('array', 'scalar'):
    raise ValueError(f'there is no kind {kind!r}')
  name, shape = content
  dtype = _DTYPES[name]
  if any(not isinstance(x, int) or x < 0 for x in shape):
    raise ValueError(f'an array of shape {shape}')
  data = _read(arrays, math.prod(shape) * dtype.itemsize)
  array = np.frombuffer(bytearray(data), dtype).reshape(shape)
  return array[()] if kind == 'scalar' else array


def _read(stream: io.BytesIO, size: int) -> bytes:
  data = stream.read(size)
  if len(data) != size:
    raise ValueError('it is too short')
  return data

"""Messages between two Python environments: values and arrays over a pipe.

A message is the length of a JSON text, the text, the length of an `.npz` file,
and the file. It is imported on both sides, with NumPy 1 and NumPy 2.
"""

import io
import json
import struct

import numpy as np

_LENGTH = struct.Struct('<Q')


def write(stream, values, arrays=None):
  """Writes a message.

  Args:
    stream: a binary file.
    values: what JSON can hold.
    arrays: NumPy arrays by name.
  """
  file = io.BytesIO()
  np.savez(file, **(arrays or {}))
  for content in (json.dumps(values).encode(), file.getvalue()):
    stream.write(_LENGTH.pack(len(content)))
    stream.write(content)
  stream.flush()


def read(stream):
  """Reads a message.

  Returns:
    Its values and arrays.

  Raises:
    EOFError: if the other side has ended.
  """
  values = json.loads(_read_part(stream))
  with np.load(io.BytesIO(_read_part(stream)), allow_pickle=False) as file:
    return values, {name: file[name] for name in file.files}


def _read_part(stream):
  (length,) = _LENGTH.unpack(_read_exactly(stream, _LENGTH.size))
  return _read_exactly(stream, length)


def _read_exactly(stream, length):
  content = stream.read(length)
  if len(content) < length:
    raise EOFError('The other side has ended.')
  return content

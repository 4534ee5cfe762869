"""Reads the files of a COLMAP model, `.bin` or `.txt`, as they are.

https://colmap.github.io/format.html. What the files hold is checked for its
form here: that numbers are numbers, and that records fit into the file. Whether
the numbers describe cameras is checked in `colmap_model`.
"""

import array
import pathlib
import re
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from nerf_haiku import camera_checks, errors
from nerf_haiku.io import messages, safe_reading

# Names and parameters of the camera models, by their number in `.bin` files.
# Parameters are named as in OpenCV, so that one name has one meaning; d4 to d6
# are of a denominator, which COLMAP calls k4 to k6.
CAMERA_MODELS = {
  name: tuple(params.split())
  for name, params in (
    ('SIMPLE_PINHOLE', 'f cx cy'),
    ('PINHOLE', 'fx fy cx cy'),
    ('SIMPLE_RADIAL', 'f cx cy k1'),
    ('RADIAL', 'f cx cy k1 k2'),
    ('OPENCV', 'fx fy cx cy k1 k2 p1 p2'),
    ('OPENCV_FISHEYE', 'fx fy cx cy k1 k2 k3 k4'),
    ('FULL_OPENCV', 'fx fy cx cy k1 k2 p1 p2 k3 d4 d5 d6'),
    ('FOV', 'fx fy cx cy omega'),
    ('SIMPLE_RADIAL_FISHEYE', 'f cx cy k1'),
    ('RADIAL_FISHEYE', 'f cx cy k1 k2'),
    ('THIN_PRISM_FISHEYE', 'fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1'),
    (
      'RAD_TAN_THIN_PRISM_FISHEYE',
      'fx fy cx cy k0 k1 k2 k3 k4 k5 p0 p1 s0 s1 s2 s3',
    ),
    ('SIMPLE_DIVISION', 'f cx cy k'),
    ('DIVISION', 'fx fy cx cy k'),
    ('SIMPLE_FISHEYE', 'f cx cy'),
    ('FISHEYE', 'fx fy cx cy'),
    ('EUCM', 'fx fy cx cy alpha beta'),
    ('EQUIRECTANGULAR', 'w h'),
  )
}
_MODEL_NAMES = tuple(CAMERA_MODELS)
_MAX_BYTES = 1 << 34  # Of a binary file, most of which is passed over.
_MAX_TEXT_BYTES = 1 << 31
_MAX_RECORDS = 1_000_000  # Cameras or images.
_MAX_NAME_BYTES = 4096  # The longest path in Linux.
_COUNT = struct.Struct('<Q')
_CAMERA = struct.Struct('<IiQQ')  # Id, model, width, height.
_IMAGE = struct.Struct('<I7dI')  # Id, pose, camera.
_OBSERVATION_BYTES = 24  # x, y, id of a point.
# Id, position, color, error, length of the track; position and length are used.
_POINT = struct.Struct('<8x3d11xQ')
_TRACK_BYTES = 8  # Of each image that shows the point.
_DECLARED = re.compile(rb'#\s*Number of \w+:\s*(\d{1,18})\b')
_POSE_COLUMNS = ('QW', 'QX', 'QY', 'QZ', 'TX', 'TY', 'TZ')
_POINT_COLUMNS = ('POINT3D_ID', 'X', 'Y', 'Z', 'R', 'G', 'B', 'ERROR')
_NUMERIC = b'0123456789+-.eE \t\r\n'
_LARGEST = camera_checks.MAX_MAGNITUDE

_Record = TypeVar('_Record')


class Camera(NamedTuple):
  """A camera, as the file has it."""

  place: str  # of its record: file, and byte or line.
  model: str  # a name in `CAMERA_MODELS`.
  width: int  # pixels.
  height: int
  params: tuple[float, ...]  # in the order of `CAMERA_MODELS`.


class Image(NamedTuple):
  """A registered image, as the file has it."""

  place: str
  pose: tuple[float, ...]  # qw qx qy qz tx ty tz, world to camera.
  camera: int  # id.
  name: str  # below the folder of the images.


def read_cameras(path: pathlib.Path) -> dict[int, Camera]:
  """Reads `cameras.bin` or `cameras.txt`.

  Returns:
    The cameras by their ids.

  Raises:
    DataError: if the file is damaged; names the byte or line.
    OSError: if it cannot be read.
  """
  if path.suffix == '.txt':
    return _by_id(_parse_text_cameras(path), 'cameras')
  with safe_reading.open_binary(path, _MAX_BYTES) as reader:
    return _by_id(_parse_binary_cameras(path, reader), 'cameras')


def read_images(path: pathlib.Path) -> list[Image]:
  """Reads `images.bin` or `images.txt`, without the observations of points.

  Raises:
    DataError: if the file is damaged; names the byte or line.
    OSError: if it cannot be read.
  """
  if path.suffix == '.txt':
    return list(_by_id(_parse_text_images(path), 'images').values())
  with safe_reading.open_binary(path, _MAX_BYTES) as reader:
    return list(_by_id(_parse_binary_images(path, reader), 'images').values())


def read_points(path: pathlib.Path) -> np.ndarray:
  """Reads positions from `points3D.bin` or `points3D.txt`.

  Returns:
    `[P, 3]` float64, at most `camera_checks.MAX_MAGNITUDE`.

  Raises:
    DataError: if the file is damaged; names the byte or line.
    OSError: if it cannot be read.
  """
  if path.suffix == '.txt':
    points = _parse_text_points(path)
  else:
    with safe_reading.open_binary(path, safe_reading.MAX_ARRAY_BYTES) as reader:
      points = _parse_binary_points(path, reader)
  return np.array(points, np.float64).reshape(-1, 3)


def _by_id(
  records: Iterator[tuple[int, str, _Record]], what: str
) -> dict[int, _Record]:
  """Collects records, which come with their ids and places in the file."""
  found: dict[int, _Record] = {}
  for number, place, record in records:
    if number in found:
      raise errors.DataError(
        f'{place}: two {what} have the id {number}: remove one.'
      )
    if len(found) == _MAX_RECORDS:
      raise errors.DataError(
        f'{place}: there are more than {_MAX_RECORDS} {what}: use fewer.'
      )
    found[number] = record
  return found


def _parse_binary_cameras(
  path: pathlib.Path, reader: safe_reading.BinaryReader
) -> Iterator[tuple[int, str, Camera]]:
  for _ in range(reader.count(_COUNT, _CAMERA.size, 'cameras')):
    place = f'{path}: byte {reader.offset}'
    number, model, width, height = reader.unpack(_CAMERA, 'a camera')
    if not 0 <= model < len(_MODEL_NAMES):
      raise errors.DataError(
        f'{place}: camera {number} is of model {model}; the models known are 0 '
        f'to {len(_MODEL_NAMES) - 1}: write the model again with COLMAP.'
      )
    name = _MODEL_NAMES[model]
    params = struct.Struct(f'<{len(CAMERA_MODELS[name])}d')
    values = reader.unpack(params, f'the parameters of camera {number}')
    yield number, place, Camera(place, name, width, height, values)
  reader.finish()


def _parse_binary_images(
  path: pathlib.Path, reader: safe_reading.BinaryReader
) -> Iterator[tuple[int, str, Image]]:
  min_bytes = _IMAGE.size + 1 + _COUNT.size
  for _ in range(reader.count(_COUNT, min_bytes, 'images')):
    place = f'{path}: byte {reader.offset}'
    number, *pose, camera = reader.unpack(_IMAGE, 'an image')
    name = reader.text(_MAX_NAME_BYTES, f'the name of image {number}')
    what = f'points in image {number}'
    num_points = reader.count(_COUNT, _OBSERVATION_BYTES, what)
    reader.skip(num_points * _OBSERVATION_BYTES, what)
    decoded = _decode_name(place, name)
    yield number, place, Image(place, tuple(pose), camera, decoded)
  reader.finish()


def _parse_binary_points(
  path: pathlib.Path, reader: safe_reading.BinaryReader
) -> 'array.array[float]':
  points = array.array('d')
  for _ in range(reader.count(_COUNT, _POINT.size, 'points')):
    x, y, z, length = reader.unpack(_POINT, 'a point')
    if not _is_position(x, y, z):
      raise _not_a_position(f'{path}: byte {reader.offset - _POINT.size}')
    points.extend((x, y, z))
    reader.skip(length * _TRACK_BYTES, 'the track of a point')
  reader.finish()
  return points


def _parse_text_cameras(
  path: pathlib.Path,
) -> Iterator[tuple[int, str, Camera]]:
  lines = safe_reading.read_lines(path, _MAX_TEXT_BYTES)
  columns = ('CAMERA_ID', 'MODEL', 'WIDTH', 'HEIGHT')
  for place, line in _contents(path, lines, 'cameras'):
    number, model, width, height, *rest = _split(place, line, columns, 32)
    name = model.decode('utf-8', 'replace')
    if name not in CAMERA_MODELS:
      raise errors.DataError(
        f'{place}: MODEL is {messages.shorten(name)}; those known are '
        f'{", ".join(CAMERA_MODELS)}.'
      )
    params = CAMERA_MODELS[name]
    if len(rest) != len(params):
      raise errors.DataError(
        f'{place}: has {len(rest)} parameters, but {name} has {len(params)}: '
        f'{", ".join(params)}.'
      )
    camera = Camera(
      place,
      name,
      _whole(place, 'WIDTH', width),
      _whole(place, 'HEIGHT', height),
      _numbers(place, params, rest),
    )
    yield _whole(place, 'CAMERA_ID', number), place, camera


def _parse_text_images(path: pathlib.Path) -> Iterator[tuple[int, str, Image]]:
  lines = safe_reading.read_lines(path, _MAX_TEXT_BYTES)
  columns = ('IMAGE_ID', *_POSE_COLUMNS, 'CAMERA_ID', 'NAME')
  for place, line in _contents(path, lines, 'images'):
    # The name is the rest of the line: there may be spaces in it.
    number, *pose, camera, name = _split(place, line, columns, len(columns) - 1)
    image = Image(
      place,
      _numbers(place, _POSE_COLUMNS, pose),
      _whole(place, 'CAMERA_ID', camera),
      _decode_name(place, name),
    )
    yield _whole(place, 'IMAGE_ID', number), place, image
    # A second line, which may be empty, has the observations of points.
    _check_observations(path, *next(lines, (0, b'')))


def _check_observations(path: pathlib.Path, number: int, line: bytes) -> None:
  """Checks that a line is of triples of numbers, which are not converted."""
  is_space = np.frombuffer(b' ' + line, np.uint8) <= ord(' ')
  num_columns = np.count_nonzero(is_space[:-1] & ~is_space[1:])
  if line.translate(None, _NUMERIC) or num_columns % 3:
    raise errors.DataError(
      f'{path}: line {number}: must be the points X, Y, POINT3D_ID of the '
      f'image in the line before it, got {_quote(line[:100])}: insert an empty '
      'line if there are none.'
    )


def _parse_text_points(path: pathlib.Path) -> 'array.array[float]':
  points = array.array('d')
  num_columns = len(_POINT_COLUMNS)
  lines = safe_reading.read_lines(path, _MAX_TEXT_BYTES)
  for place, line in _contents(path, lines, 'points'):
    fields = _split(place, line, _POINT_COLUMNS, num_columns)
    _, x, y, z, *_ = _numbers(place, _POINT_COLUMNS, fields[:num_columns])
    if not _is_position(x, y, z):
      raise _not_a_position(place)
    points.extend((x, y, z))
  return points


def _contents(
  path: pathlib.Path, lines: Iterator[tuple[int, bytes]], what: str
) -> Iterator[tuple[str, bytes]]:
  """Yields place and content of the lines that are no comments, nor empty.

  Raises:
    DataError: if a comment declares more of them than there are.
  """
  declared, found, number = 0, 0, 0
  for number, line in lines:
    content = line.strip()
    if content.startswith(b'#'):
      match = _DECLARED.match(content)
      declared = int(match[1]) if match else declared
    elif content:
      found += 1
      yield f'{path}: line {number}', content
  if found < declared:
    raise errors.DataError(
      f'{path}: line {number}: ends after {found} {what}, but a comment '
      f'declares {declared}: copy the file again, or remove the comment if '
      'some were removed by hand.'
    )


def _split(
  place: str, line: bytes, columns: Sequence[str], max_splits: int
) -> list[bytes]:
  """Splits a line into as many columns or more, which blanks separate."""
  fields = line.split(None, max_splits)
  if len(fields) < len(columns):
    raise errors.DataError(
      f'{place}: has {len(fields)} columns, but must have {", ".join(columns)}.'
    )
  return fields


def _numbers(
  place: str, columns: Sequence[str], fields: Sequence[bytes]
) -> tuple[float, ...]:
  try:
    return tuple(map(float, fields))
  except ValueError:
    for column, field in zip(columns, fields, strict=True):
      _number(place, column, field)
    raise


def _number(place: str, column: str, field: bytes) -> float:
  try:
    return float(field)
  except ValueError as error:
    raise errors.DataError(
      f'{place}: {column} must be a number, got {_quote(field)}.'
    ) from error


def _whole(place: str, column: str, field: bytes) -> int:
  if not field.isdigit() or len(field) > 20:
    raise errors.DataError(
      f'{place}: {column} must be a whole number, got {_quote(field)}.'
    )
  return int(field)


def _decode_name(place: str, name: bytes) -> str:
  try:
    decoded = name.decode('utf-8')
  except UnicodeDecodeError as error:
    raise errors.DataError(
      f'{place}: the name {messages.shorten(name)} is not UTF-8: rename the '
      'image to one that is, and write the model again.'
    ) from error
  if not decoded or '\0' in decoded or len(name) >= _MAX_NAME_BYTES:
    raise errors.DataError(
      f'{place}: {messages.shorten(decoded)} is not the name of an image: '
      'write the model again.'
    )
  return decoded


def _quote(field: bytes) -> str:
  return messages.shorten(field.decode('utf-8', 'replace'))


def _is_position(x: float, y: float, z: float) -> bool:
  """Returns whether all are finite and of a sensible size; False for NaN."""
  return (
    -_LARGEST <= x <= _LARGEST
    and -_LARGEST <= y <= _LARGEST
    and -_LARGEST <= z <= _LARGEST
  )


def _not_a_position(place: str) -> errors.DataError:
  return errors.DataError(
    f'{place}: the point is not finite, or farther from the origin than '
    f'{_LARGEST:g}: remove it, or write the model again.'
  )

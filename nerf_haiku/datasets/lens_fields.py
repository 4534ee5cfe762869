"""Reads the lens of a camera from the fields of a `transforms*.json` file.

Programs write a lens in several ways: as an angle of view (NeRF-synthetic), or
as focal lengths and a principal point in pixels (instant-ngp, nerfstudio); once
for a file, or for each frame.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nerf_haiku import camera_checks, errors, lenses
from nerf_haiku.io import messages

_PERSPECTIVE = ('PERSPECTIVE', *lenses.PERSPECTIVE_MODELS)
_OTHER_LENS = 'such a lens is not read: undistort the images'
# Refused unless 0, false or empty: they change what the pixels show.
_REFUSED = {
  **dict.fromkeys(('k5', 'k6', 's1', 's2', 's3', 's4'), _OTHER_LENS),
  **{f'ftheta_p{i}': _OTHER_LENS for i in range(5)},
  'distortion_params': 'write the coefficients as k1, k2, k3, k4, p1 and p2',
  'equirectangular': 'panoramas are not read: use other images',
  'latlong': 'panoramas are not read: use other images',
  'orthographic': 'orthographic cameras are not read: use other images',
  'rolling_shutter': 'a rolling shutter is not read: use other images',
  'mask_path': "masks are read with dataset_type='transforms' only: use that",
  'from_mitsuba': "Mitsuba's axes are not read: write OpenGL's poses",
  'from_na': 'its axes are not read: write poses with the axes of OpenGL',
}
_ANGLES = {'camera_angle_x': 1.0, 'camera_angle_y': 1.0} | {
  'x_fov': math.pi / 180,
  'y_fov': math.pi / 180,
}
_LENGTHS = ('fl_x', 'fl_y', 'w', 'h')
_POSITIONS = ('cx', 'cy')
FIELDS = (
  'camera_model',
  'is_fisheye',
  *lenses.COEFFICIENTS,
  *_REFUSED,
  *_ANGLES,
  *_LENGTHS,
  *_POSITIONS,
)
# How each axis is given: the first that is there is used, all must agree.
_FOCAL_FIELDS = (
  ('fl_x', 'camera_angle_x', 'x_fov'),
  ('fl_y', 'camera_angle_y', 'y_fov'),
)
_FOCAL_TOLERANCE = 0.01  # Relative, between two fields that give one length.
# Between the ratios of both sides of an image to `w` and `h`, relative; and
# pixels that downscaling may have rounded.
_RATIO_TOLERANCE, _ROUNDED = 0.02, 1.5


class Lens(NamedTuple):
  """The fields of a lens, as a file gives them."""

  field: str  # where it stands, for messages.
  values: Mapping[str, float]  # angles in radians, all else in pixels.
  distortion: tuple[float, ...] = (0.0,) * lenses.NUM_COEFFICIENTS
  fisheye: bool = False

  @property
  def is_distorted(self) -> bool:
    """Returns whether the lens is no pinhole."""
    return self.fisheye or any(self.distortion)

  @property
  def needs_pixel_centers(self) -> bool:
    """Returns whether the file says where the optical axis meets the image.

    Then positions count from the corner of the image, and the center of the
    first pixel is at 0.5. So they do for a distorted lens.
    """
    has_point = any(name in self.values for name in _POSITIONS)
    return has_point or self.is_distorted


def parse(field: str, fields: Mapping[str, Any]) -> Lens:
  """Returns the lens that fields of a file describe.

  Args:
    field: what error messages begin with.
    fields: those of the file, and over them those of a frame; of other names
      too.

  Raises:
    DataError: if a field is invalid, or is of a lens that cannot be used.
  """
  fisheye = _is_fisheye(field, fields)
  _check_is_known(field, fields)
  values = {}
  for name in (*_ANGLES, *_LENGTHS, *_POSITIONS):
    if name in fields:
      values[name] = _parse_number(field, name, fields[name])
  if not has_focal_length(values):
    raise errors.DataError(
      f'{field}: has no camera_angle_x, the horizontal angle of view in '
      'radians, and no fl_x, the focal length in pixels: it must have one.'
    )
  return Lens(field, values, _parse_distortion(field, fields, fisheye), fisheye)


def has_focal_length(fields: Mapping[str, Any]) -> bool:
  """Returns whether fields of a file have a focal length or angle of view."""
  return any(name in fields for axis in _FOCAL_FIELDS for name in axis)


def _is_fisheye(field: str, fields: Mapping[str, Any]) -> bool:
  """Returns whether the lens is a fisheye.

  Raises:
    DataError: if the model is unknown, or two fields contradict each other.
  """
  model, flag = fields.get('camera_model'), fields.get('is_fisheye')
  if model is None:
    return bool(flag)
  name, known = str(model).upper(), _PERSPECTIVE + lenses.FISHEYE_MODELS
  if name not in known:
    raise errors.DataError(
      f'{field}: camera_model={messages.shorten(model)} cannot be used, only '
      f'{", ".join(known)}: undistort the images.'
    )
  fisheye = name in lenses.FISHEYE_MODELS
  if flag is not None and bool(flag) != fisheye:
    raise errors.DataError(
      f'{field}: camera_model={messages.shorten(model)} and is_fisheye='
      f'{messages.shorten(flag)} contradict each other: remove the wrong one.'
    )
  return fisheye


def _parse_distortion(
  field: str, fields: Mapping[str, Any], fisheye: bool
) -> tuple[float, ...]:
  """Returns k1, k2, k3, k4, p1, p2.

  Raises:
    DataError: if one is no number, or is not of such a lens.
  """
  values = [fields.get(name) or 0 for name in lenses.COEFFICIENTS]
  excluded: tuple[str, ...] = ('p1', 'p2') if fisheye else ()
  if str(fields.get('camera_model')).upper() == 'FULL_OPENCV':
    excluded = ('k4',)  # In a denominator there.
  for name, value in zip(lenses.COEFFICIENTS, values, strict=True):
    if not camera_checks.is_finite(value):
      raise errors.DataError(
        f'{field}: {name} must be a number, got {messages.shorten(value)}.'
      )
    if value and name in excluded:
      raise errors.DataError(
        f'{field}: {name}={value:g} cannot be used with camera_model='
        f'{messages.shorten(fields.get("camera_model"))}: undistort the images.'
      )
  return tuple(float(value) for value in values)


def _check_is_known(field: str, fields: Mapping[str, Any]) -> None:
  for name, reason in _REFUSED.items():
    if not _is_neutral(fields.get(name)):
      raise errors.DataError(
        f'{field}: {name}={messages.shorten(fields[name])} cannot be used: '
        f'{reason}.'
      )


def _is_neutral(value: Any) -> bool:
  """Returns whether a value is 0, false or empty, or a list of such."""
  if isinstance(value, list):
    return all(_is_neutral(x) for x in value)
  return not value


def _parse_number(field: str, name: str, value: Any) -> float:
  """Returns a number in the unit of `Lens.values`, within its range."""
  unit = _ANGLES.get(name, 1.0)
  if not camera_checks.is_finite(value):
    allowed, valid = 'a number', False
  elif name in _ANGLES:
    largest = 'pi, in radians' if unit == 1 else '180, in degrees'
    allowed = f'an angle, more than 0 and less than {largest}'
    valid = 0 < value * unit < math.pi
  elif name in _LENGTHS:
    allowed, valid = 'over 0 pixels', value > 0
  else:
    limit = camera_checks.MAX_MAGNITUDE
    allowed, valid = f'at most {limit:g} pixels', abs(value) <= limit
  if not valid:
    raise errors.DataError(
      f'{field}: {name} must be {allowed}, got {messages.shorten(value)}.'
    )
  return float(value * unit)


def sizes(lenses: Sequence[Lens], images: np.ndarray) -> np.ndarray:
  """Returns the sizes of the images that lenses are described for.

  Args:
    lenses: `N` lenses.
    images: `[N, 2]` heights and widths of the images, pixels.

  Returns:
    `[N, 2]` int32, `h` and `w` where a file has them. Where it has one of them,
    the other is in proportion; where it has none, that of the image.
  """
  rows = []
  for lens, (height, width) in zip(lenses, images, strict=True):
    h, w = lens.values.get('h'), lens.values.get('w')
    scale = w / width if w else h / height if h else 1.0
    rows.append((h or scale * height, w or scale * width))
  return np.maximum(np.rint(rows), 1).astype(np.int32)


def intrinsics(
  lenses: Sequence[Lens], sizes: np.ndarray, names: Sequence[str]
) -> np.ndarray:
  """Returns the intrinsics of images of given sizes.

  Focal lengths and principal points are in pixels of an image of `w` x `h`, or
  of the image itself; angles of view span its sides. A principal point that is
  not given is the center.

  Args:
    lenses: `N` lenses.
    sizes: `[N, 2]` heights and widths of the images, pixels.
    names: of the images, for messages.

  Returns:
    `[N, 4]` float64: fx, fy, cx, cy in pixels of the images.

  Raises:
    DataError: if fields of a lens disagree, or it is of an image of another
      shape.
  """
  rows = [
    _intrinsics_of(lens, int(height), int(width), name)
    for lens, (height, width), name in zip(lenses, sizes, names, strict=True)
  ]
  return np.array(rows, np.float64)


def _intrinsics_of(
  lens: Lens, height: int, width: int, name: str
) -> tuple[float, float, float, float]:
  x_scale, y_scale = _scales(lens, height, width, name)
  fx = _focal_length(lens, 0, width, x_scale)
  fy = _focal_length(lens, 1, height, y_scale)
  cx, cy = lens.values.get('cx'), lens.values.get('cy')
  return (
    fx or fy or 0.0,  # One of them is given.
    fy or fx or 0.0,
    width / 2 if cx is None else cx * x_scale,
    height / 2 if cy is None else cy * y_scale,
  )


def _scales(
  lens: Lens, height: int, width: int, name: str
) -> tuple[float, float]:
  """Returns the pixels of the image per pixel of the fields, along x and y."""
  values = lens.values
  x = width / values['w'] if 'w' in values else None
  y = height / values['h'] if 'h' in values else None
  if x and y:
    tolerance = _RATIO_TOLERANCE + _ROUNDED / min(height, width)
    if abs(x / y - 1) > tolerance:
      raise errors.DataError(
        f'{lens.field}: w={values["w"]:g} and h={values["h"]:g} are those of '
        f'an image of another shape: {name} is {width}x{height} pixels. Was it '
        'cropped or turned? Write the fields of this image.'
      )
  return x or y or 1.0, y or x or 1.0


def _focal_length(
  lens: Lens, axis: int, side: int, scale: float
) -> float | None:
  """Returns a focal length in pixels of the image; None if none is given."""
  lengths = {
    name: _to_focal(name, lens.values[name], side, scale)
    for name in _FOCAL_FIELDS[axis]
    if name in lens.values
  }
  if not lengths:
    return None
  first, *others = lengths
  camera_checks.check_focal_lengths(
    f'{lens.field}: {first}={lens.values[first]:g}', np.array([lengths[first]])
  )
  for name in others:
    if abs(lengths[name] / lengths[first] - 1) > _FOCAL_TOLERANCE:
      raise errors.DataError(
        f'{lens.field}: {first}={lens.values[first]:g} and {name}='
        f'{lens.values[name]:g} disagree: the focal length of an image of '
        f'{side} pixels is {lengths[first]:g} by the one and '
        f'{lengths[name]:g} by the other. Remove the wrong one.'
      )
  return lengths[first]


def _to_focal(name: str, value: float, side: int, scale: float) -> float:
  if name in _ANGLES:
    return 0.5 * side / math.tan(0.5 * value)
  return value * scale

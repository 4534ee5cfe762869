"""Checks of the settings that readers share."""

from collections.abc import Sequence

import numpy as np

from nerf_haiku import camera_checks, errors

Box = Sequence[Sequence[float]] | np.ndarray | None


def check_settings(
  *,
  near: float | None,
  far: float | None,
  testskip: int = 1,
  down_factor: int = 1,
  num_poses: int = 1,
  num_train: int = 1,
  hold: int = 0,
  holdout: int = 2,
) -> None:
  """Checks the settings of a reader; near and far may be None.

  Raises:
    UserError: names the setting, its value and what is allowed.
  """
  for name, value, minimum in (
    ('testskip', testskip, 0),
    ('down_factor', down_factor, 1),
    ('num_poses', num_poses, 1),
    ('num_train', num_train, 1),
    ('hold', hold, 0),
    ('holdout', holdout, 2),
  ):
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if not is_int or value < minimum:
      raise errors.UserError(
        f'{name} must be an integer, at least {minimum}, got {value!r}.'
      )
  if num_poses > camera_checks.MAX_POSES:
    raise errors.UserError(
      f'num_poses must be at most {camera_checks.MAX_POSES}, got {num_poses}.'
    )
  for name, bound in (('near', near), ('far', far)):
    if bound is not None and not (camera_checks.is_finite(bound) and bound > 0):
      raise errors.UserError(f'{name} must be a number over 0, got {bound!r}.')
  if near is not None and far is not None:
    check_bounds(near, far)


def check_bounds(near: float, far: float) -> None:
  """Checks where rays begin and end, in scene units.

  Raises:
    UserError: unless 0 < near < far, both within `MAX_MAGNITUDE`.
  """
  finite = camera_checks.is_finite(near) and camera_checks.is_finite(far)
  if not (finite and 0 < near < far):
    raise errors.UserError(
      f'near and far must be 0 < near < far, got near={near!r}, far={far!r}.'
    )
  largest = camera_checks.MAX_MAGNITUDE
  if far > largest or near < 1 / largest:
    raise errors.UserError(
      f'near and far must be {1 / largest:g} to {largest:g} scene units, got '
      f'near={near!r}, far={far!r}: set near and far.'
    )


def parse_box(corners: Box) -> np.ndarray | None:
  """Returns the corners of a box as `[2, 3]` float32, or None for None.

  Raises:
    UserError: if they are not two corners, the lower one first.
  """
  if corners is None:
    return None
  box = camera_checks.parse_matrix(np.asarray(corners, object).tolist())
  if box is None or box.shape != (2, 3):
    raise errors.UserError(
      f'box must be two corners of three numbers, got {corners!r}.'
    )
  box = box.astype(np.float32)
  if not np.all(box[0] < box[1]):
    raise errors.UserError(
      'box must have its lower corner first, each number less than that of '
      f'the upper corner, got {corners!r}.'
    )
  return box

import math
import re

import numpy as np
from absl.testing import absltest, parameterized

from nerf_haiku import errors
from nerf_haiku.datasets import checks


class SettingsTest(parameterized.TestCase):
  def assert_refused(self, message, **settings):
    with self.assertRaisesRegex(errors.UserError, f'^{re.escape(message)}$'):
      checks.check_settings(**{'near': None, 'far': None, **settings})

  def test_accepts_smallest_values(self):
    settings = {'testskip': 0, 'down_factor': 1, 'num_poses': 1, 'hold': 0}
    for near, far in ((None, None), (1e-9, None), (None, 3), (2, 2.5)):
      self.assertIsNone(checks.check_settings(near=near, far=far, **settings))

  @parameterized.product(
    setting=[
      ('testskip', 0),
      ('down_factor', 1),
      ('num_poses', 1),
      ('hold', 0),
    ],
    value=['below', 1.0, True, None, '2', math.nan],
  )
  def test_refuses_numbers_that_are_no_integers_or_too_small(
    self, setting, value
  ):
    name, minimum = setting
    value = minimum - 1 if value == 'below' else value
    message = f'{name} must be an integer, at least {minimum}, got {value!r}.'
    self.assert_refused(message, **{name: value})

  @parameterized.product(
    name=['near', 'far'],
    value=[0, -1.0, math.nan, math.inf, 10**400, '2', True, [2.0]],
  )
  def test_refuses_bounds_that_are_no_positive_numbers(self, name, value):
    message = f'{name} must be a number over 0, got {value!r}.'
    self.assert_refused(message, **{name: value})

  @parameterized.parameters((2.0, 2.0), (6, 2.5))
  def test_refuses_near_beyond_far(self, near, far):
    message = f'near and far must be 0 < near < far, got {near=}, {far=}.'
    self.assert_refused(message, near=near, far=far)


class BoundsTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.0, 1.0),
    (-1.0, 1.0),
    (2.0, 2.0),
    (3, 2),
    (math.nan, 2.0),
    (1.0, math.nan),
    (1.0, math.inf),
    ('1', 2.0),
    (1.0, None),
    (True, 2.0),
  )
  def test_refuses_invalid_bounds(self, near, far):
    message = f'near and far must be 0 < near < far, got {near=}, {far=}.'
    with self.assertRaisesRegex(errors.UserError, f'^{re.escape(message)}$'):
      checks.check_bounds(near, far)

  @parameterized.parameters((1e-10, 1.0), (1.0, 1e10))
  def test_refuses_extreme_bounds(self, near, far):
    with self.assertRaisesRegex(errors.UserError, 'must be 1e-09 to 1e.09'):
      checks.check_bounds(near, far)

  def test_accepts_the_widest_bounds(self):
    self.assertIsNone(checks.check_bounds(1e-9, 1e9))


class BoxTest(parameterized.TestCase):
  @parameterized.parameters(list, tuple, np.array, np.float32)
  def test_accepts_sequences_and_arrays(self, kind):
    corners = checks.parse_box(kind([kind([-1, -2, -3]), kind([1, 0.5, 3])]))
    expected = np.array([[-1, -2, -3], [1, 0.5, 3]], np.float32)
    np.testing.assert_array_equal(corners, expected, strict=True)

  def test_none_stays_none(self):
    self.assertIsNone(checks.parse_box(None))

  @parameterized.parameters(
    [[]],
    [[[0, 0, 0]]],
    [[[0, 0], [1, 1]]],
    [[[0] * 3, [1] * 3, [2] * 3]],
    [[0, 0, 0, 1, 1, 1]],
    [[[0, 0, 0], [1, 1]]],
    [[[0, 0, 0], [1, 1, '1']]],
    [[[0, 0, 0], [1, 1, math.inf]]],
    [[[0, 0, 0], [1, 1, True]]],
    [3],
    ['box'],
  )
  def test_refuses_what_is_not_two_corners(self, corners):
    message = f'box must be two corners of three numbers, got {corners!r}.'
    with self.assertRaisesRegex(errors.UserError, f'^{re.escape(message)}$'):
      checks.parse_box(corners)

  @parameterized.parameters(0, 1, 2)
  def test_refuses_corners_in_the_wrong_order(self, axis):
    for upper in (-1, 0):
      corners = [[0, 0, 0], [1, 1, 1]]
      corners[1][axis] = upper
      message = f'^box .* lower corner first.*{re.escape(str(corners))}'
      with self.assertRaisesRegex(errors.UserError, message):
        checks.parse_box(corners)


if __name__ == '__main__':
  absltest.main()

import math
import re

import numpy as np
from absl.testing import absltest, parameterized

from nerf_haiku import camera_checks, errors


class ParseMatrixTest(parameterized.TestCase):
  def test_returns_numbers_in_float64(self):
    matrix = camera_checks.parse_matrix([[1, 2.5], [-3, 4]])
    expected = np.array([[1, 2.5], [-3, 4]])
    np.testing.assert_array_equal(matrix, expected, strict=True)

  @parameterized.parameters(
    None, 7, ((),), ([[1], [1, 2]],), ([1, 2],), ([[True]],), ([[math.nan]],)
  )
  def test_none_for_anything_else(self, value):
    self.assertIsNone(camera_checks.parse_matrix(value))


class ParsePoseTest(absltest.TestCase):
  def test_refuses_extreme_positions(self):
    pose = np.eye(4)
    pose[0, 3] = 1e9
    self.assertEqual(camera_checks.parse_pose('x', pose.tolist()).shape, (4, 4))
    pose[0, 3] = 2e9
    with self.assertRaisesRegex(errors.DataError, 'x is 2e.09 from the origin'):
      camera_checks.parse_pose('x', pose.tolist())


class CheckFocalLengthsTest(absltest.TestCase):
  def test_names_the_length_that_is_out_of_range(self):
    camera_checks.check_focal_lengths('x', np.array([1e-3, 1e9]))
    for length in (1e-4, 1e10, math.nan):
      message = re.escape(f'x: is a focal length of {length:g} pixels')
      with self.assertRaisesRegex(errors.DataError, message):
        camera_checks.check_focal_lengths('x', np.array([2.0, length]))


if __name__ == '__main__':
  absltest.main()

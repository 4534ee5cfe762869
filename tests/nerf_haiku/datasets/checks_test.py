import math
import os
import pathlib
import re
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from nerf_haiku import errors
from nerf_haiku.datasets import checks, image_files


class SettingsTest(parameterized.TestCase):
  def assert_refused(self, message, **settings):
    with self.assertRaisesRegex(ValueError, f'^{re.escape(message)}$'):
      checks.settings(**{'near': None, 'far': None, **settings})

  def test_what_is_allowed(self):
    least = {'testskip': 0, 'down_factor': 1, 'num_poses': 1, 'hold': 0}
    for near, far in ((None, None), (1e-9, None), (None, 3), (2, 2.5)):
      self.assertIsNone(checks.settings(near=near, far=far, **least))

  @parameterized.product(
    setting=[
      ('testskip', 0),
      ('down_factor', 1),
      ('num_poses', 1),
      ('hold', 0),
    ],
    value=['least', 1.0, True, None, '2', math.nan],
  )
  def test_whole_numbers(self, setting, value):
    name, least = setting
    value = least - 1 if value == 'least' else value
    message = f'{name} must be a whole number, {least} or more, got {value!r}.'
    self.assert_refused(message, **{name: value})

  @parameterized.product(
    name=['near', 'far'],
    value=[0, -1.0, math.nan, math.inf, 10**400, '2', True, [2.0]],
  )
  def test_bounds(self, name, value):
    message = f'{name} must be a number over 0, got {value!r}.'
    self.assert_refused(message, **{name: value})

  @parameterized.parameters((2.0, 2.0), (6, 2.5))
  def test_order_of_bounds(self, near, far):
    message = f'near and far must be 0 < near < far, got {near=}, {far=}.'
    self.assert_refused(message, near=near, far=far)


class ScenesTest(parameterized.TestCase):
  def test_names_what_can_be_seen(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    for i in range(23):
      (folder / f'{i:02}').mkdir()

    def is_scene(path):
      if path.name == '01':
        raise PermissionError(13, 'Permission denied', str(path))
      return path.name != '02'

    text = checks.scenes_in([folder, folder / 'gone'], is_scene)
    self.assertStartsWith(text, '00, 03, 04')
    self.assertEndsWith(text, ', 21 and 1 more')
    self.assertEqual(checks.scenes_in([folder], lambda _: False), 'none')


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
  def test_refused(self, near, far):
    message = f'near and far must be 0 < near < far, got {near=}, {far=}.'
    with self.assertRaisesRegex(ValueError, f'^{re.escape(message)}$'):
      checks.bounds(near, far)

  def test_allowed(self):
    self.assertIsNone(checks.bounds(1e-9, 1e9))


class BoxTest(parameterized.TestCase):
  @parameterized.parameters(list, tuple, np.array, np.float32)
  def test_kinds(self, kind):
    corners = checks.box(kind([kind([-1, -2, -3]), kind([1, 0.5, 3])]))
    expected = np.array([[-1, -2, -3], [1, 0.5, 3]], np.float32)
    np.testing.assert_array_equal(corners, expected, strict=True)

  def test_none(self):
    self.assertIsNone(checks.box(None))

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
  def test_no_corners(self, corners):
    message = f'box must be two corners of three numbers, got {corners!r}.'
    with self.assertRaisesRegex(ValueError, f'^{re.escape(message)}$'):
      checks.box(corners)

  @parameterized.parameters(0, 1, 2)
  def test_lower_corner_first(self, axis):
    for upper in (-1, 0):
      corners = [[0, 0, 0], [1, 1, 1]]
      corners[1][axis] = upper
      message = f'^box .* lower corner first.*{re.escape(str(corners))}'
      with self.assertRaisesRegex(ValueError, message):
        checks.box(corners)


class FoldersTest(parameterized.TestCase):
  def test_home(self):
    home = self.create_tempdir().full_path
    (pathlib.Path(home) / 'data').mkdir()
    with mock.patch.dict(os.environ, {'HOME': home}):
      folder = checks.existing_folder('~/data')
    self.assertEqual(str(folder), f'{home}/data')

  @parameterized.parameters('~no user of that name/data', 'a\0b', 'x' * 300)
  def test_no_folder(self, name):
    message = re.escape(f'data_dir={checks.short(name)} is not a folder.')
    with self.assertRaisesRegex(errors.DataError, message):
      checks.existing_folder(name)


class OneSizeTest(parameterized.TestCase):
  def files(self, *sizes):
    return image_files.Files(
      tuple(pathlib.Path(f'{height}x{width}.png') for height, width in sizes),
      tuple(image_files.Header(*size, 3, ()) for size in sizes),
      1,
    )

  def test_one(self):
    splits = [self.files((4, 6), (4, 6)), self.files(), self.files()]
    self.assertIsNone(checks.one_size(splits))

  def test_names_one_that_differs_from_most(self):
    splits = self.files((2, 3)), self.files((4, 6), (4, 6)), self.files((4, 6))
    with self.assertRaisesRegex(
      errors.DataError, '^2x3.png: is 3x2 pixels, most images are 6x4: all '
    ):
      checks.one_size(splits)


class ShortTest(parameterized.TestCase):
  @parameterized.parameters(
    (None, 'nothing'), ('é', "'é'"), (list(range(99)), '[0, 1, 2, 3')
  )
  def test_fits_a_message(self, value, start):
    text = checks.short(value)
    self.assertStartsWith(text, start)
    self.assertLessEqual(len(text), 100)


if __name__ == '__main__':
  absltest.main()

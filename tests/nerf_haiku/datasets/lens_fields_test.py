import math

import chex
import numpy as np
from absl.testing import absltest, parameterized

from nerf_haiku import errors
from nerf_haiku.datasets import lens_fields

_HALF = 2 * math.atan(0.5)  # The focal length is the side.


def _intrinsics(fields, size=(40, 60)):
  lens = lens_fields.parse('x.json', fields)
  return lens_fields.intrinsics([lens], np.array([size]), ['r_0'])[0]


class IntrinsicsTest(chex.TestCase):
  @parameterized.named_parameters(
    ('angle', {'camera_angle_x': _HALF}, [60, 60, 30, 20]),
    (
      'both_angles',
      {'camera_angle_x': _HALF, 'camera_angle_y': _HALF},
      [60, 40, 30, 20],
    ),
    ('angle_y', {'camera_angle_y': _HALF}, [40, 40, 30, 20]),
    ('degrees', {'x_fov': 90, 'y_fov': 90}, [30, 20, 30, 20]),
    ('length', {'fl_x': 50}, [50, 50, 30, 20]),
    ('length_y', {'fl_y': 50}, [50, 50, 30, 20]),
    ('lengths', {'fl_x': 50, 'fl_y': 70}, [50, 70, 30, 20]),
    ('principal_point', {'fl_x': 50, 'cx': 0, 'cy': 23.5}, [50, 50, 0, 23.5]),
    (
      'of_larger_images',
      {'fl_x': 50, 'fl_y': 70, 'cx': 66, 'cy': 44, 'w': 120, 'h': 80},
      [25, 35, 33, 22],
    ),
    ('width_alone', {'fl_x': 50, 'cy': 44, 'w': 120}, [25, 25, 30, 22]),
    ('height_alone', {'fl_x': 50, 'cx': 44, 'h': 80}, [25, 25, 22, 20]),
    (
      'an_angle_spans_any_width',
      {'camera_angle_x': _HALF, 'w': 120, 'h': 80},
      [60, 60, 30, 20],
    ),
    (
      'as_instant_ngp_writes_them',
      {
        'camera_angle_x': 2 * math.atan(60 / 50),
        'camera_angle_y': 2 * math.atan(40 / 70),
        **{'fl_x': 50, 'fl_y': 70, 'cx': 61, 'cy': 39, 'w': 120, 'h': 80},
        **dict.fromkeys(('k1', 'k2', 'p1', 'p2', 'k3', 'k4'), 0.0),
        'camera_model': 'OPENCV',
        'is_fisheye': False,
        'rolling_shutter': [0.0, 0.0, 0.0, 0.0],
      },
      [25, 35, 30.5, 19.5],
    ),
  )
  def test_closed_forms(self, fields, expected):
    np.testing.assert_allclose(_intrinsics(fields), expected, rtol=1e-12)

  def test_rounded_sizes_scale_each_axis(self):
    # An image of 101x67, halved by a program that rounds down.
    fields = {'fl_x': 100.0, 'w': 101, 'h': 67}
    np.testing.assert_allclose(
      _intrinsics(fields, (33, 50)), [100 * 50 / 101, 100 * 50 / 101, 25, 16.5]
    )

  def test_each_frame_has_its_lens(self):
    lenses = [lens_fields.parse('x', {'fl_x': x}) for x in (3.0, 5.0)]
    found = lens_fields.intrinsics(lenses, np.array([[2, 4], [6, 8]]), 'ab')
    np.testing.assert_allclose(found, [[3, 3, 2, 1], [5, 5, 4, 3]])

  @parameterized.parameters(
    ({'fl_x': 1.0}, False),
    ({'fl_x': 1.0, 'k1': 0}, False),
    ({'fl_x': 1.0, 'cx': 2.0}, True),
    ({'fl_x': 1.0, 'cy': 2.0}, True),
    ({'fl_x': 1.0, 'k1': 0.1}, True),
    ({'fl_x': 1.0, 'is_fisheye': True}, True),
  )
  def test_knows_whether_pixels_have_centers(self, fields, expected):
    lens = lens_fields.parse('x', fields)
    self.assertEqual(lens.needs_pixel_centers, expected)

  @parameterized.parameters(
    ({}, [0, 0, 0, 0, 0, 0], False),
    ({'k1': 1, 'p2': 0.5, 'k3': 0.25}, [1, 0, 0.25, 0, 0, 0.5], False),
    (
      {'camera_model': 'OPENCV', 'is_fisheye': False, 'k4': 2, 'p1': 3},
      [0, 0, 0, 2, 3, 0],
      False,
    ),
    ({'is_fisheye': True, 'k2': 1}, [0, 1, 0, 0, 0, 0], True),
    (
      {'camera_model': 'OPENCV_FISHEYE', 'k4': 1, 'p1': 0},
      [0, 0, 0, 1, 0, 0],
      True,
    ),
    ({'camera_model': 'FULL_OPENCV', 'k3': 1}, [0, 0, 1, 0, 0, 0], False),
  )
  def test_distortion(self, fields, expected, fisheye):
    lens = lens_fields.parse('x', {'fl_x': 50.0, **fields})
    self.assertEqual((list(lens.distortion), lens.fisheye), (expected, fisheye))

  @parameterized.parameters(
    'PINHOLE', 'SIMPLE_PINHOLE', 'OPENCV', 'pinhole', 'SIMPLE_RADIAL'
  )
  def test_accepts_pinholes(self, model):
    fields = {'fl_x': 50.0, 'camera_model': model, 'k1': 0, 'mask_path': None}
    np.testing.assert_allclose(_intrinsics(fields), [50, 50, 30, 20])


class ErrorsTest(chex.TestCase):
  def assert_refused(self, message, fields, size=(40, 60)):
    with self.assertRaisesRegex(errors.DataError, rf'^x\.json: {message}'):
      _intrinsics({'fl_x': 50.0, **fields}, size)

  @parameterized.parameters(
    *({name: 0.1} for name in ('k5', 'k6', 's1', 's4')),
    {'k6': -1e-9},
    {'k5': '0'},
    {'distortion_params': [0, 0.1]},
    {'camera_model': 'THIN_PRISM_FISHEYE'},
    {'camera_model': 'EQUIRECTANGULAR'},
    {'camera_model': 3},
    {'mask_path': 'mask.png'},
    {'rolling_shutter': [0, 0, 0, 0.1]},
    {'from_mitsuba': True},
    {'ftheta_p0': 1.0},
    {'latlong': True},
  )
  def test_refuses_what_changes_the_pixels(self, **fields):
    (name,) = fields
    self.assert_refused(f'{name}=.* cannot be used', fields)

  @parameterized.parameters(
    ({'fl_y': 0}, 'fl_y must be over 0 pixels, got 0'),
    ({'w': -3}, 'w must be over 0'),
    ({'cx': math.nan}, 'cx must be a number, got nan'),
    ({'cx': '3'}, "cx must be a number, got '3'"),
    ({'cy': 1e10}, 'cy must be at most'),
    ({'h': True}, 'h must be a number'),
    ({'camera_angle_y': 3.2}, 'camera_angle_y must be .*less than pi.*3.2'),
    ({'x_fov': 180}, 'x_fov must be .*less than 180.*180'),
    ({'fl_y': 1e-9}, 'fl_y=1e-09: is a focal length of'),
    ({'k1': '1'}, "k1 must be a number, got '1'"),
    ({'p2': math.inf}, 'p2 must be a number'),
    ({'is_fisheye': True, 'p1': 0.1}, 'p1=0.1 cannot be used'),
    ({'camera_model': 'FULL_OPENCV', 'k4': 0.1}, 'k4=0.1 cannot be used'),
    (
      {'camera_model': 'OPENCV', 'is_fisheye': True},
      'camera_model=.* contradict each other',
    ),
    (
      {'camera_model': 'OPENCV_FISHEYE', 'is_fisheye': False},
      'camera_model=.* contradict each other',
    ),
  )
  def test_refuses_values(self, fields, message):
    self.assert_refused(message, fields)

  def test_refuses_a_file_without_a_focal_length(self):
    with self.assertRaisesRegex(errors.DataError, 'camera_angle_x.* fl_x'):
      lens_fields.parse('x', {'cx': 3.0, 'w': 3})

  @parameterized.parameters(
    ({'w': 60, 'h': 60},),  # Cropped.
    ({'w': 40, 'h': 60},),  # Turned.
  )
  def test_refuses_an_image_of_another_shape(self, fields):
    self.assert_refused('w=.* and h=.*r_0 is 60x40 pixels', fields)

  def test_refuses_fields_that_disagree(self):
    angle = 2 * math.atan(30 / 50)
    self.assert_refused(
      'fl_x=50 and camera_angle_x=.* disagree', {'camera_angle_x': 1.1 * angle}
    )
    self.assert_refused(
      'fl_y=50 and y_fov=.* disagree', {'fl_y': 50, 'y_fov': 30}
    )
    fields = {'fl_x': 50.0, 'camera_angle_x': 1.001 * angle}  # Rounded.
    np.testing.assert_allclose(_intrinsics(fields)[0], 50)


if __name__ == '__main__':
  absltest.main()

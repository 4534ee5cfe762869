import json
import math
import pathlib

import numpy as np
from absl.testing import absltest, parameterized

from nerf_haiku import camera_files, cameras, errors

# A quarter turn about x, and no two numbers alike in the last column.
_ROWS = [[1, 0, 0, 0.5], [0, 0, -1.0, -2], [0, 1, 0, 3e2]]
_CAMERA = {
  'camera_to_world': _ROWS,
  'intrinsics': [9, 8.5, 3, 2],
  'size': [4, 6],
}


def _cameras():
  """Cameras whose numbers use all the digits of float32."""
  rng = np.random.default_rng(0)
  rotations = np.linalg.qr(rng.normal(size=(3, 3, 3)))[0]
  rotations *= np.linalg.det(rotations)[:, None, None]
  places = np.geomspace(1e-30, 1e9, 9).reshape(3, 3, 1)
  return cameras.Cameras(
    np.concatenate([rotations, places], axis=-1).astype(np.float32),
    rng.uniform(0.1, 9000, (3, 4)).astype(np.float32),
    np.array([[480, 640], [1, 16384], [33, 17]], np.int32),
  )


def _in_float64(cams):
  pose = np.asarray(cams.camera_to_world, np.float64)
  return cams._replace(camera_to_world=pose)


class CameraFilesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.path = self.folder / 'some.json'

  def write(self, *listed):
    self.path.write_text(json.dumps({'cameras': listed}))

  def assert_refused(self, message):
    with self.assertRaisesRegex(errors.DataError, rf'some\.json: {message}'):
      camera_files.read(self.path)

  @parameterized.parameters(str, pathlib.Path)
  def test_written_cameras_are_read_back(self, kind):
    camera_files.write(kind(self.path), _cameras())
    read = camera_files.read(kind(self.path))
    for x, y in zip(read, _in_float64(_cameras()), strict=True):
      np.testing.assert_array_equal(x, y, strict=True)
    self.assertEqual([*self.folder.iterdir()], [self.path])

  def test_large_positions_keep_their_digits(self):
    pose = np.eye(3, 4)[None]
    pose[0, :, 3] = 5e6 + 0.01, 4e5 + 0.02, 0.03
    cams = _cameras()
    one = cameras.take(cams, [0])._replace(camera_to_world=pose)
    camera_files.write(self.path, one)
    read = camera_files.read(self.path).camera_to_world
    np.testing.assert_array_equal(read, pose)

  def test_lenses_are_read_back(self):
    cams = cameras.pinhole(np.eye(4)[None, :3], [[40, 60]], [50.0])
    distorted = cams._replace(
      distortion=np.float32([[0.1, 0, 0, 0, 0.01, 0]]),
      fisheye=np.array([False]),
    )
    camera_files.write(self.path, distorted)
    read = camera_files.read(self.path)
    for x, y in zip(read, _in_float64(distorted), strict=True):
      np.testing.assert_array_equal(x, y, strict=True)
    self.write(
      {**_CAMERA, 'fisheye': True}, {**_CAMERA, 'distortion': [0.1] + 5 * [0]}
    )
    read = camera_files.read(self.path)
    np.testing.assert_array_equal(read.fisheye, [True, False])
    np.testing.assert_allclose(read.distortion[:, 0], [0, 0.1])

  @parameterized.parameters(
    ({'distortion': [1, 2]}, r'cameras\[0\]\.distortion must be k1, k2'),
    ({'distortion': None}, r'cameras\[0\]\.distortion must be'),
    ({'fisheye': 1}, r'cameras\[0\]\.fisheye must be true or false'),
    ({'distortion': [-9, 0, 0, 0, 0, 0]}, r'.*cameras\[0\]'),
  )
  def test_refuses_lenses(self, fields, message):
    self.write({**_CAMERA, **fields})
    self.assert_refused(message)

  def test_file_has_the_documented_fields(self):
    camera_files.write(self.path, _cameras())
    content = json.loads(self.path.read_text())
    self.assertEqual([*content], ['cameras'])
    for i, camera in enumerate(content['cameras']):
      self.assertSameElements(camera, _CAMERA)
      self.assertEqual(camera['size'], _cameras().sizes[i].tolist())
      np.testing.assert_array_equal(
        np.float32(camera['intrinsics']), _cameras().intrinsics[i]
      )
      np.testing.assert_array_equal(
        np.float32(camera['camera_to_world']), _cameras().camera_to_world[i]
      )

  @parameterized.parameters(('utf-8', 3), ('utf-8', 4), ('utf-8-sig', 4))
  def test_reads_a_file_written_by_hand(self, encoding, num_rows):
    rows = [*_ROWS, [0, 0, 0, 1]][:num_rows]
    text = f"""{{
      "cameras": [
        {{"size": [4, 6], "intrinsics": [9, 8.5, 3, 2],
         "camera_to_world": {rows}}},
        {{"size": [2, 3], "intrinsics": [1, 1, -1, 0],
         "camera_to_world": {rows}}}
      ]
    }}"""
    self.path.write_text(text, encoding)
    read = camera_files.read(self.path)
    np.testing.assert_array_equal(read.camera_to_world, np.float32(2 * [_ROWS]))
    np.testing.assert_array_equal(
      read.intrinsics, [[9, 8.5, 3, 2], [1, 1, -1, 0]]
    )
    np.testing.assert_array_equal(read.sizes, [[4, 6], [2, 3]])

  def test_refuses_to_write_to_a_missing_folder(self):
    with self.assertRaises(OSError):
      camera_files.write(self.folder / 'gone' / 'x.json', _cameras())

  def test_refuses_a_missing_file(self):
    self.assert_refused('no such file')
    with self.assertRaisesRegex(errors.DataError, 'x.json: no such fi'):
      camera_files.read('~no such user/x.json')

  @parameterized.named_parameters(
    ('json', '{\n"cameras": [,]}', 'line 2 is not JSON'),
    ('empty', '', 'line 1 is not JSON'),
    ('deep', '[' * 100_000, 'cannot be read'),
    ('digits', f'{{"cameras": [{"1" * 5000}]}}', 'cannot be read'),
    ('list', '[]', 'must hold {"cameras"'),
    ('no_cameras', '{"camera": []}', 'must hold {"cameras"'),
    ('none', '{"cameras": []}', 'must hold .* one or more'),
    ('object', '{"cameras": {}}', 'must hold {"cameras"'),
  )
  def test_refuses_invalid_text(self, text, message):
    self.path.write_text(text)
    self.assert_refused(message)

  def test_refuses_bytes_that_are_not_text(self):
    self.path.write_bytes(b'{"cameras": "\xff"}')
    self.assert_refused('cannot be read')

  @parameterized.named_parameters(
    ('list', [1], r'\[1\]'),
    ('none', None, 'nothing'),
    ('more', {**_CAMERA, 'fov': 3}, 'camera_to_world, intrinsics, size, fov'),
    ('no_pose', {'intrinsics': 0, 'size': 0}, 'intrinsics, size'),
    ('no_lens', {'camera_to_world': _ROWS, 'size': 0}, 'camera_to_world, size'),
    ('no_size', {'intrinsics': 0, 'camera_to_world': 0}, '.*nsics.*_to_world'),
    ('empty', {}, '.*'),
  )
  def test_refuses_missing_or_unknown_fields(self, camera, message):
    self.write(_CAMERA, camera)
    self.assert_refused(
      r'cameras\[1\] must be an object of camera_to_world, intrinsics, size, '
      rf'got {message}\.$'
    )

  @parameterized.named_parameters(
    ('none', None, 'got nothing'),
    ('flat', [1.0] * 12, '4 rows'),
    ('two_rows', _ROWS[:2], '4 rows'),
    ('rotation', [[1, 0, 0]] * 3, '4 rows'),
    ('text', [['1'] * 4] * 4, '4 rows'),
    ('bool', [[True] * 4] * 3, '4 rows'),
    ('nan', [[math.nan] * 4] * 3, 'finite'),
    ('huge', [[1e39] * 4] * 3, 'finite'),
    ('scaled', np.diag([1, 1.1, 1, 1]).tolist(), 'differs.* 0.21'),
    ('mirrored', np.diag([1, 1, -1, 1]).tolist(), 'mirrors'),
    ('last_row', np.diag([1, 1, 1, 0]).tolist(), 'last row'),
  )
  def test_refuses_an_invalid_pose(self, value, message):
    self.write(_CAMERA, _CAMERA, {**_CAMERA, 'camera_to_world': value})
    self.assert_refused(rf'cameras\[2\]\.camera_to_world .*{message}')

  @parameterized.parameters(
    [[9, 8, 3]],
    [[9, 8, 3, 2, 1]],
    [[-9, 8, 3, 2]],
    [[9, 0, 3, 2]],
    [[9, '8', 3, 2]],
    [[9, 8, True, 2]],
    [[9, 8, 3, math.nan]],
    [[9, math.inf, 3, 2]],
    [[9, 8, 1e39, 2]],
    [[[9, 8, 3, 2]]],
    [[]],
    [None],
    ['9 8 3 2'],
    [{}],
    [7],
  )
  def test_refuses_invalid_intrinsics(self, value):
    self.write({**_CAMERA, 'intrinsics': value}, _CAMERA)
    self.assert_refused(r'cameras\[0\]\.intrinsics must be fx, fy, cx, cy')

  @parameterized.parameters(
    [[4.0, 6]],
    [[0, 6]],
    [[4, -6]],
    [[4, 16385]],
    [[10**400, 6]],
    [[True, 6]],
    [['4', 6]],
    [[4]],
    [[4, 6, 3]],
    [None],
    [{}],
    [24],
    ['46'],
  )
  def test_refuses_an_invalid_size(self, value):
    self.write({**_CAMERA, 'size': value})
    self.assert_refused(r'cameras\[0\]\.size must be height and width, 1 to 16')

  @parameterized.parameters([[1e20, 1, 0, 0]], [[1, 1, 1e20, 0]])
  def test_refuses_extreme_intrinsics(self, value):
    self.write({**_CAMERA, 'intrinsics': value})
    self.assert_refused(r'cameras\[0\].intrinsics')


if __name__ == '__main__':
  absltest.main()
